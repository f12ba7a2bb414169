import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Cluster } from '../../../src/record.ts'
import {
  batchQuotas,
  budgetRule,
  type Ranked,
  selectBatch,
} from '../../../src/select/rule/quotas.ts'
import { shared } from '../../support.ts'

type Expected = {
  percentage: number
  amount: number
  text_cluster: number | null
  clusters: { cluster: number; size: number; quota: number; taken: number }[]
  selected: string[]
}

function check(examples: Ranked[], expected: Expected): void {
  const found = selectBatch(examples, expected.percentage)
  const numberOf = (cluster: Cluster): number =>
    cluster === 'text' ? expected.text_cluster! : cluster
  assert.equal(found.budget, expected.amount)
  assert.deepEqual(
    found.clusters.map(entry => ({ ...entry, cluster: numberOf(entry.cluster) })),
    expected.clusters,
  )
  assert.deepEqual(
    found.selected.map(index => examples[index]!.id),
    expected.selected,
  )
}

test('the batch rule selects the golden ids at every budget', t => {
  const folder = shared(t, 'goldens/selection')
  if (folder === undefined) return
  const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
  const dataset: { id: string; image?: string }[] = JSON.parse(
    readFileSync(join(folder, 'dataset.json'), 'utf8'),
  )
  let row = 0
  const examples = dataset.map(({ id, image }): Ranked => {
    if (image === undefined) return { cluster: 'text', instability: null, id }
    const at = row++
    const cluster = expected.assignment[at]
    return { cluster, instability: expected.instability[at], id: `${id}::${image}` }
  })
  for (const budget of expected.budgets as Expected[]) check(examples, budget)
})

test('the batch rule passes the golden edge cases', t => {
  const folder = shared(t, 'goldens/selection')
  if (folder === undefined) return
  const { edge_cases } = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
  for (const { ids, assignment, stability, text_only, result } of edge_cases) {
    const scored = ids.map((id: string, i: number) => ({
      cluster: assignment[i],
      instability: stability[i],
      id,
    }))
    const text = text_only.map((id: string) => ({ cluster: 'text', instability: null, id }))
    check([...scored, ...text], result)
  }
})

test('the quotas never exceed the budget and no cluster gives less than an earlier one', () => {
  const sizes = fc.array(fc.nat(30), { maxLength: 12 })
  fc.assert(
    fc.property(sizes, fc.nat(400), (list, budget) => {
      const quotas = batchQuotas(
        list.map((size, cluster) => ({ cluster, size })),
        budget,
      )
      const taken = quotas.map(quota => quota.taken)
      assert.ok(taken.reduce((sum, count) => sum + count, 0) <= budget)
      assert.deepEqual(
        taken,
        [...taken].sort((a, b) => a - b),
      )
    }),
  )
})

test('a fractional percent is taken as the decimal it was written as', () => {
  assert.equal(budgetRule(1.15)(2000), 23)
  assert.equal(budgetRule(4.35)(10_000), 435)
  assert.equal(budgetRule(12.5)(79), 9)
  assert.equal(budgetRule(100 / 3)(300), 100)
  assert.equal(budgetRule(0)(10), 0)
  assert.equal(budgetRule(100)(10), 10)
  assert.throws(() => budgetRule(100.5), RangeError)
  assert.throws(() => budgetRule(Number.NaN), RangeError)
})

test('text-only ids order by code point, not by UTF-16 unit', () => {
  const ids = ['\u{1F600}', '\uFF5E', 'b', 'a']
  const examples = ids.map((id): Ranked => ({ cluster: 'text', instability: null, id }))
  const { selected } = selectBatch(examples, 100)
  assert.deepEqual(
    selected.map(index => ids[index]),
    ['a', 'b', '\uFF5E', '\u{1F600}'],
  )
})
