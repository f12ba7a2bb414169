/**
 * Measures xmasd on this machine's GPU: the runner of the folder that `npm run check:gpu` builds.
 * `check.sh` starts it. Every step is a line of progress, and the results so far are written after it.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { DEVICES, type Device } from '../../src/engine/engine.ts'
import { messageOf } from '../../src/errors.ts'
import { MODES } from '../../src/score/attention.ts'
import { packageRoot } from '../../src/version.ts'
import { SHAPES } from '../score/shapes.ts'
import { checkSet, installedCommand } from './command.ts'
import { askDoctor, describeMachine, runSelfTest } from './devices.ts'
import { pageOf, type Results, ratiosOf } from './page.ts'
import { apartOf, measureOurs, measureTorch, type WrittenLoad, writeLoad } from './throughput.ts'

const HERE = packageRoot()
const RUNNER = join(HERE, 'runner')
const GOLDENS = join(HERE, 'goldens')
const ALL_SETS = readdirSync(GOLDENS).sort()
const DTYPES = ['bfloat16', 'float16']

const HELP = `Usage: ./check.sh [options]     no network is used

  --device NAMES       of ${DEVICES.join(', ')} (default: the GPUs that can be used)
  --sets NAMES         golden sets, or none (default: all of goldens/)
  --shapes NAMES       of ${Object.keys(SHAPES).join(', ')}, or none
                       (default: stablelm-2-1.6b,smolvlm-256m)
  --checkpoints N      of a shape (default: 4; each of stablelm-2-1.6b takes 7 GB of disk)
  --examples N         of a round (default: 32)
  --rounds N           (default: 3)
  --tokens-max N       of a pass, instead of xmasd's default
  --batch N            PyTorch's, beside 1 (default: 8)
  --python PATH        (default: python3); PyTorch is measured where it has torch and transformers
  --out DIR            for results.json and results.txt (default: results)
  --work DIR           for checkpoints of random weights (default: the system's temporary folder)
`

const { values: options } = parseArgs({
  options: {
    device: { type: 'string' },
    sets: { type: 'string' },
    shapes: { type: 'string', default: 'stablelm-2-1.6b,smolvlm-256m' },
    checkpoints: { type: 'string', default: '4' },
    examples: { type: 'string', default: '32' },
    rounds: { type: 'string', default: '3' },
    'tokens-max': { type: 'string' },
    batch: { type: 'string', default: '8' },
    python: { type: 'string', default: 'python3' },
    out: { type: 'string', default: 'results' },
    work: { type: 'string', default: tmpdir() },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  process.stdout.write(HELP)
  process.exit()
}

/** Names of a list, each one of `known`. Ends with exit code 2 where one is not. */
function names<T extends string>(flag: string, list: string, known: readonly T[]): T[] {
  const given = list === 'none' ? [] : list.split(',')
  const unknown = given.find(name => !known.includes(name as T))
  if (unknown === undefined) return given as T[]
  process.stderr.write(`--${flag}: ${unknown} is not one of ${known.join(', ')}\n`)
  process.exit(2)
}

/** A flag's number. Ends with exit code 2 where it is none above 0. */
function count(flag: 'checkpoints' | 'examples' | 'rounds' | 'batch' | 'tokens-max'): number {
  const value = Number(options[flag])
  if (Number.isInteger(value) && value > 0) return value
  process.stderr.write(`--${flag} is a whole number above 0, not ${options[flag]}\n`)
  process.exit(2)
}

const devices = names('device', options.device ?? 'webgpu,cuda', DEVICES)
const sets = names('sets', options.sets ?? ALL_SETS.join(','), ALL_SETS)
const shapes = names('shapes', options.shapes, Object.keys(SHAPES))
const size = {
  checkpoints: count('checkpoints'),
  examples: count('examples'),
  rounds: count('rounds'),
}
const tokensMax = options['tokens-max'] === undefined ? undefined : count('tokens-max')
const batches = [...new Set([1, count('batch')])]

const started = performance.now()
const work = mkdtempSync(join(resolve(options.work), 'xmasd-gpu-'))
const out = resolve(options.out)
mkdirSync(out, { recursive: true })
process.once('exit', () => rmSync(work, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
/** As `xmasd` itself sets them. */
Object.assign(process.env, { ORT_DISABLE_TELEMETRY: '1', NVIDIA_TF32_OVERRIDE: '0' })

const command = installedCommand(join(HERE, 'node_modules/xmasd'))
const { python } = options
const machine = describeMachine(python)
const torchDevice: 'cuda' | 'cpu' | undefined = machine.torch?.gpu
  ? 'cuda'
  : devices.includes('cpu')
    ? 'cpu'
    : undefined
const manifest = JSON.parse(readFileSync(join(HERE, 'package.json'), 'utf8'))
const results: Results = {
  v: 1,
  xmasd: manifest.version,
  commit: manifest.commit,
  onnxruntime: manifest.onnxruntime,
  started: new Date().toISOString(),
  ...{
    seconds: 0,
    isRight: true,
    machine,
    devices: {},
    sets: [],
    throughput: [],
    ratios: {},
    failed: [],
  },
}

const torchSides =
  machine.torch === null || torchDevice === undefined
    ? []
    : DTYPES.flatMap(dtype => batches.map(batch => ({ dtype, batch, device: torchDevice })))
let total =
  devices.length * (1 + sets.length * MODES.length) +
  devices.filter(device => device !== 'cpu').length +
  shapes.length * (1 + devices.length + torchSides.length)
let done = 0

/** A line for a step that has ended; writes the results so far. */
function report(what: string, found: string, began: number): void {
  done++
  const now = performance.now()
  results.seconds = Math.round((now - started) / 1000)
  const left = ((now - started) / done / 1000) * (total - done)
  const took = ((now - began) / 1000).toFixed(1)
  const rate = `${((60_000 * done) / (now - started)).toFixed(1)}/min`
  process.stderr.write(
    `[${done}/${total}] ${what}: ${found} · ${took} s · ${rate} · ETA ${left.toFixed(0)} s\n`,
  )
  write()
}

function write(): void {
  writeFileSync(join(out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`)
  writeFileSync(join(out, 'results.txt'), pageOf(results))
}

async function checkDevice(device: Device): Promise<boolean> {
  let began = performance.now()
  const doctor = await askDoctor(command, device, work)
  results.devices[device] = doctor
  if (options.device !== undefined) results.isRight &&= doctor.isUsable
  report(`${device}: doctor`, doctor.isUsable ? 'usable' : doctor.detail, began)
  if (device === 'cpu') return doctor.isUsable
  began = performance.now()
  const selfTest = await runSelfTest(device)
  results.devices[device] = { ...doctor, selfTest }
  const stages = selfTest.stages.map(({ stage, seconds }) => `${stage} ${seconds} s`)
  report(`${device}: self-test`, stages.join(', ') || selfTest.ended, began)
  return doctor.isUsable
}

async function checkSets(device: Device): Promise<void> {
  for (const set of sets) {
    for (const mode of MODES) {
      const began = performance.now()
      const options = { set: join(GOLDENS, set), mode, device, work }
      const one = { set, ...(await checkSet(command, options)) }
      results.sets.push(one)
      results.isRight &&= one.isRight
      const apart = `${one.trajectory?.toExponential(1) ?? 'no scores'} from float64`
      const found = `${one.isRight ? 'right' : 'WRONG'}, ${apart}`
      report(`${device}: ${set}, ${mode}`, [found, one.failure ?? []].flat().join(', '), began)
    }
  }
}

/** One side of a shape; what it throws is a line of the results. */
async function measure(
  shape: string,
  side: string,
  run: () => ReturnType<typeof measureOurs>,
  compared?: number[][][],
): Promise<number[][][] | undefined> {
  const began = performance.now()
  try {
    const { row, values } = await run()
    if (compared !== undefined) row.apart = apartOf(compared, values)
    results.throughput.push(row)
    results.ratios = ratiosOf(results.throughput)
    const { examplesPerSecond, tokensPerSecond } = row
    const found = `${examplesPerSecond} examples/s, ${tokensPerSecond} tokens/s`
    report(`${shape}: ${row.side}`, found, began)
    return values
  } catch (error) {
    const failure = messageOf(error)
    results.failed.push({ shape, side, failure })
    results.isRight = false
    report(`${shape}: ${side}`, `FAILED, ${failure}`, began)
    return undefined
  }
}

async function measureShape(shape: string, usable: readonly Device[]): Promise<void> {
  const folder = join(work, shape)
  const began = performance.now()
  let proxy: WrittenLoad
  try {
    proxy = await writeLoad({ shape, ...size }, folder)
  } catch (error) {
    results.failed.push({ shape, side: 'its checkpoints', failure: messageOf(error) })
    results.isRight = false
    total -= usable.length + torchSides.length
    return report(`${shape}: checkpoints`, `FAILED, ${messageOf(error)}`, began)
  }
  report(`${shape}: checkpoints`, `${size.checkpoints} written`, began)
  let values: number[][][] | undefined
  for (const device of usable) {
    const run = () => measureOurs(proxy, device, { runner: RUNNER, tokensMax })
    values = (await measure(shape, device, run, values)) ?? values
  }
  for (const { dtype, batch, device } of torchSides) {
    const wish = { python, runner: RUNNER, device, dtype, batch }
    const run = () => measureTorch(proxy, wish)
    // Padding changes the published way's scores.
    await measure(shape, `PyTorch ${dtype}, batch ${batch}`, run, batch === 1 ? values : undefined)
  }
  rmSync(folder, { recursive: true })
}

if (machine.torch === null) {
  process.stderr.write(`${python} cannot import torch and transformers: PyTorch is not measured\n`)
} else if (torchDevice === undefined) {
  process.stderr.write('PyTorch finds no CUDA GPU: it is not measured\n')
}
const usable: Device[] = []
for (const device of devices) {
  if (await checkDevice(device)) usable.push(device)
  else total -= sets.length * MODES.length + shapes.length
}
if (usable.length === 0) results.isRight = false
for (const device of usable) await checkSets(device)
if (usable.length + torchSides.length > 0) {
  for (const shape of shapes) await measureShape(shape, usable)
}
write()
process.stdout.write(
  `${pageOf(results)}\nwritten to ${join(out, 'results.json')} and results.txt\n`,
)
process.exitCode = results.isRight ? 0 : 1
