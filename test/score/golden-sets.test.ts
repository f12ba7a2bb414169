/** Every golden set, from the image files, on both engines. */
import assert from 'node:assert/strict'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import type { Engine, EngineChoice } from '../../src/engine/engine.ts'
import { tensorflowEngine } from '../../src/engine/tensorflow.ts'
import { patchesPerImage } from '../../src/proxy/config.ts'
import type { Schedule } from '../../src/proxy/schedule.ts'
import { MODES, type Mode } from '../../src/score/attention.ts'
import { ownPart, packBatch, type Sequence } from '../../src/score/batch.ts'
import { stackPatches } from '../../src/score/images.ts'
import { compileScore, compileVision } from '../../src/score/programs.ts'
import type { Scored } from '../../src/score/scorer.ts'
import { startScoring } from '../../src/score/scoring.ts'
import { largestSingularValues } from '../../src/score/singular.ts'
import { instabilityOf, trajectoryOf } from '../../src/score/trajectory.ts'
import {
  GOLDEN_SETS,
  type GoldenSet,
  goldenSequences,
  goldenSets,
  type Top5,
  worstOf,
} from '../golden-sets.ts'
import { withBackend } from '../tensorflow.ts'

const EXACT_MAX = 1e-5
const ENGINES_MAX = 1e-4

for (const name of GOLDEN_SETS) {
  test(`${name}: every example and checkpoint from the image files, both modes`, async t => {
    for (const set of goldenSets(t, name)) {
      const { schedule, sequences } = await goldenSequences(set, 'run')
      assert.deepEqual(
        schedule.checkpoints.map(({ step }) => step),
        set.expected.steps,
      )
      for (const mode of MODES) {
        const scored = await scoreAll(join(set.dir, 'run'), mode, sequences)
        const worst = worstOf(scored, expectedOf(set, 'run', mode))
        t.diagnostic(`${set.dir} ${mode}: ${worst.toExponential(2)} from float64`)
        assert.ok(worst <= EXACT_MAX, `${set.dir} ${mode}: ${worst}`)
      }
    }
  })

  test(`${name}: half-precision weights, both modes`, async t => {
    for (const set of goldenSets(t, name)) {
      for (const variant of Object.keys(set.expected.variants)) {
        const { sequences } = await goldenSequences(set, dirname(variant))
        for (const mode of MODES) {
          const scored = await scoreAll(join(set.dir, dirname(variant)), mode, sequences)
          const worst = worstOf(scored, expectedOf(set, dirname(variant), mode))
          t.diagnostic(`${set.dir} ${variant} ${mode}: ${worst.toExponential(2)} from PyTorch`)
          assert.ok(worst <= EXACT_MAX, `${set.dir} ${variant} ${mode}: ${worst}`)
        }
      }
    }
  })

  test(`${name}: the tensorflow addon, every example and checkpoint, half-precision weights, both modes`, async t => {
    if (!(await withBackend(t, 'tensorflow'))) return
    for (const set of goldenSets(t, name)) {
      const variants = Object.keys(set.expected.variants).map(variant => dirname(variant))
      for (const run of ['run', ...variants]) {
        const { sequences } = await goldenSequences(set, run)
        for (const mode of MODES) {
          const [onnx, tensorflow] = [
            await scoreAll(join(set.dir, run), mode, sequences),
            await scoreAll(join(set.dir, run), mode, sequences, { engine: 'tensorflow' }),
          ]
          const worst = worstOf(tensorflow, expectedOf(set, run, mode))
          const apart = worstOf(tensorflow, onnx.map(valuesOf))
          t.diagnostic(
            `${set.dir} ${run} ${mode}: ${worst.toExponential(2)}, engines ${apart.toExponential(2)} apart`,
          )
          assert.ok(worst <= EXACT_MAX, `${set.dir} ${run} ${mode}: ${worst}`)
          assert.ok(apart <= ENGINES_MAX, `${set.dir} ${run} ${mode}: engines ${apart} apart`)
        }
      }
    }
  })

  test(`${name}: bfloat16 linears keep trajectories within 1 % of the exact ones`, async t => {
    if (!(await withBackend(t, 'tensorflow'))) return
    for (const set of goldenSets(t, name)) {
      const variants = Object.keys(set.expected.variants).map(variant => dirname(variant))
      for (const run of ['run', ...variants]) {
        const { sequences } = await goldenSequences(set, run)
        for (const mode of MODES) {
          const choice = { engine: 'tensorflow', precision: 'bfloat16' } as const
          const scored = await scoreAll(join(set.dir, run), mode, sequences, choice)
          const { trajectory, instability } = errorsOf(scored, expectedOf(set, run, mode))
          t.diagnostic(
            `${set.dir} ${run} ${mode}: trajectories ${percent(trajectory)}, instability ${percent(instability)}`,
          )
          assert.ok(trajectory <= 0.01, `${set.dir} ${run} ${mode}: ${trajectory}`)
        }
      }
    }
  })

  test(`${name}: tensorflow on wasm, every example, the first checkpoint, both modes`, async t => {
    for (const set of goldenSets(t, name)) {
      const { schedule, sequences } = await goldenSequences(set, 'run')
      for (const mode of MODES) {
        const first = { ...schedule, checkpoints: schedule.checkpoints.slice(0, 1) }
        const scored = await scoreOn(tensorflowEngine({ backend: 'wasm' }), first, mode, sequences)
        const exact = expectedOf(set, 'run', mode).map(rows => rows?.slice(0, 1) ?? null)
        const worst = worstOf(scored, exact)
        t.diagnostic(`${set.dir} ${mode}: wasm ${worst.toExponential(2)} from float64`)
        assert.ok(worst <= EXACT_MAX, `${set.dir} ${mode}: ${worst}`)
      }
    }
  })
}

/** Of `run` in float64; of a half-precision variant as PyTorch gave it. */
function expectedOf({ expected }: GoldenSet, run: string, mode: Mode): Top5 {
  const variant = Object.entries(expected.variants).find(([name]) => dirname(name) === run)?.[1]
  return variant === undefined
    ? expected.modes[mode].float64.top5
    : variant[mode].top5.map(row => row && [row])
}

/** Largest relative errors of the scores of any checkpoint, and of any instability that is not 0. */
function errorsOf(
  scored: readonly (Scored | null)[],
  top5: Top5,
): { trajectory: number; instability: number } {
  const errors = { trajectory: 0, instability: 0 }
  for (const [i, one] of scored.entries()) {
    const [values, exact] = [valuesOf(one), top5[i]!]
    if (values === null || exact === null) continue
    const [own, expected] = [trajectoryOf(values), trajectoryOf(exact)]
    for (const [t, score] of expected.entries()) {
      errors.trajectory = Math.max(errors.trajectory, Math.abs(own[t]! / score - 1))
    }
    if (instabilityOf(expected) === 0) continue
    const ratio = instabilityOf(own) / instabilityOf(expected)
    errors.instability = Math.max(errors.instability, Math.abs(ratio - 1))
  }
  return errors
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`
}

function valuesOf(scored: Scored | null): number[][] | null {
  if (scored === null) return null
  assert.ok('singularValues' in scored, JSON.stringify(scored))
  return scored.singularValues
}

async function scoreAll(
  proxyDir: string,
  mode: Mode,
  sequences: readonly (Sequence | null)[],
  choice: Pick<EngineChoice, 'engine' | 'precision'> = {},
): Promise<(Scored | null)[]> {
  const scoring = await startScoring({ proxyDir, mode, ...choice, workers: 1, threads: 1 })
  try {
    const scored = await scoring.score(sequences.filter(sequence => sequence !== null))
    return sequences.map(sequence => (sequence === null ? null : scored.shift()!))
  } finally {
    await scoring.close()
  }
}

async function scoreOn(
  engine: Engine,
  { config, checkpoints }: Schedule,
  mode: Mode,
  sequences: readonly (Sequence | null)[],
): Promise<(Scored | null)[]> {
  const tower = await compileVision(engine, config, checkpoints[0]!)
  const score = await compileScore(engine, config, mode, checkpoints[0]!)
  const patchCount = patchesPerImage(config.vision)
  const results: (Scored | null)[] = []
  for (const sequence of sequences) {
    if (sequence === null) {
      results.push(null)
      continue
    }
    const packed = packBatch([sequence], config)
    const features = await tower.run({ patches: stackPatches(packed.images, patchCount) })
    const own = ownPart(await score.run({ ...packed.inputs, features }), 0, sequence)
    const { columns, rows } = sequence
    const singularValues = [largestSingularValues(own, columns.length, rows.length)]
    results.push({ singularValues, embedding: '' })
  }
  await tower.release()
  await score.release()
  return results
}
