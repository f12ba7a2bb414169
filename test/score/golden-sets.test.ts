/** Every golden set, from the image files, on both engines. */
import assert from 'node:assert/strict'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { Engine, EngineChoice } from '../../src/engine/engine.ts'
import { tensorflowEngine } from '../../src/engine/tensorflow/engine.ts'
import { largestSingularValues } from '../../src/math/singular-values.ts'
import type { Schedule } from '../../src/proxy/checkpoint/schedule.ts'
import { MODES, type Mode } from '../../src/score/attention.ts'
import { ownPart, packBatch, type Sequence } from '../../src/score/batch.ts'
import { compileScore, compileVision } from '../../src/score/checkpoint-score.ts'
import { instabilityOf, trajectoryOf } from '../../src/score/metric.ts'
import type { Scored } from '../../src/score/scorer.ts'
import { startScoring } from '../../src/score/scoring.ts'
import {
  GOLDEN_SETS,
  type GoldenSet,
  goldenSequences,
  goldenSets,
  type Top5,
  worstOf,
} from '../golden-sets.ts'
import { withBackend } from '../tensorflow.ts'
import { featuresOf } from './passes.ts'

const EXACT_MAX = 1e-5
const ENGINES_MAX = 1e-4
const COARSE_MAX = 0.01

for (const name of GOLDEN_SETS) {
  test(`${name}: every example and checkpoint from the image files, half-precision weights, both modes`, async t => {
    for (const { dir, label, mode, sequences, exact } of await runsOf(t, name)) {
      const worst = worstOf(await scoreAll(dir, mode, sequences), exact)
      t.diagnostic(`${label}: ${worst.toExponential(2)} from float64`)
      assert.ok(worst <= EXACT_MAX, `${label}: ${worst}`)
    }
  })

  test(`${name}: the same on the tensorflow addon, which agrees with onnx`, async t => {
    if (!(await withBackend(t, 'tensorflow'))) return
    for (const { dir, label, mode, sequences, exact } of await runsOf(t, name)) {
      const onnx = await scoreAll(dir, mode, sequences)
      const tensorflow = await scoreAll(dir, mode, sequences, { engine: 'tensorflow' })
      const [worst, apart] = [worstOf(tensorflow, exact), worstOf(tensorflow, onnx.map(valuesOf))]
      const found = `${worst.toExponential(2)}, engines ${apart.toExponential(2)} apart`
      t.diagnostic(`${label}: ${found}`)
      assert.ok(worst <= EXACT_MAX && apart <= ENGINES_MAX, `${label}: ${found}`)
    }
  })

  test(`${name}: coarse layers in bfloat16 keep trajectories within 1 % of the exact ones`, async t => {
    if (!(await withBackend(t, 'tensorflow'))) return
    for (const { dir, label, mode, sequences, exact } of await runsOf(t, name)) {
      const choice = { engine: 'tensorflow', precision: 'bfloat16' } as const
      const errors = errorsOf(await scoreAll(dir, mode, sequences, choice), exact)
      const [trajectory, instability] = [percent(errors.trajectory), percent(errors.instability)]
      t.diagnostic(`${label}: trajectories ${trajectory}, instability ${instability}`)
      assert.ok(errors.trajectory <= COARSE_MAX, `${label}: ${trajectory}`)
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

type Run = { dir: string; label: string; mode: Mode; sequences: (Sequence | null)[]; exact: Top5 }

/** The whole schedule and the half-precision variants of the first checkpoint, each in both modes. */
async function runsOf(t: TestContext, name: string): Promise<Run[]> {
  const runs: Run[] = []
  for (const set of goldenSets(t, name)) {
    const variants = Object.keys(set.expected.variants).map(variant => dirname(variant))
    for (const run of ['run', ...variants]) {
      const { schedule, sequences } = await goldenSequences(set, run)
      const steps = schedule.checkpoints.map(({ step }) => step)
      if (run === 'run') assert.deepEqual(steps, set.expected.steps)
      for (const mode of MODES) {
        const label = `${set.dir} ${run} ${mode}`
        const exact = expectedOf(set, run, mode)
        runs.push({ dir: join(set.dir, run), label, mode, sequences, exact })
      }
    }
  }
  return runs
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
  const results: (Scored | null)[] = []
  for (const sequence of sequences) {
    if (sequence === null) {
      results.push(null)
      continue
    }
    const packed = packBatch([sequence], config)
    const features = await featuresOf(tower, config, packed.images)
    const own = ownPart(await score.run({ ...packed.inputs, features }), 0, sequence)
    const { columns, rows } = sequence
    const singularValues = [largestSingularValues(own, columns.length, rows.length)]
    results.push({ singularValues, embedding: '', question: '' })
  }
  await tower.release()
  await score.release()
  return results
}
