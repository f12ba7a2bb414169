/** Where the kept examples stand, and what each stands for. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { loadConfig } from '../../src/config.ts'
import { readKeptPlaces } from '../../src/history/kept-examples.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import { topicSpecs } from '../../src/log/open.ts'
import { type Decision, keyOf } from '../../src/record.ts'
import { temporaryFolder } from '../support.ts'

const key = (id: string) => keyOf(id, id.repeat(16))

function assignment(id: string, offset: number): object {
  const source = { topic: 'examples', partition: 0, offset }
  const scores = { trajectory: [1, 2], singularValues: null, instability: 1, distance: 0 }
  return {
    v: 1,
    key: key(id),
    id,
    cluster: 1,
    ...scores,
    content: id.repeat(64),
    bundle: 'b',
    source,
  }
}

test('a weight counts no copy and no misaligned example; a copy that was restored is found again', async t => {
  const config = loadConfig(undefined, {}, { 'log.path': join(temporaryFolder(t), 'log') })
  const { assignments, decisions } = config.log.topics
  const log = await openLocalLog({ path: config.log.path })
  t.after(() => log.close())
  await log.ensureTopics(topicSpecs(config.log))
  const append = (topic: string, values: readonly object[]) =>
    log.append(
      values.map(value => ({
        topic,
        key: null,
        partition: 0,
        value: Buffer.from(JSON.stringify(value)),
      })),
    )
  const ids = ['a', 'b', 'c', 'd', 'e']
  await append(assignments, ids.map(assignment))
  const decided = (id: string, action: string, reason: string, more: Partial<Decision> = {}) => {
    return { v: 1, key: key(id), id, action, reason, cluster: 1, ...more }
  }
  await append(decisions, [
    decided('a', 'keep', 'within_quota'),
    decided('b', 'drop', 'misaligned', { gain: -1 }),
    decided('c', 'drop', 'near_duplicate', { duplicateOf: key('a') }),
    decided('d', 'drop', 'duplicate', { duplicateOf: key('a') }),
    decided('e', 'drop', 'over_quota'),
    decided('c', 'restore', 'bundle_swapped'),
  ])
  const consumer = await log.consume({ group: config.select.group, topics: [assignments] })
  const positions = [{ topic: assignments, partition: 0, offset: ids.length }]
  await consumer.commit({ outputs: [], positions })
  await consumer.close()

  const { places, weights } = await readKeptPlaces(log, config, new Set(['a', 'c'].map(key)))
  assert.deepEqual([...places.keys()], ['a', 'c'].map(key))
  assert.deepEqual([...weights], [[1, 3 / 2]])
})
