import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parityPython, temporaryFolder } from '../support.ts'

const FOLDER = join(dirname(fileURLToPath(import.meta.url)), '../../bench')
const BENCH = join(FOLDER, 'score.js')
const TINY = ['--shape', 'tiny', '--checkpoints', '2', '--rounds', '2', '--examples', '4']

type Report = {
  ratioGain?: Record<string, number>
  ratioDistinct: number | null
  ratioShared: number | null
  sides: Record<string, { seconds: Record<string, number>; differenceFromOurs?: object }>
}

function bench(...args: string[]): Report {
  const { status, stdout, stderr } = spawnSync(process.execPath, [BENCH, ...TINY, ...args], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}

test('bench:score runs without Python and ends in one JSON object', () => {
  const { sides, ratioDistinct, ratioGain } = bench('--gain')
  assert.ok(ratioGain!.distinct! > 0 && ratioGain!.shared! > 0)
  const { value } = sides.gain!.differenceFromOurs as { value: number }
  assert.ok(value <= 1e-6, `singular values differ by ${value} with gains`)
  assert.ok(sides.ours!.seconds.distinct! > 0 && sides.ours!.seconds.shared! > 0)
  assert.equal(ratioDistinct, null)
})

test('bench:score gives the values of the reference, where Python is', t => {
  const python = parityPython(t)
  if (python === undefined) return
  const { sides, ratioDistinct, ratioShared } = bench('--python', python)
  assert.ok(ratioDistinct! > 0 && ratioShared! > 0)
  const { trajectory, value } = sides.reference!.differenceFromOurs as Record<string, number>
  t.diagnostic(`trajectories ${trajectory!.toExponential(1)} apart`)
  assert.ok(trajectory! <= 1e-5 && value! <= 1e-5)
})

test('bench:score-cost measures its axes and draws them', t => {
  const out = join(temporaryFolder(t), 'cost')
  const args = [join(FOLDER, 'score-cost.js'), '--shape', 'tiny', '--rounds', '1', '--out', out]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  const report = JSON.parse(stdout.trim().split('\n').at(-1)!)
  assert.deepEqual(Object.keys(report), ['checkpoints', 'examples', 'text tokens'])
  assert.equal(JSON.parse(readFileSync(`${out}.json`, 'utf8')).points.length, 12)
  assert.ok(readFileSync(`${out}.svg`, 'utf8').includes('text tokens'))
})
