import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Assignment, keyOf, RecordedAssignment, readAssignment } from '../src/record.ts'

const PLACE = { topic: 'assignments', partition: 0, offset: 7 }
const SPECTRUM = '"singularValues":[[1,2,3,4,5]]'

function read(text: string): unknown {
  return readAssignment({ ...PLACE, value: Buffer.from(text) })
}

test('an assignment reads as its JSON does, whatever the order of its keys and the spaces', () => {
  const texts = fc.oneof(
    fc.string({ unit: 'grapheme' }),
    fc.constantFrom(
      SPECTRUM,
      `\\${SPECTRUM}`,
      '"singularValues":[[',
      ']]',
      '"trajectory":[',
      '\\"',
    ),
  )
  const row = fc.array(fc.double({ noNaN: true }), { maxLength: 5 })
  const cases = fc.record({
    id: texts,
    bundle: texts,
    singularValues: fc.option(fc.array(row)),
    trajectory: fc.option(row),
    indent: fc.constantFrom(undefined, 2),
    order: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 18, maxLength: 18 }),
  })
  fc.assert(
    fc.property(cases, ({ id, bundle, singularValues, trajectory, indent, order }) => {
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
        words: id,
        layout: null,
        embedding: bundle,
        question: id,
        size: { imageTokens: 64, textRows: 12, pixels: 480_000 },
        gain: 0.5,
        gains: [0.25, 0.5],
      }
      const shuffled = Object.entries(assignment)
        .map((entry, i) => ({ entry, place: order[i]! }))
        .sort((a, b) => a.place - b.place)
        .map(({ entry }) => entry)
      const text = JSON.stringify(Object.fromEntries(shuffled), null, indent)
      const found = read(text)
      assert.ok(found instanceof RecordedAssignment)
      const expected = JSON.parse(JSON.stringify(assignment))
      assert.deepEqual(found.trajectory, expected.trajectory)
      assert.deepEqual(found.singularValues, expected.singularValues)
      assert.deepEqual(found.toJSON(), expected)
      const bytes = readAssignment({ ...PLACE, value: Uint8Array.from(Buffer.from(text)) })
      assert.deepEqual(JSON.parse(JSON.stringify(bytes)), expected)
      const other = found.reassigned({ cluster: 5, distance: 0, bundle: 'o' })
      assert.deepEqual(other.toJSON(), { ...expected, cluster: 5, distance: 0, bundle: 'o' })
    }),
  )
})

test('a control record reads as it is', () => {
  const control = { v: 1, control: 'settle' }
  assert.deepEqual(read(JSON.stringify(control)), control)
})

test('a record that is no assignment is refused with its place', () => {
  const good = { key: 'a@0', id: 'a', content: '0', bundle: 'b', cluster: 'text' }
  const { content, ...contentless } = good
  const foreign = [
    '',
    'hello',
    '{',
    `{${SPECTRUM}`,
    'null',
    '7',
    '[]',
    '{"id":"x","conversations":[{"from":"human","value":"what?"}]}',
    '{"control":"stop"}',
    '{"v":1,"control":"swap"}',
    JSON.stringify(contentless),
    JSON.stringify({ ...good, content: 5 }),
    JSON.stringify({ ...good, bundle: null }),
  ]
  const refused = { code: 'RECORD_INVALID', message: /^assignments\/0@7 / }
  for (const text of foreign) assert.throws(() => read(text), refused, text)
  assert.throws(() => readAssignment({ ...PLACE, value: null }), refused)
  const found = read(JSON.stringify({ ...good, content }))
  assert.ok(found instanceof RecordedAssignment)
  assert.deepEqual([found.key, found.cluster, found.trajectory], ['a@0', 'text', null])
})
