import assert from 'node:assert/strict'
import test from 'node:test'
import { openLocalLog } from '../../src/log/local.ts'
import type { StateReader, StateWriter } from '../../src/log/log.ts'
import { scopedReader, scopedWriter } from '../../src/select/scope.ts'
import { temporaryFolder } from '../support.ts'

test('folds of one state read only what they wrote themselves', async t => {
  const log = await openLocalLog({ path: temporaryFolder(t) })
  t.after(() => log.close())
  await log.ensureTopics([{ name: 'assignments', partitions: 1 }])
  const consumer = await log.consume({ group: 'g', topics: ['assignments'] })
  const scopes = [null, 'a', 'b']
  const put = (writer: StateWriter, scope: string | null): void => {
    const own = scopedWriter(writer, scope)
    for (const n of [0, 128, 256]) own.put(['example', n], Buffer.from(`${scope} ${n}`))
    own.put('meta', Buffer.from(`${scope}`))
    own.remove(['example', 256])
  }
  await consumer.commit({
    positions: [],
    outputs: [],
    state: writer => {
      for (const scope of scopes) put(writer, scope)
    },
  })
  const entries = (reader: StateReader): unknown[] =>
    [...reader.range(['example', 0], ['example', 1_000])].map(({ key, value }) => [
      key,
      Buffer.from(value).toString(),
    ])
  for (const scope of scopes) {
    const own = scopedReader(consumer.state, scope)
    assert.deepEqual(entries(own), [
      [['example', 0], `${scope} 0`],
      [['example', 128], `${scope} 128`],
    ])
    assert.equal(Buffer.from(own.get(['meta'])!).toString(), String(scope))
    assert.equal(own.get(['example', 256]), undefined)
  }
})
