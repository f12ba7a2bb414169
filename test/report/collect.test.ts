import assert from 'node:assert/strict'
import test from 'node:test'
import { seededRandom } from '../../src/random.ts'
import { collectReport, Reservoir } from '../../src/report/collect.ts'
import { EXAMPLES, logWith, runSelect, site } from '../role/site.ts'

test('what is decided while a report is made is in none of its numbers, or in all', async t => {
  const parts = await site(t)
  const { log, config, bundles } = parts
  const decided = () =>
    runSelect(parts, bundles[0], async ({ history }) => {
      return (await history.get()).values.at(-1)?.value === EXAMPLES
    })
  const whole = logWith(log, {
    committed: async (...args) => {
      await decided()
      return log.committed(...args)
    },
  })
  const [during, after] = [await collectReport(whole, config), await collectReport(log, config)]
  assert.ok(during.kept > 0)
  assert.deepEqual([during.examples, during.waiting, during.kept], [EXAMPLES, 0, after.kept])
})

test('a reservoir holds every offered item with the same chance', () => {
  const [offered, size, rounds] = [40, 8, 4_000]
  const counts = new Array<number>(offered).fill(0)
  const random = seededRandom(7)
  for (let round = 0; round < rounds; round++) {
    const reservoir = new Reservoir<number>(size, random)
    for (let item = 0; item < offered; item++) reservoir.offer(item)
    assert.equal(new Set(reservoir.items).size, size)
    for (const item of reservoir.items) counts[item]!++
  }
  const expected = (rounds * size) / offered
  const deviation = Math.sqrt(rounds * (size / offered) * (1 - size / offered))
  for (const [item, count] of counts.entries()) {
    assert.ok(Math.abs(count - expected) < 5 * deviation, `item ${item}: ${count} of ${expected}`)
  }
})

test('a reservoir that is not full holds all that was offered, in order', () => {
  const reservoir = new Reservoir<string>(3, seededRandom(1))
  reservoir.offer('a')
  reservoir.offer('b')
  assert.deepEqual(reservoir.items, ['a', 'b'])
})
