/**
 * What every implementation of the log port must do. Offsets may have gaps, compaction may come
 * later, and a consumer may get its partitions one after the other: so tests count records.
 */
import { type TestContext, test } from 'node:test'
import { commitTests, positionTests, stateTests } from './contract-groups.ts'
import { pollTests } from './contract-polls.ts'
import { appendTests, compactionTests } from './contract-records.ts'
import { type MakeLog, unique } from './helpers.ts'
import { randomOperationsMatchTheModel } from './model.ts'

/** Registers the contract's tests for one implementation. `modelRuns`: random sequences to try. */
export function logContract(name: string, makeLog: MakeLog, options: { modelRuns?: number } = {}) {
  const scene = async (t: TestContext, partitions = 1) => {
    const made = await makeLog(t)
    const log = await made.open()
    t.after(() => log.close())
    const topic = unique('in')
    await log.ensureTopics([{ name: topic, partitions }])
    return { ...made, log, topic }
  }
  appendTests(name, scene)
  positionTests(name, scene)
  commitTests(name, scene)
  pollTests(name, scene)
  stateTests(name, scene)
  compactionTests(name, makeLog)
  test(`${name}: random operations match an in-memory model, reopened in between`, async t => {
    const { open } = await makeLog(t)
    await randomOperationsMatchTheModel(open, options.modelRuns ?? 40)
  })
}
