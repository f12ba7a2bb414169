import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { loadConfig } from '../../src/config.ts'
import { type Identifier, startIdentifying } from '../../src/score/pipeline.ts'
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
