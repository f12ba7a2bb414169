/**
 * Reads a record of `assignments` for the fold, which needs few of its fields. Most of the text is the
 * spectrum, T rows of 5 numbers that the fold never looks at: it is cut out before the JSON is parsed,
 * which is most of the select role's speed.
 */
import type { Assignment, Control } from '../record.ts'

/** What the fold looks at. */
export type FoldedAssignment = Pick<
  Assignment,
  'key' | 'id' | 'cluster' | 'instability' | 'content' | 'bundle'
>

const SPECTRUM = Buffer.from('"singularValues":[[')
const SPECTRUM_END = Buffer.from(']]')
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
  const from = bytes.indexOf(SPECTRUM)
  const to = from < 0 ? -1 : bytes.indexOf(SPECTRUM_END, from)
  if (to < 0) return JSON.parse(bytes.toString())
  const end = to + SPECTRUM_END.length
  return JSON.parse(bytes.toString('utf8', 0, from) + NOTHING + bytes.toString('utf8', end))
}
