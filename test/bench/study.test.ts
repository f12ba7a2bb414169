import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { FAULTS, generate } from '../../bench/study/scenes.ts'
import { temporaryFolder } from '../support.ts'

const BENCH = join(dirname(fileURLToPath(import.meta.url)), '../../bench/study')

test('generated data have their faults, held-out examples none, and the same seed gives the same', async () => {
  const size = { pool: 400, heldOut: 24 }
  const made = await generate(1, size)
  assert.deepEqual(await generate(1, size), made)
  const share = (is: (fault: string | undefined) => boolean): number =>
    made.pool.filter(({ fault }) => is(fault)).length / size.pool
  assert.ok(Math.abs(share(fault => fault === 'blind') - FAULTS.blind) < 0.08)
  assert.ok(share(fault => fault === 'swapped') > 0.05)
  assert.ok(share(fault => fault === undefined) > 0.25)
  const families = made.heldOut.map(({ source }) => source)
  assert.equal(new Set(families).size, 12)
  assert.ok(made.heldOut.every(({ fault }) => fault === undefined))
  const most = made.pool.filter(({ source }) => source === 'exists').length
  const least = made.pool.filter(({ source }) => source === 'describe').length
  assert.ok(most > 5 * least, `${most} and ${least}`)
  for (const { fault, conversations } of made.pool) {
    const [question, answer] = conversations
    if (fault === 'blind') assert.ok(question!.value.includes(`It is ${answer!.value}. `))
  }
})

test('the study and the curve of swapped answers end in one JSON object', t => {
  const folder = temporaryFolder(t)
  const at = (name: string): string => join(folder, name)
  const run = (name: string, ...args: string[]) => {
    const tiny = ['--seeds', '1', '--pool', '40', '--steps', '8']
    const all = [join(BENCH, name), ...tiny, ...args]
    const output = execFileSync(process.execPath, all, { encoding: 'utf8', stdio: 'pipe' })
    return JSON.parse(output.trimEnd().split('\n').at(-1)!)
  }
  const study = run('study.js', '--held-out', '12', '--arms', 'length', '--out', at('study'))
  assert.deepEqual(
    study.cells.map(({ arm }: { arm: string }) => arm),
    ['random', 'length', 'full'],
  )
  const found = run('misaligned.js', '--work', at('work'), '--out', at('curve.svg'))
  const [{ examples, swapped, curve, areaUnderRoc }] = found.seeds
  assert.equal(examples, 40)
  assert.ok(swapped > 0 && areaUnderRoc >= 0 && areaUnderRoc <= 1)
  assert.equal(curve.at(-1).recall > 0.5, true)
  assert.match(readFileSync(at('curve.svg'), 'utf8'), /^<svg xmlns/)
})
