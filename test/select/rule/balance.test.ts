import assert from 'node:assert/strict'
import test from 'node:test'
import { balanceOf, entropyOf, evennessOf } from '../../../src/select/rule/quotas.ts'

function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) < 1e-12, `${actual} is not ${expected}`)
}

test('entropy is ln k for k equal counts, and 0 for one place or none', () => {
  near(entropyOf([7, 7, 7, 7]), Math.log(4))
  near(entropyOf([1, 0, 0]), 0)
  near(entropyOf([]), 0)
  near(entropyOf([3, 1]), -(0.75 * Math.log(0.75) + 0.25 * Math.log(0.25)))
})

test('balance is 1 at the ideal and where there is nothing to balance, less where one place has too many', () => {
  near(balanceOf([2, 5, 5], [2, 5, 5]), 1)
  near(balanceOf([0, 3], [0, 3]), 1)
  near(balanceOf([], []), 1)
  assert.ok(balanceOf([1, 1, 10], [2, 5, 5]) < 0.7)
})

test('evenness is 1 for equal counts and falls with skew', () => {
  near(evennessOf([4, 4, 4]), 1)
  near(evennessOf([4]), 1)
  near(evennessOf([]), 1)
  near(evennessOf([5, 0]), 0)
})
