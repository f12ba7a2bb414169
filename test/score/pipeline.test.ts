import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import { loadConfig } from '../../src/config.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import {
  describeScores,
  type Identifier,
  imageSource,
  preparerOptions,
  startIdentifying,
} from '../../src/score/pipeline.ts'
import type {
  Ingested,
  IngestJob,
  IngestWorkerData,
} from '../../src/score/workers/ingest-worker.ts'
import { Pool } from '../../src/score/workers/pool.ts'
import { saveCheckpoint } from '../../src/train/checkpoint.ts'
import { configOf, initialParameters, SMALL_PROXY } from '../../src/train/shape.ts'
import { temporaryFolder } from '../support.ts'

const INGEST_MS_MAX = 1_500

async function hangingIngest(t: TestContext): Promise<Identifier & { replaced: () => number }> {
  let replaced = 0
  const overrides = { 'score.ingestWorkers': 2, 'score.ingestMsMax': INGEST_MS_MAX }
  const identifier = await startIdentifying(loadConfig(undefined, {}, overrides), {
    ingestScript: new URL('./hanging-worker.js', import.meta.url),
    onWorkerReplaced: () => replaced++,
  })
  t.after(() => identifier.close())
  return { ...identifier, replaced: () => replaced }
}

const record = (id: string, does?: string): Buffer => Buffer.from(JSON.stringify({ id, does }))

for (const does of ['hang', 'wait']) {
  test(`a record that never ends (${does}) fails alone: its job's other records are done, in order`, async t => {
    const { identify, replaced } = await hangingIngest(t)
    const values = Array.from({ length: 32 }, (_, i) => record(`${i}`, i === 11 ? does : undefined))
    const keys = await identify(values)
    assert.deepEqual(
      keys,
      values.map((_, i) => (i === 11 ? undefined : `${i}`)),
    )
    assert.equal(replaced(), 2) // once among others, once alone
  })
}

test('a record that hangs once is not blamed: alone it has its whole time again', async t => {
  const { identify, replaced } = await hangingIngest(t)
  const once = join(temporaryFolder(t), 'hung')
  const keys = await identify([record('a'), record(once, 'hang once'), record('b')])
  assert.deepEqual(keys, ['a', once, 'b'])
  assert.equal(replaced(), 1)
})

test('a job of large pictures is answered in parts, in order: no message holds more than some of them', async t => {
  const proxy = temporaryFolder(t)
  const sizes = { imageSize: 1024, patchSize: 256, visionWidth: 8, width: 8, heads: 1, kvHeads: 1 }
  const shape = configOf({ ...SMALL_PROXY, ...sizes })
  for (const step of [1, 2]) {
    const parameters = initialParameters(shape, step)
    saveCheckpoint(proxy, { step, steps: 2, config: shape, parameters, history: [] })
  }
  const config = loadConfig(undefined, {}, { 'proxy.path': proxy })
  const schedule = openSchedule(proxy)
  const { template } = describeScores(config.proxy, schedule)
  const workerData: IngestWorkerData = {
    source: imageSource(config),
    preparer: preparerOptions(config, schedule, template),
  }
  const pool = new Pool<IngestJob, Ingested[]>({
    script: new URL('../../src/score/workers/ingest-worker.js', import.meta.url),
    workerData,
    size: 1,
    isolation: 'process',
  })
  t.after(() => pool.close())

  const records = await Promise.all(Array.from({ length: 12 }, (_, i) => pictured(`${i}`)))
  const idsOf = (answer: Ingested[]): (string | undefined)[] =>
    answer.map(one => (one.kind === 'prepared' ? one.prepared.id : undefined))

  // 12 MB of patches each: the third makes 32 MB. By then 8 and two more are begun.
  const first = await pool.run({ want: 'prepared', records })
  assert.deepEqual(idsOf(first), ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
  const rest = await pool.run({ want: 'prepared', records: records.slice(first.length) })
  assert.deepEqual(idsOf(rest), ['10', '11'])
})

async function pictured(id: string): Promise<{ value: Uint8Array }> {
  const create = { width: 8, height: 8, channels: 3 as const, background: '#123456' }
  const png = await sharp({ create }).png().toBuffer()
  const conversations = [
    { from: 'human', value: `<image>\nwhat is ${id}?` },
    { from: 'gpt', value: 'it' },
  ]
  const image = `data:image/png;base64,${png.toString('base64')}`
  return { value: Buffer.from(JSON.stringify({ id, image, conversations })) }
}
