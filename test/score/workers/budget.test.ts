import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ByteBudget } from '../../../src/score/workers/budget.ts'

test('bytes are granted in turn while they fit, and what is released is granted on', () => {
  const budget = new ByteBudget<string>(100)
  const granted: string[] = []
  const ask = (owner: string, bytes: number): void =>
    budget.ask(owner, bytes, () => granted.push(`${owner} ${bytes}`))
  ask('a', 60)
  ask('b', 30)
  ask('c', 20)
  ask('d', 5) // fits, but c is first
  assert.deepEqual(granted.splice(0), ['a 60', 'b 30'])
  budget.release('b', 30)
  assert.deepEqual(granted.splice(0), ['c 20', 'd 5'])
  budget.forget('a')
  assert.equal(budget.heldBytes, 25)
})

test('what is larger than the budget is granted to one at a time', () => {
  const budget = new ByteBudget<string>(100)
  const granted: string[] = []
  for (const owner of ['a', 'b']) budget.ask(owner, 500, () => granted.push(owner))
  assert.deepEqual(granted, ['a'])
  budget.release('a', 500)
  assert.deepEqual(granted, ['a', 'b'])
})

test('owners that hold some and ask for more all end, and never hold more than the budget and one example', () => {
  const examples = fc.array(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 }), {
    minLength: 1,
    maxLength: 8,
  })
  fc.assert(
    fc.property(examples, drawn => {
      const budget = new ByteBudget<number>(100)
      const largest = Math.max(...drawn.map(images => images.reduce((a, b) => a + b)))
      let done = 0
      const next = (owner: number, at: number): void => {
        const images = drawn[owner]!
        if (at === images.length) {
          done++
          budget.forget(owner)
          return
        }
        budget.ask(owner, images[at]!, () => {
          assert.ok(budget.heldBytes <= 100 + largest, `${budget.heldBytes}`)
          queue.push(() => next(owner, at + 1))
        })
      }
      const queue: (() => void)[] = drawn.map((_, owner) => () => next(owner, 0))
      while (queue.length > 0) queue.shift()!()
      assert.equal(done, drawn.length)
    }),
  )
})
