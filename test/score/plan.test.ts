import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../../src/math/random.ts'
import { planBatches, prefixKey, prefixLength, type Sequence } from '../../src/score/batch.ts'
import { randomSequence } from '../fixtures-tiny-proxy.ts'

/** `before` ids are the same in all sequences, so that the image alone tells prefixes apart. */
function sequenceOf(before: number, after: number, hash: string): Sequence {
  const sequence = randomSequence(seededRandom(1), {
    ...{ before, after, hash },
    ...{ imageTokens: 4, patchValues: 24 },
  })
  sequence.ids.fill(1, 0, before)
  return sequence
}

function distinctTokens(sequences: readonly Sequence[]): number {
  const prefixes = new Map(sequences.map(one => [prefixKey(one), prefixLength(one)]))
  const suffixes = sequences.map(one => one.ids.length - prefixLength(one))
  return [...prefixes.values(), ...suffixes].reduce((sum, tokens) => sum + tokens, 0)
}

const PARTS = fc.array(
  fc.tuple(fc.nat(50), fc.integer({ min: 2, max: 90 }), fc.constantFrom('a', 'b', 'c')),
  { maxLength: 60 },
)
const LIMITS = fc.record({
  tokensMax: fc.integer({ min: 1, max: 600 }),
  examplesMax: fc.integer({ min: 1, max: 9 }),
})

test('every sequence runs exactly once, within the limits', () => {
  fc.assert(
    fc.property(PARTS, LIMITS, (parts, limits) => {
      const sequences = parts.map(([before, after, hash]) => sequenceOf(before, after, hash))
      const batches = planBatches(sequences, limits)
      assert.deepEqual(
        batches.flat().sort((a, b) => a - b),
        sequences.map((_, i) => i),
      )
      for (const batch of batches) {
        const tokens = distinctTokens(batch.map(i => sequences[i]!))
        assert.ok(batch.length <= limits.examplesMax)
        assert.ok(batch.length === 1 || tokens <= limits.tokensMax)
      }
    }),
  )
})

test('sequences of one prefix are parted only where they do not fit one batch', () => {
  fc.assert(
    fc.property(PARTS, LIMITS, (parts, limits) => {
      const sequences = parts.map(([before, after, hash]) => sequenceOf(before, after, hash))
      const batches = planBatches(sequences, limits)
      for (const key of new Set(sequences.map(prefixKey))) {
        const group = sequences.filter(sequence => prefixKey(sequence) === key)
        const used = batches.filter(batch => batch.some(i => prefixKey(sequences[i]!) === key))
        const isSmall =
          distinctTokens(group) <= limits.tokensMax && group.length <= limits.examplesMax
        if (isSmall) assert.equal(used.length, 1)
      }
    }),
  )
})

test('prefixes come in order of length, each with its sequences in order of length', () => {
  const sequences = [60, 3, 59, 4, 61, 2].map((after, i) => sequenceOf(0, after, String(i % 3)))
  assert.deepEqual(planBatches(sequences, { tokensMax: 1000, examplesMax: 4 }), [
    [5, 2, 3, 0],
    [1, 4],
  ])
})
