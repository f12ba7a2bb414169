/**
 * Reads a record of `assignments` for the fold, which needs few of its fields. Most of the text is the
 * spectrum, T rows of 5 numbers that the fold never looks at: it is cut out before the JSON is parsed,
 * which is most of the select role's speed.
 */
import type { Assignment, Control } from '../record.ts'

/** What the fold looks at, and the distance that drift is measured by. */
export type FoldedAssignment = Pick<
  Assignment,
  'key' | 'id' | 'cluster' | 'instability' | 'distance' | 'content' | 'bundle'
> &
  Partial<Likeness>

/** What near-duplicates are found by. */
export type Likeness = Pick<Assignment, 'trajectory' | 'words' | 'layout' | 'embedding'>

const SPECTRUM = '"singularValues":[['
const SPECTRUM_END = ']]'
const NOTHING = '"singularValues":null'

/**
 * The value of a record. A quote within a JSON string is escaped, so the name with its colon stands
 * nowhere but at the field; arrays of numbers hold no brackets but their own. Anything but the compact
 * form that the score role writes is parsed whole.
 *
 * @throws SyntaxError where it is not JSON
 */
export function parseForFold(value: Uint8Array): FoldedAssignment | Control {
  const bytes = Buffer.isBuffer(value)
    ? value
    : Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  const text = bytes.toString()
  const from = text.indexOf(SPECTRUM)
  const to = from < 0 ? -1 : text.indexOf(SPECTRUM_END, from)
  if (to < 0) return JSON.parse(text)
  return JSON.parse(text.slice(0, from) + NOTHING + text.slice(to + SPECTRUM_END.length))
}
