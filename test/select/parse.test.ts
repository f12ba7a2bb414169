import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Assignment, keyOf } from '../../src/record.ts'
import { parseForFold } from '../../src/select/parse.ts'

const SPECTRUM = '"singularValues":[[1,2,3,4,5]]'
const TRAJECTORY = ']],"trajectory":['

test('an assignment reads as the whole JSON does, but for the spectrum, and the trajectory where it is not wanted', () => {
  const texts = fc.oneof(
    fc.string({ unit: 'grapheme' }),
    fc.constantFrom(SPECTRUM, `\\${SPECTRUM}`, '"singularValues":[[', ']]', TRAJECTORY, '\\"'),
  )
  const row = fc.array(fc.double({ noNaN: true }), { maxLength: 5 })
  const rows = fc.array(row)
  const cases = fc.tuple(texts, texts, fc.option(rows), fc.option(row), fc.boolean())
  fc.assert(
    fc.property(cases, ([id, bundle, singularValues, trajectory, isPretty]) => {
      const assignment: Assignment = {
        v: 1,
        key: keyOf(id, 'c'),
        id,
        cluster: 1,
        singularValues,
        trajectory,
        instability: 1,
        distance: 2,
        content: 'c',
        bundle,
        source: { topic: id, partition: 0, offset: 0 },
      }
      const text = JSON.stringify(assignment, null, isPretty ? 2 : undefined)
      const noSpectrum = { singularValues: null }
      const found = parseForFold(Buffer.from(text), { withTrajectory: true })
      assert.deepEqual({ ...found, ...noSpectrum }, { ...JSON.parse(text), ...noSpectrum })
      const neither = { singularValues: null, trajectory: null }
      const less = parseForFold(Buffer.from(text))
      assert.deepEqual({ ...less, ...neither }, { ...JSON.parse(text), ...neither })
      assert.deepEqual(
        parseForFold(Uint8Array.from(Buffer.from(text))),
        parseForFold(Buffer.from(text)),
      )
    }),
  )
})

test('a control record reads as it is, and what is no JSON throws', () => {
  const control = { v: 1, control: 'settle' }
  assert.deepEqual(parseForFold(Buffer.from(JSON.stringify(control))), control)
  assert.throws(() => parseForFold(Buffer.from('{')), SyntaxError)
  assert.throws(() => parseForFold(Buffer.from(`{${SPECTRUM}`)), SyntaxError)
  assert.throws(() => parseForFold(Buffer.from('')), SyntaxError)
})
