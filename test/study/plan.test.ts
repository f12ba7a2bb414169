import assert from 'node:assert/strict'
import test from 'node:test'
import { parseArm } from '../../src/study/arms.ts'
import { checkSelected, checkSizes, plannedOf } from '../../src/study/plan.ts'

test('a subset of no example is refused, with the smallest percent that is one', () => {
  assert.doesNotThrow(() => checkSizes([2.1, 10], 49))
  assert.throws(() => checkSizes([10, 1], 49), {
    code: 'CONFIG_INVALID',
    message: '1 % of a pool of 49 examples is no example',
    hint: /at least 2\.1\./,
  })
})

test('an arm that selects nothing is refused by its name', () => {
  const arm = parseArm('sum+clean')
  assert.doesNotThrow(() => checkSelected({ seed: 1, arm, percent: 10 }, 1))
  assert.throws(() => checkSelected({ seed: 1, arm, percent: 10 }, 0), {
    code: 'DATA_INVALID',
    message: 'arm sum+clean at 10 % selects no example',
  })
})

test('full is planned once, every other arm at every percent', () => {
  const arms = ['full', 'random', 'sum'].map(parseArm)
  const planned = plannedOf(1, arms, [5, 10]).map(({ arm, percent }) => `${arm.name} ${percent}`)
  assert.deepEqual(planned, ['full 100', 'random 5', 'sum 5', 'random 10', 'sum 10'])
})
