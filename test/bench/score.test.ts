import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parityPython, temporaryFolder, trainersPython } from '../support.ts'

const FOLDER = join(dirname(fileURLToPath(import.meta.url)), '../../bench')
const BENCH = join(FOLDER, 'score.js')
const FEW = ['--checkpoints', '2', '--rounds', '1', '--examples', '4']

type Report = {
  ratioGain?: Record<string, number>
  ratioDistinct: number | null
  ratioShared: number | null
  ratioMemory?: number
  work: Record<string, { saved: number; savedWhole: number }>
  kept?: Record<string, string>
  reading: Record<string, number>
  sides: Record<string, { seconds: Record<string, number>; differenceFromOurs?: object }>
}

function bench(shape: string, ...args: string[]): Report {
  const all = [BENCH, '--shape', shape, ...FEW, ...args]
  const { status, stdout, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}

test('bench:score runs without Python and ends in one JSON object', () => {
  const { sides, ratioDistinct, ratioGain, reading } = bench('tiny', '--gain')
  assert.ok(ratioGain!.distinct! > 0 && ratioGain!.shared! > 0)
  const { value } = sides.gain!.differenceFromOurs as { value: number }
  assert.ok(value <= 1e-6, `singular values differ by ${value} with gains`)
  assert.ok(sides.ours!.seconds.distinct! > 0 && sides.ours!.seconds.shared! > 0)
  assert.ok(reading.openSeconds! > 0 && reading.distinct! > 0 && reading.distinct! < 1)
  assert.equal(ratioDistinct, null)
})

test('bench:score counts the work saved, of a model that it keeps a part of too', () => {
  const { work, kept } = bench('tiny-qwen3-vl')
  assert.deepEqual(kept, { vision: '3 of 5', text: '3 of 12', vocabulary: '200 of 4000' })
  const { distinct, shared } = work
  assert.ok(distinct!.saved > 1 && shared!.saved > distinct!.saved, JSON.stringify(work))
  assert.ok(distinct!.savedWhole > 1 && distinct!.savedWhole !== distinct!.saved)
})

for (const shape of ['tiny', 'tiny-stablelm', 'tiny-smolvlm', 'tiny-qwen3-vl', 'tiny-lora']) {
  test(`bench:score --shape ${shape} gives the values of the reference, where Python is`, t => {
    const isLora = shape === 'tiny-lora'
    const python = isLora ? trainersPython(t) : parityPython(t)
    if (python === undefined) return
    const { sides, ratioDistinct, ratioShared, ratioMemory } = bench(shape, '--python', python)
    assert.ok(ratioDistinct! > 0 && ratioShared! > 0)
    assert.equal(ratioMemory !== undefined, isLora)
    const { trajectory, value } = sides.reference!.differenceFromOurs as Record<string, number>
    t.diagnostic(`trajectories ${trajectory!.toExponential(1)} apart`)
    assert.ok(trajectory! <= 1e-5 && value! <= 1e-5)
  })
}

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
