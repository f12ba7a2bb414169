/**
 * Tiny random proxies of every family, saved and scored by transformers itself, against our scorer:
 * the same ids and labels, the same singular values, the same losses. `PARITY_PYTHON` is what `test/parity/python.sh` prints;
 * with REQUIRE_PARITY=1 its absence is a failure.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { ENGINES, type EngineName } from '../../src/engine/engine.ts'
import { MODES } from '../../src/score/attention.ts'
import type { Sequence } from '../../src/score/batch.ts'
import type { Scored } from '../../src/score/scorer.ts'
import { type ScoringOptions, startScoring } from '../../src/score/scoring.ts'
import { compareAllPixels, compareScores, GAIN_MAX, readFamilySet } from '../golden-families.ts'
import {
  type GoldenSet,
  goldenSequences,
  readGoldenSet,
  worstGain,
  worstOf,
} from '../golden-sets.ts'
import { parityPython, ROOT, temporaryFolder } from '../support.ts'

/** As for the goldens: relative, of every singular value. */
const RELATIVE_MAX = 1e-5
/** On these random proxies transformers itself, in float32, is up to 2.3e-5 from float64. */
const FAMILIES_RELATIVE_MAX = 5e-5

test('proxies that transformers saved score as transformers scores them', async t => {
  const python = parityPython(t)
  if (python === undefined) return
  const folder = temporaryFolder(t)
  await promisify(execFile)(python, [join(ROOT, 'test/parity/make_parity.py'), folder])
  for (const name of readdirSync(folder).sort()) {
    const set = readGoldenSet(join(folder, name))
    for (const engine of ENGINES) await t.test(`${name}, ${engine}`, t => compare(t, set, engine))
  }
})

test('proxies of other families that transformers saved score as transformers scores them', async t => {
  const python = parityPython(t)
  if (python === undefined) return
  const folder = temporaryFolder(t)
  await promisify(execFile)(python, [join(ROOT, 'test/parity/make_families.py'), folder])
  for (const name of readdirSync(folder).sort()) {
    const set = await readFamilySet(join(folder, name))
    compareAllPixels(set)
    for (const engine of ENGINES) {
      await t.test(`${name}, ${engine}`, t => compareScores(t, set, engine, FAMILIES_RELATIVE_MAX))
    }
  }
})

async function compare(t: TestContext, set: GoldenSet, engine: EngineName): Promise<void> {
  const { schedule, sequences } = await goldenSequences(set, 'run')
  assert.deepEqual(
    schedule.checkpoints.map(({ step }) => step),
    set.expected.steps,
  )
  for (const mode of MODES) {
    const scored = await scoreAll({ proxyDir: schedule.dir, engine, mode }, sequences)
    const worst = worstOf(scored, set.expected.modes[mode].top5)
    t.diagnostic(`${mode}: ${worst.toExponential(2)} from transformers`)
    assert.ok(worst <= RELATIVE_MAX, `${mode}: ${worst}`)
  }
  const metric = { metric: 'loss', mode: 'reference' } as const
  const scored = await scoreAll({ proxyDir: schedule.dir, engine, ...metric }, sequences)
  const worst = worstLoss(scored, set.expected.losses!)
  t.diagnostic(`loss: ${worst.toExponential(2)} from transformers`)
  assert.ok(worst <= RELATIVE_MAX, `loss: ${worst}`)
  const gain = { gain: 'each', mode: 'reference' } as const
  const gained = await scoreAll({ proxyDir: schedule.dir, engine, ...gain }, sequences)
  const furthest = worstGain(gained, set.expected.losses!, set.expected.bare_losses!)
  t.diagnostic(`gain: ${furthest.toExponential(2)} nats from transformers`)
  assert.ok(furthest <= GAIN_MAX, `gain: ${furthest}`)
}

/** Largest relative difference of any loss. */
function worstLoss(
  scored: readonly (Scored | null)[],
  expected: readonly (number[] | null)[],
): number {
  const differences = scored.flatMap((one, i) => {
    if (one === null) return []
    assert.ok('losses' in one, JSON.stringify(one))
    assert.equal(one.losses.length, expected[i]!.length)
    return one.losses.map((loss, t) => Math.abs(loss - expected[i]![t]!) / expected[i]![t]!)
  })
  return Math.max(...differences)
}

async function scoreAll(
  options: ScoringOptions,
  sequences: readonly (Sequence | null)[],
): Promise<(Scored | null)[]> {
  const scoring = await startScoring({ ...options, workers: 1, threads: 1 })
  try {
    const scored = await scoring.score(sequences.filter(sequence => sequence !== null))
    return sequences.map(sequence => (sequence === null ? null : scored.shift()!))
  } finally {
    await scoring.close()
  }
}
