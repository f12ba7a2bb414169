/**
 * Near-duplicates: examples that say the same about the same picture, or that the proxy sees alike. They
 * are a matter of identity and independent of clusters and policy: the similarity model comes from the
 * bundle that the log began with, every example that counts is an exemplar, kept or not, and a match
 * holds for good.
 *
 * In the group's state:
 *
 *     ['near']                     JSON: limit, similarity model, counts
 *     ['exemplar', first row]      a block of 128 rows; forgotten blocks are removed
 *     ['nearDuplicate', first]     a block of 128 matches: content, exemplar, measure, distance
 */
import { z } from 'zod'
import { readLayouts, SimilarityModel, stateOf } from '../../bundle/similarity.ts'
import type { StateReader, StateWriter } from '../../log/log.ts'
import { type ComparedFields, MEASURES } from '../../record.ts'
import { Float64Column, Uint32Column } from '../columns/columns.ts'
import { type Content, contentOf } from '../columns/hash-table.ts'
import { BLOCK_ROWS, blockStart, damaged, otherSetting, readEntry } from '../columns/stored.ts'
import { Owners } from './duplicates.ts'
import { type Appearance, decodeRows, Exemplars, encodeRows, type Match } from './exemplars.ts'

const META = 'near'
const EXEMPLAR = 'exemplar'
const MATCH = 'nearDuplicate'
const MATCH_BYTES = 4 + 4 + 4 + 1 + 8
/** The stored form of a row has one byte for the count. */
const PICTURES_MAX = 254

export type NearSettings = { enabled: boolean; exemplarsMax: number }

/**
 * The example that `record` is a near-duplicate of, whose `content` is new. Where there is none it becomes
 * an exemplar under the number `sequence`, unless that is undefined.
 */
export type FindNear = (
  record: ComparedFields,
  content: Content,
  sequence: number | undefined,
) => Match | undefined

const Meta = z.strictObject({
  v: z.literal(1),
  exemplarsMax: z.int(),
  model: SimilarityModel,
  /** The number of the next row. */
  rows: z.int().min(0),
  found: z.int().min(0),
})
type Meta = z.infer<typeof Meta>

/**
 * Opens what the state holds; undefined where near-duplicates are not looked for. `hasExamples`: the state
 * is not new. Throws XmasdError STATE_INVALID, also as `checkNearSettings`.
 */
export function openNearDuplicates(
  reader: StateReader,
  settings: NearSettings,
  hasExamples: boolean,
): NearDuplicates | undefined {
  checkNearSettings(reader, settings, hasExamples)
  return settings.enabled ? new NearDuplicates(settings, reader) : undefined
}

/**
 * Near-duplicates can't be turned on or off, nor their limit changed, in a state that has examples:
 * decisions would no longer follow from the log. Throws XmasdError STATE_INVALID.
 */
export function checkNearSettings(
  reader: StateReader,
  { enabled, exemplarsMax }: NearSettings,
  hasExamples: boolean,
): void {
  const before = readEntry(reader, META, Meta)
  const wasEnabled = before !== undefined
  if (hasExamples && wasEnabled !== enabled)
    throw otherSetting('nearDuplicates.enabled', wasEnabled, enabled)
  if (wasEnabled && before.exemplarsMax !== exemplarsMax) {
    throw otherSetting('nearDuplicates.exemplarsMax', before.exemplarsMax, exemplarsMax)
  }
}

export class NearDuplicates {
  readonly #exemplarsMax: number
  #exemplars: Exemplars | undefined
  /** Contents that matched an exemplar; the columns hold the matches in the same order. */
  readonly #contents = new Owners()
  readonly #sequences = new Uint32Column()
  readonly #measures = new Uint32Column()
  readonly #distances = new Float64Column()
  /** Where the last `write` ended. */
  #written = { rows: 0, found: 0, removed: 0 }

  /** Opens what `reader` holds, if it holds anything. Throws XmasdError STATE_INVALID. */
  constructor({ exemplarsMax }: Pick<NearSettings, 'exemplarsMax'>, reader?: StateReader) {
    this.#exemplarsMax = exemplarsMax
    const meta = reader && readEntry(reader, META, Meta)
    if (meta !== undefined) this.#restore(reader!, meta)
  }

  /** Whether there is a similarity model: `learn` must come before the first example. */
  get isLearned(): boolean {
    return this.#exemplars !== undefined
  }

  learn(model: SimilarityModel): void {
    this.#exemplars = new Exemplars(model, this.#exemplarsMax)
  }

  /** The match that was found for `content` before. */
  recall(content: Content): Match | undefined {
    const index = this.#contents.find(content)
    if (index === undefined) return undefined
    const sequence = this.#sequences.at(index)
    const measure = MEASURES[this.#measures.at(index)]!
    return { sequence, measure, distance: this.#distances.at(index) }
  }

  /**
   * Finds the match of an example, or makes it an exemplar under `sequence`. An example that lacks the
   * compared fields is neither.
   */
  readonly identify: FindNear = (record, content, sequence) => {
    const known = this.recall(content)
    if (known !== undefined || this.#exemplars === undefined) return known
    const appearance = appearanceOf(this.#exemplars.model, record)
    if (appearance === undefined) return undefined
    const match = this.#exemplars.find(appearance)
    if (match !== undefined) this.#remember(content, match)
    else if (sequence !== undefined) this.#exemplars.add(appearance, sequence)
    return match
  }

  #remember(content: Content, { sequence, measure, distance }: Match): void {
    this.#contents.add(content)
    this.#sequences.push(sequence)
    this.#measures.push(MEASURES.indexOf(measure))
    this.#distances.push(distance)
  }

  /** Writes what came since the last time. Call it inside `commit`, once. */
  write(writer: StateWriter): void {
    const exemplars = this.#exemplars
    if (exemplars === undefined) return
    const [rows, found] = [exemplars.end, this.#contents.length]
    const meta: Meta = {
      v: 1,
      exemplarsMax: this.#exemplarsMax,
      model: exemplars.model,
      rows,
      found,
    }
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
      writer.put([MATCH, at], this.#encodeMatches(at, Math.min(found, at + BLOCK_ROWS)))
    }
    this.#written = { rows, found, removed }
  }

  /** Little endian, match by match: content u32 u32 · sequence u32 · measure u8 · distance f64. */
  #encodeMatches(from: number, to: number): Buffer {
    const block = Buffer.alloc((to - from) * MATCH_BYTES)
    for (let index = from, at = 0; index < to; index++, at += MATCH_BYTES) {
      const { high, low } = this.#contents.at(index)
      block.writeUInt32LE(high, at)
      block.writeUInt32LE(low, at + 4)
      block.writeUInt32LE(this.#sequences.at(index), at + 8)
      block.writeUInt8(this.#measures.at(index), at + 12)
      block.writeDoubleLE(this.#distances.at(index), at + 13)
    }
    return block
  }

  #restoreMatches(value: Uint8Array): void {
    const block = Buffer.from(value)
    for (let at = 0; at < block.length; at += MATCH_BYTES) {
      const content = { high: block.readUInt32LE(at), low: block.readUInt32LE(at + 4) }
      const sequence = block.readUInt32LE(at + 8)
      const measure = MEASURES[block.readUInt8(at + 12)]!
      this.#remember(content, { sequence, measure, distance: block.readDoubleLE(at + 13) })
    }
  }

  #restore(reader: StateReader, { model, rows, found, exemplarsMax }: Meta): void {
    const from = Math.max(0, rows - exemplarsMax)
    const exemplars = new Exemplars(model, exemplarsMax, { from })
    for (const { key, value } of reader.range([EXEMPLAR, blockStart(from)], [EXEMPLAR, rows])) {
      const first = (key as [string, number])[1]
      for (const [i, row] of decodeRows(value, model.mean.length).entries()) {
        if (first + i === exemplars.end) exemplars.addRow(row)
      }
    }
    if (exemplars.end !== rows) throw damaged(`exemplars end at ${exemplars.end}, not ${rows}`)
    for (const { value } of reader.range([MATCH, 0], [MATCH, found])) this.#restoreMatches(value)
    if (this.#contents.length !== found) {
      throw damaged(`${found} near-duplicates are expected, ${this.#contents.length} are there`)
    }
    this.#exemplars = exemplars
    this.#written = { rows, found, removed: blockStart(from) }
  }
}

/** Undefined where an example lacks the compared fields. */
export function appearanceOf(
  model: SimilarityModel,
  { words, layout, trajectory, embedding }: ComparedFields,
): Appearance | undefined {
  const key = contentOf(words ?? '')
  const layouts = readLayouts(layout ?? null)
  if (key === undefined || layouts === undefined || layouts.count > PICTURES_MAX) return undefined
  const state =
    trajectory == null || embedding == null ? undefined : stateOf(model, trajectory, embedding)
  return { words: key, layouts, state }
}

/** Whether each example, none a duplicate, is a near-duplicate of an earlier one; as `identify`. */
export function* flagNearDuplicates(
  examples: Iterable<ComparedFields>,
  model: SimilarityModel,
  { exemplarsMax }: Pick<NearSettings, 'exemplarsMax'>,
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
