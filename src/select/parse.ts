/**
 * Reads a record of `assignments` for the fold, which needs few of its fields. Most of the text is the
 * spectrum, T rows of 5 numbers, and the trajectory. The fold never looks at the first, and at the second for
 * near-duplicates alone: they are cut out before the JSON is parsed, which is most of the select role's speed.
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

const SPECTRUM = Buffer.from('"singularValues":[[')
const TRAJECTORY = Buffer.from(']],"trajectory":[')
const TRAJECTORY_AT = TRAJECTORY.indexOf('"trajectory"')
const TRAJECTORY_END = Buffer.from(']')
const NO_SPECTRUM = '"singularValues":null,'
const NEITHER = '"singularValues":null,"trajectory":null'

/**
 * The value of a record, its trajectory null unless it is wanted. A quote within a JSON string is escaped, so the names with their colons stand
 * nowhere but at the fields; arrays of numbers hold no brackets but their own. Anything but the compact
 * form that the score role writes is parsed whole.
 *
 * @throws SyntaxError where it is not JSON
 */
export function parseForFold(
  value: Uint8Array,
  { withTrajectory = false } = {},
): FoldedAssignment | Control {
  const bytes = Buffer.isBuffer(value)
    ? value
    : Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  const from = bytes.indexOf(SPECTRUM)
  const between = from < 0 ? -1 : bytes.indexOf(TRAJECTORY, from)
  const to = between < 0 ? -1 : bytes.indexOf(TRAJECTORY_END, between + TRAJECTORY.length)
  if (to < 0) return JSON.parse(bytes.toString())
  const head = bytes.toString('utf8', 0, from)
  return withTrajectory
    ? JSON.parse(head + NO_SPECTRUM + bytes.toString('utf8', between + TRAJECTORY_AT))
    : JSON.parse(head + NEITHER + bytes.toString('utf8', to + TRAJECTORY_END.length))
}
