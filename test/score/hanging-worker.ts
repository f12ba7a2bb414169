/**
 * A test's ingest worker. A record is `{"id", "does"}`: `hang` never ends and blocks its process, `wait`
 * never ends, `hang once` blocks until the file `id` exists, which it makes first.
 */
import { existsSync, writeFileSync } from 'node:fs'
import type {
  Ingested,
  IngestJob,
  IngestWorkerData,
} from '../../src/score/workers/ingest-worker.ts'
import { runWorkerLoop } from '../../src/score/workers/loop.ts'

await runWorkerLoop<IngestWorkerData, IngestJob, Ingested[]>(async () => async ({ records }) => {
  const one = async ({ value }: IngestJob['records'][number]): Promise<Ingested> => {
    const { id, does } = JSON.parse(Buffer.from(value).toString())
    if (does === 'wait') await new Promise(() => {})
    if (does === 'hang once' && !existsSync(id)) {
      writeFileSync(id, '')
      for (;;);
    }
    if (does === 'hang') for (;;);
    return { kind: 'key', key: id }
  }
  return { result: await Promise.all(records.map(one)) }
})
