/**
 * Tiny random proxies of every family, saved and scored by transformers itself, against our scorer:
 * the same ids, the same singular values. `PARITY_PYTHON` is what `test/parity/python.sh` prints;
 * with REQUIRE_PARITY=1 its absence is a failure.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { ENGINES, type EngineName } from '../../src/engine/engine.ts'
import { MODES, type Mode } from '../../src/score/attention.ts'
import type { Sequence } from '../../src/score/batch.ts'
import type { Scored } from '../../src/score/scorer.ts'
import { startScoring } from '../../src/score/scoring.ts'
import { type GoldenSet, goldenSequences, readGoldenSet, worstOf } from '../golden-sets.ts'
import { parityPython, ROOT, temporaryFolder } from '../support.ts'

/** As for the goldens: relative, of every singular value. */
const RELATIVE_MAX = 1e-5

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

async function compare(t: TestContext, set: GoldenSet, engine: EngineName): Promise<void> {
  const { schedule, sequences } = await goldenSequences(set, 'run')
  assert.deepEqual(
    schedule.checkpoints.map(({ step }) => step),
    set.expected.steps,
  )
  for (const mode of MODES) {
    const scored = await scoreAll(schedule.dir, engine, mode, sequences)
    const worst = worstOf(scored, set.expected.modes[mode].top5)
    t.diagnostic(`${mode}: ${worst.toExponential(2)} from transformers`)
    assert.ok(worst <= RELATIVE_MAX, `${mode}: ${worst}`)
  }
}

async function scoreAll(
  proxyDir: string,
  engine: EngineName,
  mode: Mode,
  sequences: readonly (Sequence | null)[],
): Promise<(Scored | null)[]> {
  const scoring = await startScoring({ proxyDir, engine, mode, workers: 1, threads: 1 })
  try {
    const scored = await scoring.score(sequences.filter(sequence => sequence !== null))
    return sequences.map(sequence => (sequence === null ? null : scored.shift()!))
  } finally {
    await scoring.close()
  }
}
