/**
 * The two parts of a data set: the pool that subsets are selected from, and the held-out examples that
 * targets answer. No picture is in both.
 */
import { XmasdError } from '../errors.ts'
import { type DecodeOptions, decodeExample } from '../ingest/form/decode.ts'
import { IMAGE_MARK } from '../ingest/form/example.ts'
import { parseObject } from '../ingest/form/json.ts'
import { hashedDraw, seedOf } from '../math/random.ts'

/** Raw records of one seed. */
export type Parts = { pool: Uint8Array[]; heldOut: Uint8Array[] }

/** Where a study takes its examples from. */
export type StudyData = {
  name: string
  imageRoot: string
  /** Limits and names of fields; default: the forms' own. */
  form?: DecodeOptions
  /** What else decides over the parts, by name: runs of other values are not compared with. */
  parts?: Record<string, string | number | undefined>
  /** The parts under a seed: another seed gives other ones, the same seed the same. */
  partsOf(seed: number): Promise<Parts>
}

/** What a study reads of a record beside what every command reads. */
export type Labels = {
  /** Its field `source`: the family whose held-out examples are averaged together. */
  source: string
  /** Its field `fault`: what is known to be wrong with it; undefined where nothing is. */
  fault: string | undefined
  /** Characters of all turns. */
  length: number
}

/** Of records without a `source`. */
export const NO_SOURCE = 'all'

/** The assistant's turns of a record. */
export function answersOf(value: Uint8Array, form?: DecodeOptions): string {
  const { turns } = decodeExample(value, form)
  return turns.flatMap(({ role, text }) => (role === 'assistant' ? [text] : [])).join('\n')
}

export function labelsOf(value: Uint8Array, form?: DecodeOptions): Labels {
  const { source, fault } = parseObject(value)
  const { turns } = decodeExample(value, form)
  const length = turns.reduce((sum, { text }) => sum + text.replaceAll(IMAGE_MARK, '').length, 0)
  return {
    source: typeof source === 'string' ? source : NO_SOURCE,
    fault: typeof fault === 'string' ? fault : undefined,
    length,
  }
}

/**
 * Holds out `percent` of the pictures at random, with all examples about them. An example with pictures of
 * both parts is in neither, as is one that can't be read. Text-only examples are drawn one by one.
 *
 * @throws XmasdError DATA_INVALID where a part is empty
 */
export function splitByPicture(
  values: readonly Uint8Array[],
  seed: number,
  percent: number,
  form?: DecodeOptions,
): Parts {
  const parts: Parts = { pool: [], heldOut: [] }
  const unread: XmasdError[] = []
  for (const value of values) {
    const pictures = picturesOf(value, form)
    if (pictures instanceof XmasdError) unread.push(pictures)
    else {
      const drawn = new Set(pictures.map(name => isHeldOut(name, seed, percent)))
      if (drawn.size === 1) parts[drawn.has(true) ? 'heldOut' : 'pool'].push(value)
    }
  }
  if (parts.pool.length > 0 && parts.heldOut.length > 0) return parts
  if (unread.length > values.length / 2) {
    const { code, message, hint } = unread[0]!
    throw new XmasdError(
      'DATA_INVALID',
      `${unread.length} of ${values.length} examples cannot be read; the first: ${message} (${code})`,
      hint,
    )
  }
  throw new XmasdError(
    'DATA_INVALID',
    `${values.length} examples give a pool of ${parts.pool.length} and ${parts.heldOut.length} held out`,
    'Give more examples, another --held-out-percent, or the held-out examples by --held-out.',
  )
}

/** Text-only examples have a name of their own. An error: the record can't be read. */
function picturesOf(value: Uint8Array, form?: DecodeOptions): string[] | XmasdError {
  try {
    const { images, turns } = decodeExample(value, form)
    return images.length > 0 ? images : [turns.map(({ text }) => text).join('\n')]
  } catch (error) {
    if (error instanceof XmasdError) return error
    throw error
  }
}

function isHeldOut(name: string, seed: number, percent: number): boolean {
  const content = { high: seedOf(seed, name), low: seedOf(~seed, name) }
  return hashedDraw(content, 0) < percent / 100
}
