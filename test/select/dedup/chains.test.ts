import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Chains } from '../../../src/select/dedup/chains.ts'

/** Numbers by key, all of them remembered; who asks leaves out the forgotten. */
class NaiveChains {
  readonly #numbers = new Map<string, number[]>()
  readonly #capacity: number
  #last = -1

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  add(high: number, low: number, number: number): void {
    const key = `${high} ${low}`
    this.#numbers.set(key, [number, ...(this.#numbers.get(key) ?? [])])
    this.#last = number
  }

  advance(number: number): void {
    this.#last = number
  }

  chain(high: number, low: number): number[] {
    const numbers = this.#numbers.get(`${high} ${low}`) ?? []
    return numbers.filter(number => number > this.#last - this.#capacity)
  }
}

function chainOf(chains: Chains, high: number, low: number): number[] {
  const found: number[] = []
  let number = chains.newest(high, low)
  for (; number !== undefined; number = chains.older(number)) found.push(number)
  return found
}

test('chains hold the last numbers of every key, the newest first, and forget the others', () => {
  const step = fc.record({
    high: fc.nat(2),
    low: fc.oneof(fc.nat(3), fc.nat(1e9)),
    gap: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(9) }),
    isPassed: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), fc.integer({ min: 1, max: 40 }), (steps, n) => {
      const [chains, naive] = [new Chains(n), new NaiveChains(n)]
      let number = -1
      for (const { high, low, gap, isPassed } of steps) {
        number += 1 + gap
        for (const one of [chains, naive]) {
          if (isPassed) one.advance(number)
          else one.add(high, low, number)
        }
        const expected = naive.chain(high, low)
        assert.deepEqual(chainOf(chains, high, low), expected)
        for (const at of expected) assert.deepEqual(chains.keyOf(at), { high, low })
      }
      for (const { high, low } of steps) {
        assert.deepEqual(chainOf(chains, high, low), naive.chain(high, low))
      }
    }),
  )
})

test('many keys in a small ring: the table is made again and again, and stays small', () => {
  const [chains, naive] = [new Chains(3000), new NaiveChains(3000)]
  const bytes = (): number => chains.bytes
  for (let number = 0; number < 40_000; number++) {
    const low = number % 7 === 0 ? 5 : number
    for (const one of [chains, naive]) one.add(number % 3, low, number)
  }
  assert.ok(bytes() < 3000 * 60, String(bytes()))
  for (let number = 36_000; number < 40_000; number++) {
    assert.deepEqual(chainOf(chains, number % 3, number), naive.chain(number % 3, number))
  }
  for (const high of [0, 1, 2]) assert.deepEqual(chainOf(chains, high, 5), naive.chain(high, 5))
  assert.throws(() => chains.add(0, 0, 39_999), RangeError)
})
