/**
 * The folder of `npm run check:gpu`, built, cut, joined, and run as on a bare machine: an empty environment,
 * no network, software Vulkan for a GPU, two examples of a golden set, a tiny shape.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { ROOT, shared, temporaryFolder } from '../support.ts'
import { vulkan } from '../webgpu.ts'

const PART_MIB = 40
const SET = 'smolvlm'

test('the folder of check:gpu is carried in parts and measures a device without network', t => {
  const set = shared(t, 'goldens/families', SET)
  const env = vulkan(t)
  if (set === undefined || env === undefined || !isLinuxX64(t)) return
  const [built, bare] = [temporaryFolder(t), temporaryFolder(t)]
  const goldens = join(built, 'goldens')
  writeFirstExamples(set, join(goldens, SET), 2)
  const script = join(ROOT, 'deploy/check/gpu.mjs')
  const args = [script, '--out', built, '--goldens', goldens, '--part-mib', String(PART_MIB)]
  t.diagnostic(execFileSync(process.execPath, args, { encoding: 'utf8' }))
  assert.deepEqual(foreignFiles(join(built, 'xmasd-gpu')), [])
  rmSync(join(built, 'xmasd-gpu'), { recursive: true })
  joinParts(join(built, 'parts'), bare)
  rmSync(built, { recursive: true })

  const out = join(bare, 'results')
  const size = ['--checkpoints', '2', '--examples', '2', '--rounds', '1']
  const flags = ['--device', 'webgpu', '--shapes', 'tiny', ...size, '--out', out]
  const [program, ...rest] = [...withoutNetwork(t), join(bare, 'xmasd-gpu/check.sh'), ...flags]
  const empty = { PATH: '/usr/bin:/bin', HOME: bare, ...env }
  const { status, stdout, stderr } = spawnSync(program!, rest, { env: empty, encoding: 'utf8' })
  t.diagnostic(stdout)
  assert.equal(status, 0, stdout + stderr)
  assert.match(stderr, /\[1\/6\] webgpu: doctor: usable .* ETA \d+ s/)
  assert.ok(stdout.startsWith(readFileSync(join(out, 'results.txt'), 'utf8')))
  checkResults(JSON.parse(readFileSync(join(out, 'results.json'), 'utf8')))
})

type Row = Record<string, unknown>
type Results = {
  isRight: boolean
  devices: { webgpu: { isUsable: boolean; selfTest: { stages: Row[] } } }
  sets: (Row & { trajectory: number })[]
  throughput: (Row & { examplesPerSecond: number; tokensPerSecond: number })[]
  failed: Row[]
}

function checkResults({ isRight, devices, sets, throughput, failed }: Results): void {
  assert.equal(isRight, true)
  const { isUsable, selfTest } = devices.webgpu
  assert.equal(isUsable, true)
  const stages = selfTest.stages.map(({ stage }) => stage)
  assert.deepEqual(stages, ['speed', 'plain', 'placement', 'fused', 'done'])
  assert.deepEqual(
    sets.map(({ device, set, mode, examples }) => [device, set, mode, examples]),
    ['reference', 'paper'].map(mode => ['webgpu', SET, mode, 2]),
  )
  for (const { trajectory } of sets) assert.ok(trajectory > 0 && trajectory <= 2e-4)
  const [row] = throughput
  assert.deepEqual([row!.shape, row!.side, row!.residents], ['tiny', 'webgpu', 2])
  assert.ok(row!.examplesPerSecond > 0 && row!.tokensPerSecond > row!.examplesPerSecond)
  assert.deepEqual([throughput.length, failed], [1, []])
}

/** Every part within its size; a damaged part is refused before anything is unpacked. */
function joinParts(parts: string, into: string): void {
  const names = readdirSync(parts).filter(name => name.startsWith('xmasd-gpu.tar.gz.'))
  assert.ok(names.length > 1)
  for (const name of names) assert.ok(statSync(join(parts, name)).size <= PART_MIB * 2 ** 20)
  const last = join(parts, names.sort().at(-1)!)
  const sound = readFileSync(last)
  writeFileSync(last, sound.subarray(0, -1))
  const join_ = () => spawnSync(join(parts, 'join.sh'), [into], { encoding: 'utf8' })
  const refused = join_()
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /a part is missing or damaged/)
  assert.deepEqual(readdirSync(into), [])
  writeFileSync(last, sound)
  const joined = join_()
  assert.equal(joined.status, 0, joined.stderr)
}

/** Libraries of other systems and processors. */
function foreignFiles(folder: string): string[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  const libraries = files.filter(name => /\.(node|bare|dll|dylib|so[.\d]*)$/.test(name))
  assert.ok(libraries.length > 3)
  return libraries.filter(name => /\.(dll|dylib)$|darwin|win32|arm64|android|musl/.test(name))
}

type Mode = { float64: { top5: unknown[]; trajectory: unknown[] } }

/** The golden set with its first `count` examples alone. */
function writeFirstExamples(set: string, target: string, count: number): void {
  mkdirSync(target, { recursive: true })
  for (const name of ['run', 'images', 'base'].filter(name => existsSync(join(set, name)))) {
    cpSync(join(set, name), join(target, name), { recursive: true })
  }
  const read = (name: string) => JSON.parse(readFileSync(join(set, name), 'utf8'))
  const write = (name: string, value: unknown) =>
    writeFileSync(join(target, name), JSON.stringify(value))
  write('data.json', read('data.json').slice(0, count))
  const { modes, ...rest } = read('expected.json') as { modes: Record<string, Mode> }
  const first = Object.entries(modes).map(([name, { float64 }]) => {
    const { top5, trajectory } = float64
    const some = { top5: top5.slice(0, count), trajectory: trajectory.slice(0, count) }
    return [name, { float64: some }]
  })
  write('expected.json', { ...rest, modes: Object.fromEntries(first) })
}

/** Prefix of a command that runs in a network namespace of its own, where that is allowed. */
function withoutNetwork(t: TestContext): string[] {
  if (spawnSync('unshare', ['--net', 'true']).status === 0) return ['unshare', '--net']
  process.stderr.write(`namespaces are not allowed here, the network stays: ${t.name}\n`)
  return []
}

function isLinuxX64(t: TestContext): boolean {
  if (`${process.platform}-${process.arch}` === 'linux-x64') return true
  process.stderr.write(`SKIPPED, not Linux x64: ${t.name}\n`)
  t.skip('needs Linux x64')
  return false
}
