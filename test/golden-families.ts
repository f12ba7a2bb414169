/**
 * Sets of other families: rendered prompts, pictures, ids and scores as transformers has them, in the form of
 * `../shared/goldens/families`.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { z } from 'zod'
import type { EngineName } from '../src/engine/engine.ts'
import { decodeImage } from '../src/ingest/image/decode.ts'
import type { Picture, Pictures } from '../src/ingest/image/picture.ts'
import { IMAGE_LIMITS } from '../src/ingest/image/pixels.ts'
import { imageHash } from '../src/ingest/prepare.ts'
import { encodeWhole, readTokenizer } from '../src/ingest/tokenizer.ts'
import { familyOf } from '../src/proxy/checkpoint/config.ts'
import { openSchedule, type Schedule } from '../src/proxy/checkpoint/schedule.ts'
import { MODES } from '../src/score/attention.ts'
import type { Sequence } from '../src/score/batch.ts'
import { loadScorer, type Scored, type ScorerOptions } from '../src/score/scorer.ts'
import { Bare, type Top5, worstGain, worstOf } from './golden-sets.ts'
import { readTensors } from './goldens.ts'
import { shared } from './support.ts'

/** Relative, of every singular value and loss. */
export const GOLDEN_RELATIVE_MAX = 2e-5

const Values = z.array(z.array(z.array(z.number())).nullable())
const Expected = z.object({
  steps: z.array(z.number()),
  examples: z.array(
    z.object({
      has_image: z.boolean(),
      prompt: z.string(),
      input_ids: z.array(z.number()),
      columns: z.array(z.number()).nullable(),
      rows: z.array(z.number()).nullable(),
      answers: z.array(z.number()),
      bare: Bare.optional(),
    }),
  ),
  modes: z.object({ reference: z.object({ top5: Values }), paper: z.object({ top5: Values }) }),
  losses: z.array(z.array(z.number()).nullable()),
  bare_losses: z.array(z.array(z.number()).nullable()).optional(),
})
const Data = z.array(z.object({ image: z.union([z.string(), z.array(z.string())]).optional() }))

export type FamilySet = {
  dir: string
  expected: z.infer<typeof Expected>
  schedule: Schedule
  /** Of each example; null for text-only. */
  sequences: (Sequence | null)[]
}

export async function familySets(t: TestContext, name: string): Promise<FamilySet[]> {
  const more = process.env.MORE_FAMILIES
  const folder = shared(t, 'goldens', 'families')
  const folders = [folder, more].filter(dir => dir !== undefined).map(dir => join(dir, name))
  const found = folders.filter(dir => existsSync(dir))
  return Promise.all(found.map(dir => readFamilySet(dir)))
}

export async function readFamilySet(dir: string): Promise<FamilySet> {
  const expected = Expected.parse(JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')))
  const schedule = openSchedule(join(dir, 'run'), 'logits')
  const { config, checkpoints } = schedule
  assert.deepEqual(
    checkpoints.map(({ step }) => step),
    expected.steps,
  )
  const checkpointDir = checkpoints[0]!.dir
  const tokenizer = readTokenizer(checkpointDir)
  const pictures = familyOf(config).pictures(config, checkpointDir, 'checkpoint')
  const { placeholder } = pictures
  const data = Data.parse(JSON.parse(readFileSync(join(dir, 'data.json'), 'utf8')))
  const sequences: (Sequence | null)[] = []
  for (const [i, { image }] of data.entries()) {
    const { has_image, prompt, input_ids, answers, columns, rows } = expected.examples[i]!
    const files = image === undefined ? [] : [image].flat().map(name => join(dir, name))
    const images = await cutAll(files, pictures)
    assert.equal(images.length > 0, has_image)
    const expansions = images.map(({ text }) => text)
    const shown = { mark: placeholder, imageToken: placeholder, expansions }
    const encoded = encodeWhole(tokenizer, prompt, shown, config)
    assert.deepEqual([...encoded.ids], input_ids)
    if (has_image) assert.deepEqual([...encoded.columns], columns)
    if (has_image) assert.deepEqual([...encoded.rows], rows)
    const without = { ...shown, expansions: expansions.map(() => '') }
    const { ids } = encodeWhole(tokenizer, prompt, without, config)
    const { bare } = expected.examples[i]!
    if (bare) assert.deepEqual([...ids], bare.ids)
    const sequence = {
      ...encoded,
      answers: Int32Array.from(answers),
      ...(bare && { bare: { ids, answers: Int32Array.from(bare.answers) } }),
      images: images.map(({ image }) => image),
    }
    sequences.push(has_image ? sequence : null)
  }
  return { dir, expected, schedule, sequences }
}

async function cutAll(
  files: readonly string[],
  pictures: Pictures,
): Promise<{ text: string; image: Sequence['images'][number] }[]> {
  const cut = []
  for (const file of files) {
    const rgb = await decodeImage(readFileSync(file), IMAGE_LIMITS)
    const { text, variant = '', ...image }: Picture = pictures.cut(rgb, files.length, IMAGE_LIMITS)
    cut.push({ text, image: { hash: imageHash(rgb) + variant, ...image } })
  }
  return cut
}

/** The processor's pixels of every example. */
export function compareAllPixels({ dir, schedule, sequences }: FamilySet): void {
  const tensors = readTensors(join(dir, 'expected.safetensors'))
  for (const [i, sequence] of sequences.entries()) {
    if (sequence === null) continue
    const exact = tensors.get(`pixel_values.${i}`)!
    const grids = tensors.get(`image_grid_thw.${i}`)
    comparePixels(sequence, exact, grids === undefined ? schedule : undefined)
  }
}

/** The same values, tile by tile, whatever their order within a tile. Tiles of zeros are padding. */
function comparePixels(
  { images }: Sequence,
  { data, shape }: { data: ArrayLike<number | bigint>; shape: readonly number[] },
  tiled: Schedule | undefined,
): void {
  const exact = data as Float32Array
  if (tiled === undefined) {
    const found = Float32Array.from(images.flatMap(({ patches }) => [...patches]))
    assert.deepEqual(found, exact)
    return
  }
  const size = shape.slice(-3).reduce((product, n) => product * n, 1)
  const tiles: Float32Array[] = []
  for (let at = 0; at < exact.length; at += size) {
    const tile = exact.subarray(at, at + size)
    if (tile.some(value => value !== 0)) tiles.push(tile)
  }
  const own = images.flatMap(({ patches, cut }) => {
    const count = cut?.tiles ?? 1
    const size = patches.length / count
    return Array.from({ length: count }, (_, k) => patches.subarray(k * size, (k + 1) * size))
  })
  assert.equal(own.length, tiles.length)
  for (const [k, tile] of tiles.entries()) {
    assert.deepEqual(Float32Array.from(own[k]!).sort(), Float32Array.from(tile).sort())
  }
}

export async function compareScores(
  t: TestContext,
  set: FamilySet,
  engine: EngineName,
  relativeMax: number,
): Promise<void> {
  const { dir, expected, schedule, sequences } = set
  for (const mode of MODES) {
    const scored = await scoreAll({ schedule, engine, mode, threads: 1 }, sequences)
    const worst = worstOf(scored, expected.modes[mode].top5 as Top5)
    t.diagnostic(`${dir} ${mode}: ${worst.toExponential(2)} from float64`)
    assert.ok(worst <= relativeMax, `${mode}: ${worst}`)
  }
  const loss = { metric: 'loss', mode: 'reference' } as const
  const scored = await scoreAll({ schedule, engine, ...loss, threads: 1 }, sequences)
  const worst = worstLoss(scored, expected.losses)
  t.diagnostic(`${dir} loss: ${worst.toExponential(2)} from float64`)
  assert.ok(worst <= relativeMax, `loss: ${worst}`)
  await compareGains(t, set, engine)
}

/** In nats. */
export const GAIN_MAX = 1e-4

/** Where the set has losses without the pictures. */
async function compareGains(t: TestContext, set: FamilySet, engine: EngineName): Promise<void> {
  const { dir, expected, schedule, sequences } = set
  if (expected.bare_losses === undefined) return
  const options = { schedule, engine, mode: 'reference', gain: 'each', threads: 1 } as const
  const scored = await scoreAll(options, sequences)
  const worst = worstGain(scored, expected.losses, expected.bare_losses)
  t.diagnostic(`${dir} gain: ${worst.toExponential(2)} nats from float64`)
  assert.ok(worst <= GAIN_MAX, `gain: ${worst}`)
}

function worstLoss(
  scored: readonly (Scored | null)[],
  expected: readonly (number[] | null)[],
): number {
  const differences = scored.flatMap((one, i) => {
    if (one === null) return []
    assert.ok('losses' in one, JSON.stringify(one))
    return one.losses.map((loss, t) => Math.abs(loss - expected[i]![t]!) / expected[i]![t]!)
  })
  return Math.max(...differences)
}

/** All examples in one pass, so that they share what they have in common. */
async function scoreAll(
  options: ScorerOptions,
  sequences: readonly (Sequence | null)[],
): Promise<(Scored | null)[]> {
  const scorer = await loadScorer(options)
  try {
    const scored = await scorer.score([sequences.filter(sequence => sequence !== null)])
    return sequences.map(sequence => (sequence === null ? null : scored.shift()!))
  } finally {
    await scorer.close()
  }
}
