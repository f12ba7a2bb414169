import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ropeInverseFrequencies } from '../../src/proxy/rope.ts'

const close = (actual: Float64Array, expected: readonly number[]): void => {
  assert.equal(actual.length, expected.length)
  for (const [i, value] of actual.entries()) {
    assert.ok(Math.abs(value - expected[i]!) <= 1e-12 * expected[i]!, `${i}: ${value}`)
  }
}

test('frequencies fall from 1 by equal ratios; linear scaling divides them all', () => {
  close(ropeInverseFrequencies(10_000, 8), [1, 0.1, 0.01, 0.001])
  close(
    ropeInverseFrequencies(10_000, 8, { kind: 'linear', factor: 4 }),
    [0.25, 0.025, 0.0025, 0.00025],
  )
})

test('llama3 scaling keeps fast turns, divides slow ones, blends those between', () => {
  const scaling = { lowFrequencyFactor: 1, highFrequencyFactor: 4, positionsBefore: 1024 }
  const scaled = ropeInverseFrequencies(10_000, 8, { kind: 'llama3', factor: 8, ...scaling })
  // Turns over 1024 positions: 163, 16.3, 1.63, 0.163.
  const kept = ((1024 * 0.01) / (2 * Math.PI) - 1) / 3
  close(scaled, [1, 0.1, kept * 0.01 + ((1 - kept) * 0.01) / 8, 0.001 / 8])
})
