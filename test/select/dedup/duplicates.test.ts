import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Owners } from '../../../src/select/dedup/duplicates.ts'

test('every content finds its first owner, others find none', () => {
  const words = fc.nat(2 ** 32 - 1)
  const contents = fc.uniqueArray(
    fc.tuple(fc.oneof(words, fc.nat(2)), fc.oneof(words, fc.nat(40))),
    {
      maxLength: 400,
      size: 'max',
      selector: ([high, low]) => `${high}/${low}`,
    },
  )
  fc.assert(
    fc.property(contents, list => {
      const half = list.length >> 1
      const owners = new Owners()
      for (const [high, low] of list.slice(0, half)) owners.add({ high, low })
      list.forEach(([high, low], index) => {
        assert.equal(owners.find({ high, low }), index < half ? index : undefined)
      })
      assert.equal(owners.length, half)
    }),
  )
})

test('100,000 contents take less than 20 bytes each', () => {
  const owners = new Owners()
  let state = 1
  const word = (): number => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9
    return state >>> 0
  }
  for (let i = 0; i < 100_000; i++) owners.add({ high: word(), low: word() })
  assert.ok(owners.bytes / owners.length < 20, `${owners.bytes / owners.length}`)
})
