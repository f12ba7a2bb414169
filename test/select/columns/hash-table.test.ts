import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { contentOf, contentText, HashTable } from '../../../src/select/columns/hash-table.ts'

test('a table answers as a map does, also where keys leave and tables grow', () => {
  const key = fc.tuple(fc.nat(3), fc.nat(30))
  const step = fc.record({ key, leaves: fc.nat(2) })
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 300, size: 'max' }),
      fc.integer({ min: 1, max: 4 }),
      (steps, tables) => {
        const keys: [number, number][] = []
        let first = 0
        const table = new HashTable(
          {
            hasKey: number => number >= first,
            high: number => keys[number]![0],
            low: number => keys[number]![1],
          },
          tables,
        )
        const oracle = new Map<string, number>()
        const alive = (name: string): number | undefined => {
          const number = oracle.get(name)
          return number !== undefined && number >= first ? number : undefined
        }
        for (const { key, leaves } of steps) {
          const number = keys.push(key) - 1
          assert.equal(table.set(...key, number), alive(key.join()))
          oracle.set(key.join(), number)
          first = Math.min(number, first + leaves)
          for (let high = 0; high < 4; high++) {
            for (let low = 0; low < 31; low++) {
              assert.equal(table.get(high, low), alive(`${high},${low}`))
            }
          }
        }
      },
    ),
    { numRuns: 50 },
  )
})

test('a content identity is the first 16 hex digits of a hash, and nothing else', () => {
  const hash = '00000001fffffffe'.padEnd(64, '3')
  assert.deepEqual(contentOf(hash), { high: 1, low: 0xfffffffe })
  assert.equal(contentText(contentOf(hash)!), '00000001fffffffe')
  for (const bad of ['', 'abc', '00000001FFFFFFFE', '00000001fffffffg']) {
    assert.equal(contentOf(bad), undefined)
  }
})
