/**
 * Whole golden sets, from their image files: those of `../shared/goldens` and, for shapes that were
 * held out, those in the folder that MORE_GOLDENS names.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { z } from 'zod'
import { IMAGE_LIMITS } from '../src/ingest/image/pixels.ts'
import { createPreparer } from '../src/ingest/prepare.ts'
import { familyOf } from '../src/proxy/checkpoint/config.ts'
import { openSchedule, type Schedule } from '../src/proxy/checkpoint/schedule.ts'
import type { Sequence } from '../src/score/batch.ts'
import type { Scored } from '../src/score/scorer.ts'
import { shared } from './support.ts'

export const GOLDEN_SETS = ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']

/** Per example, checkpoint, k; null where there is no image. */
export type Top5 = (number[][] | null)[]

/** The prompt without its pictures; null for text-only. */
export const Bare = z.object({ ids: z.array(z.number()), answers: z.array(z.number()) }).nullable()

const Top5 = z.array(z.array(z.array(z.number())).nullable())
const Single = z.object({ top5: z.array(z.array(z.number()).nullable()) })
const Mode = z.looseObject({ top5: Top5, float64: z.object({ top5: Top5 }) })
const Expected = z.object({
  template: z.object({
    system: z.string(),
    image: z.string(),
    user: z.string(),
    assistant: z.string(),
  }),
  max_length: z.number().nullable(),
  image_tokens: z.number(),
  steps: z.array(z.number()),
  examples: z.array(
    z.object({
      has_image: z.boolean(),
      input_ids: z.array(z.number()),
      answers: z.array(z.number()).optional(),
      bare: Bare.optional(),
    }),
  ),
  modes: z.object({ reference: Mode, paper: Mode }),
  /** Per example and checkpoint. */
  losses: z.array(z.array(z.number()).nullable()).optional(),
  /** The same without the pictures. */
  bare_losses: z.array(z.array(z.number()).nullable()).optional(),
  /** The first checkpoint in half precision, computed in float32. */
  variants: z.record(z.string(), z.looseObject({ reference: Single, paper: Single })),
})

export type GoldenSet = { dir: string; expected: z.infer<typeof Expected> }

/** The set of this name in every folder that has it; empty after a loud skip. */
export function goldenSets(t: TestContext, name: string): GoldenSet[] {
  const more = process.env.MORE_GOLDENS
  return [shared(t, 'goldens', name), more === undefined ? undefined : join(more, name)]
    .filter(dir => dir !== undefined && existsSync(dir))
    .map(dir => readGoldenSet(dir!))
}

export function readGoldenSet(dir: string): GoldenSet {
  const json: unknown = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'))
  return { dir, expected: Expected.parse(json) }
}

/** `run` is a folder of the set. Each example's sequence; null for text-only. Checks ids and answers. */
export async function goldenSequences(
  { dir, expected }: GoldenSet,
  run: string,
): Promise<{ schedule: Schedule; sequences: (Sequence | null)[] }> {
  const schedule = openSchedule(join(dir, run))
  const { config } = schedule
  const { imageTokens, imageTokenId, lengthMax } = config
  assert.equal(imageTokens, expected.image_tokens)
  if (expected.max_length !== null) assert.equal(lengthMax, expected.max_length)
  const checkpointDir = schedule.checkpoints[0]!.dir
  const options = {
    imageRoot: dir,
    limits: IMAGE_LIMITS,
    hosts: [],
    addressesAllowed: [],
    checkpointDir,
    template: expected.template,
    imageTokens,
    imageTokenId,
    lengthMax,
    answers: expected.losses !== undefined,
    gain: expected.bare_losses !== undefined,
  }
  const pictures = familyOf(config).pictures(config, checkpointDir, undefined)
  const preparer = createPreparer(options, pictures)
  const data: unknown[] = JSON.parse(readFileSync(join(dir, 'data.json'), 'utf8'))
  const sequences: (Sequence | null)[] = []
  for (const [i, example] of data.entries()) {
    const { sequence } = await preparer.prepare(Buffer.from(JSON.stringify(example)))
    assert.equal(sequence !== null, expected.examples[i]!.has_image)
    const { input_ids, answers, bare } = expected.examples[i]!
    if (sequence && bare) assert.deepEqual(plain(sequence.bare!), bare)
    if (sequence) assert.deepEqual([...sequence.ids], input_ids)
    if (sequence && answers) assert.deepEqual([...sequence.answers], answers)
    sequences.push(sequence)
  }
  return { schedule, sequences }
}

function plain({ ids, answers }: NonNullable<Sequence['bare']>): z.infer<typeof Bare> {
  return { ids: [...ids], answers: [...answers] }
}

/** Largest difference, in nats, of any gain of any example and checkpoint from that of the losses. */
export function worstGain(
  scored: readonly (Scored | null)[],
  losses: readonly (readonly number[] | null)[],
  bareLosses: readonly (readonly number[] | null)[],
): number {
  const differences = scored.flatMap((one, i) => {
    if (one === null) return []
    assert.ok('gains' in one && one.gains != null, JSON.stringify(one))
    assert.equal(one.gains.length, losses[i]!.length)
    return one.gains.map((gain, t) => Math.abs(gain - (bareLosses[i]![t]! - losses[i]![t]!)))
  })
  return Math.max(...differences)
}

/** Largest relative difference of any singular value of any example and checkpoint. */
export function worstOf(scored: readonly (Scored | null)[], top5: Top5): number {
  assert.equal(scored.length, top5.length)
  let worst = 0
  for (const [i, one] of scored.entries()) {
    const rows = top5[i]!
    assert.equal(one === null, rows === null)
    if (one === null || rows === null) continue
    assert.ok('singularValues' in one, JSON.stringify(one))
    assert.equal(one.singularValues.length, rows.length)
    for (const [t, row] of rows.entries()) {
      for (const [k, value] of row.entries()) {
        const difference = Math.abs(one.singularValues[t]![k]! - value)
        worst = Math.max(worst, value === 0 ? difference : difference / value)
      }
    }
  }
  return worst
}
