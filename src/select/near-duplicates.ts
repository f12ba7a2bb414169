/**
 * Near-duplicates: examples that say the same about the same picture, or that the proxy sees alike. It is
 * identity, so it must not depend on clusters or policy: what is learned comes from the bundle that the
 * log began with, exemplars are all examples that count (kept or not), and what was found once stays.
 *
 *   content that is new ─► exemplar within the radii? ─ no ─► counts, and is an exemplar itself
 *                                                    └ yes ─► a near-duplicate of it, now and for good
 *
 * In the group's state:
 *
 *     ['near']                     JSON: limits, what was learned, counts
 *     ['exemplar', first row]      a block of 128 rows; blocks that are forgotten are removed
 *     ['nearDuplicate', first]     a block of 128 that were found: content, exemplar, measure, distance
 */
import { z } from 'zod'
import { Nearness, readLayouts, stateOf } from '../cluster/nearness.ts'
import { XmasdError } from '../errors.ts'
import { LAYOUT_VALUES } from '../ingest/layout.ts'
import type { StateReader, StateWriter } from '../log/log.ts'
import { MEASURES } from '../record.ts'
import { BLOCK_ROWS, blockStart } from './blocks.ts'
import { Float64Column, Uint32Column } from './columns.ts'
import { type Content, contentOf, Owners } from './duplicates.ts'
import { type Appearance, type ExemplarRow, Exemplars, type Match } from './exemplars.ts'
import type { NearOf } from './fold.ts'
import type { Likeness } from './parse.ts'
import { damaged } from './store.ts'

const META = 'near'
const EXEMPLAR = 'exemplar'
const FOUND = 'nearDuplicate'
const FOUND_BYTES = 4 + 4 + 4 + 1 + 8
/** A row says how many pictures its example has in one byte. */
const PICTURES_MAX = 254

export type NearSettings = { exemplarsMax: number }

const Meta = z.strictObject({
  v: z.literal(1),
  exemplarsMax: z.int(),
  model: Nearness,
  /** The number of the next row. */
  rows: z.int().min(0),
  found: z.int().min(0),
})

/**
 * What the state holds of near-duplicates; undefined where they are not looked for. `isBegun`: has the state
 * examples. Throws XmasdError STATE_INVALID, also as `checkNearSettings`.
 */
export function openNearDuplicates(
  reader: StateReader,
  settings: NearSettings & { enabled: boolean },
  isBegun: boolean,
): NearDuplicates | undefined {
  checkNearSettings(reader, settings, isBegun)
  const { enabled, exemplarsMax } = settings
  return enabled ? new NearDuplicates({ exemplarsMax }, reader) : undefined
}

/**
 * Throws STATE_INVALID where they have been looked for before and no longer are, the other way round, or with
 * another limit: what was decided would not follow from the log any more.
 */
export function checkNearSettings(
  reader: StateReader,
  { enabled, exemplarsMax }: NearSettings & { enabled: boolean },
  isBegun: boolean,
): void {
  const before = readMeta(reader)
  const isThere = before !== undefined
  if (isBegun && isThere !== enabled) throw otherSetting('enabled', isThere, enabled)
  if (isThere && before.exemplarsMax !== exemplarsMax) {
    throw otherSetting('exemplarsMax', before.exemplarsMax, exemplarsMax)
  }
}

function readMeta(reader: StateReader): z.infer<typeof Meta> | undefined {
  const bytes = reader.get([META])
  if (bytes === undefined) return undefined
  const meta = Meta.safeParse(JSON.parse(Buffer.from(bytes).toString())).data
  if (meta === undefined) throw damaged("its 'near' entry is not of this version of the format")
  return meta
}

export class NearDuplicates {
  readonly #settings: NearSettings
  #model: Nearness | undefined
  #exemplars: Exemplars | undefined
  /** Contents that were found near; what they are near to stands in the columns, by order. */
  readonly #contents = new Owners()
  readonly #sequences = new Uint32Column()
  readonly #measures = new Uint32Column()
  readonly #distances = new Float64Column()
  /** What the last `write` wrote ends here. */
  #written = { rows: 0, found: 0, removed: 0 }

  /** What `reader` holds, or nothing yet. Throws XmasdError STATE_INVALID. */
  constructor(settings: NearSettings, reader?: StateReader) {
    this.#settings = settings
    const meta = reader && readMeta(reader)
    if (meta !== undefined) this.#restore(reader!, meta)
  }

  /** Is it known yet what near is: `learn` comes before the first example. */
  get isLearned(): boolean {
    return this.#model !== undefined
  }

  learn(model: Nearness): void {
    this.#model = model
    this.#exemplars = new Exemplars(model, this.#settings.exemplarsMax)
  }

  get bytes(): number {
    const found = [this.#contents, this.#sequences, this.#measures, this.#distances]
    return found.reduce((sum, { bytes }) => sum + bytes, this.#exemplars?.bytes ?? 0)
  }

  /** What `content` was found to be near to before. */
  recall(content: Content): Match | undefined {
    const index = this.#contents.find(content)
    if (index === undefined) return undefined
    const sequence = this.#sequences.at(index)
    const measure = MEASURES[this.#measures.at(index)]!
    return { sequence, measure, distance: this.#distances.at(index) }
  }

  /**
   * What an example is near to, whose `content` no counted example has. Where it is near to none it
   * is an exemplar from here on, under `sequence`. An example that lacks what is compared is neither.
   */
  readonly identify: NearOf = (record, content, sequence) => {
    const known = this.recall(content)
    if (known !== undefined) return known
    if (this.#exemplars === undefined || this.#model === undefined) return undefined
    const appearance = appearanceOf(this.#model, record)
    if (appearance === undefined) return undefined
    const match = this.#exemplars.find(appearance)
    if (match === undefined) this.#exemplars.add(appearance, sequence)
    else this.#remember(content, match)
    return match
  }

  #remember(content: Content, { sequence, measure, distance }: Match): void {
    this.#contents.add(content)
    this.#sequences.push(sequence)
    this.#measures.push(MEASURES.indexOf(measure))
    this.#distances.push(distance)
  }

  /** Writes what came since the last time. Only inside `commit`, once a commit. */
  write(writer: StateWriter): void {
    const exemplars = this.#exemplars
    if (exemplars === undefined || this.#model === undefined) return
    const { exemplarsMax } = this.#settings
    const [rows, found] = [exemplars.end, this.#contents.length]
    const meta: z.infer<typeof Meta> = { v: 1, exemplarsMax, model: this.#model, rows, found }
    writer.put([META], Buffer.from(JSON.stringify(meta)))
    for (let at = blockStart(this.#written.rows); at < rows; at += BLOCK_ROWS) {
      const last = Math.min(rows, at + BLOCK_ROWS)
      if (last > exemplars.first) writer.put([EXEMPLAR, at], encodeRows(exemplars, at, last))
    }
    const removed = blockStart(exemplars.first)
    for (let at = this.#written.removed; at < removed; at += BLOCK_ROWS) {
      writer.remove([EXEMPLAR, at])
    }
    for (let at = blockStart(this.#written.found); at < found; at += BLOCK_ROWS) {
      writer.put([FOUND, at], this.#encodeFound(at, Math.min(found, at + BLOCK_ROWS)))
    }
    this.#written = { rows, found, removed }
  }

  #encodeFound(from: number, to: number): Buffer {
    const block = Buffer.alloc((to - from) * FOUND_BYTES)
    for (let index = from; index < to; index++) {
      const at = (index - from) * FOUND_BYTES
      const { high, low } = this.#contents.at(index)
      block.writeUInt32LE(high, at)
      block.writeUInt32LE(low, at + 4)
      block.writeUInt32LE(this.#sequences.at(index), at + 8)
      block.writeUInt8(this.#measures.at(index), at + 12)
      block.writeDoubleLE(this.#distances.at(index), at + 13)
    }
    return block
  }

  #restore(reader: StateReader, { model, rows, found, exemplarsMax }: z.infer<typeof Meta>): void {
    const from = Math.max(0, rows - exemplarsMax)
    const exemplars = new Exemplars(model, exemplarsMax, from)
    for (const { key, value } of reader.range([EXEMPLAR, blockStart(from)], [EXEMPLAR, rows])) {
      const first = (key as [string, number])[1]
      for (const [i, row] of decodeRows(value, model.mean.length).entries()) {
        if (first + i === exemplars.end) exemplars.addRow(row)
      }
    }
    if (exemplars.end !== rows) throw damaged(`exemplars end at ${exemplars.end}, not ${rows}`)
    for (const { value } of reader.range([FOUND, 0], [FOUND, found])) this.#restoreFound(value)
    if (this.#contents.length !== found) {
      throw damaged(`${found} near-duplicates are expected, ${this.#contents.length} are there`)
    }
    this.#model = model
    this.#exemplars = exemplars
    this.#written = { rows, found, removed: blockStart(from) }
  }

  #restoreFound(value: Uint8Array): void {
    const block = Buffer.from(value)
    for (let at = 0; at < block.length; at += FOUND_BYTES) {
      const content = { high: block.readUInt32LE(at), low: block.readUInt32LE(at + 4) }
      const measure = MEASURES[block.readUInt8(at + 12)]!
      const sequence = block.readUInt32LE(at + 8)
      this.#remember(content, { sequence, measure, distance: block.readDoubleLE(at + 13) })
    }
  }
}

/** Undefined where an example lacks what is compared. */
function appearanceOf(
  model: Nearness,
  { words, layout, trajectory, embedding }: Partial<Likeness>,
): Appearance | undefined {
  const key = contentOf(words ?? '')
  const layouts = readLayouts(layout ?? null)
  if (key === undefined || layouts === undefined || layouts.count > PICTURES_MAX) return undefined
  const state =
    trajectory == null || embedding == null ? undefined : stateOf(model, trajectory, embedding)
  return { words: key, layouts, state }
}

/** Of examples that are no duplicates: is each, in order, a near-duplicate of one before it? As `identify`. */
export function* tellNear(
  examples: Iterable<Partial<Likeness>>,
  model: Nearness,
  { exemplarsMax }: NearSettings,
): Generator<boolean> {
  const exemplars = new Exemplars(model, exemplarsMax)
  let sequence = 0
  for (const example of examples) {
    const appearance = appearanceOf(model, example)
    const isNear = appearance !== undefined && exemplars.find(appearance) !== undefined
    if (appearance !== undefined && !isNear) exemplars.add(appearance, sequence)
    sequence++
    yield isNear
  }
}

/**
 * Row by row, little endian: start u8 · sequence u32 · words u32 u32 · layout i8[54] · state i16[D].
 * Rows of the block that are forgotten hold whatever stands in their place.
 */
function encodeRows(exemplars: Exemplars, from: number, to: number): Buffer {
  const blocks: Buffer[] = []
  for (let number = from; number < to; number++) {
    const { start, sequence, words, layout, state } = exemplars.row(number)
    const row = Buffer.alloc(ROW_HEAD_BYTES + LAYOUT_VALUES + 2 * state.length)
    row.writeUInt8(start, 0)
    row.writeUInt32LE(sequence, 1)
    row.writeUInt32LE(words.high, 5)
    row.writeUInt32LE(words.low, 9)
    row.set(new Uint8Array(layout.buffer), ROW_HEAD_BYTES)
    for (const [d, step] of state.entries()) {
      row.writeInt16LE(step, ROW_HEAD_BYTES + LAYOUT_VALUES + 2 * d)
    }
    blocks.push(row)
  }
  return Buffer.concat(blocks)
}

const ROW_HEAD_BYTES = 1 + 4 + 4 + 4

function decodeRows(value: Uint8Array, dimensions: number): ExemplarRow[] {
  const block = Buffer.from(value)
  const bytes = ROW_HEAD_BYTES + LAYOUT_VALUES + 2 * dimensions
  return Array.from({ length: Math.floor(block.length / bytes) }, (_, i) => {
    const at = i * bytes
    const layoutAt = at + ROW_HEAD_BYTES
    const stateAt = layoutAt + LAYOUT_VALUES
    const state = new Int16Array(dimensions)
    for (let d = 0; d < dimensions; d++) state[d] = block.readInt16LE(stateAt + 2 * d)
    return {
      start: block.readUInt8(at),
      sequence: block.readUInt32LE(at + 1),
      words: { high: block.readUInt32LE(at + 5), low: block.readUInt32LE(at + 9) },
      layout: new Int8Array(block.subarray(layoutAt, stateAt)),
      state,
    }
  })
}

function otherSetting(name: string, before: unknown, now: unknown): XmasdError {
  return new XmasdError(
    'STATE_INVALID',
    `the select state was made with nearDuplicates.${name} ${before}, the configuration says ${now}`,
    `Put select.nearDuplicates.${name} back; or replay the assignments, without scoring, under a new select.group and new names of log.topics.decisions and log.topics.subset.`,
  )
}
