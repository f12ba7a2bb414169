/**
 * xmasd's scorer beside the reference (`reference.py`): the same weights, examples and number of
 * threads, in one run, taking turns.
 *
 *   npm run bench:score -- --python "$(test/parity/python.sh)" [--shape NAME] [--rounds N] [--examples N] …
 *
 * Without a Python xmasd's side runs alone. `--shape` is a row of `score/shapes.ts`: `full` (the default),
 * `smolvlm-256m`, `qwen3-vl-2b`, `lora`, which needs a Python with peft (`test/parity/python.sh trainers`), …
 * The proxy has random weights (`score/model.ts`), T different checkpoints, and one vision tower for all of
 * them, as after fine-tuning with a frozen tower; `--tower-moves` makes the towers differ. There are two sets
 * of examples: `distinct` has an image each, and in `shared` `--share` neighbours have one image. Every
 * round has new images, so that no cache helps.
 *
 * A round scores both sets at all checkpoints with xmasd, and a few examples of both with the reference
 * at batch 1, eager or sdpa, whichever was faster in the warm-up. Loading a checkpoint counts on xmasd's
 * side if it happens while scoring (`--memory-max GiB` is its budget; what exceeds it is streamed), and
 * never on the reference's; preparing examples counts on neither. Singular values are compared with the
 * reference's exact ones. Peak memory is VmHWM of each process. Each `--variant NAME` is scored by another
 * process and compared with xmasd's; `one`, which a LoRA shape has anyway, scores the first checkpoint alone:
 * `ratioMemory` is xmasd's peak over its. `--gain` is the variant that measures the image gain, too:
 * `ratioGain` is its CPU time over that without. `work` is how many times xmasd's matrix products the
 * reference computes, of the shape and of the whole model where the shape has a part of its layers. `reading`
 * is the part of a batch's time that opening every checkpoint again for it would take. The last line is one
 * JSON object.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { readProxyConfig } from '../src/proxy/checkpoint/config.ts'
import { ROOT } from '../test/support.ts'
import { writeExamples } from './score/examples.ts'
import { writeSchedule } from './score/model.ts'
import { shapeOf } from './score/shapes.ts'
import {
  differences,
  type ExampleSet,
  median,
  SETS,
  type Side,
  startAgain,
  startOurs,
  startReference,
} from './score/sides.ts'

const { values: options } = parseArgs({
  options: {
    python: { type: 'string' },
    shape: { type: 'string', default: 'full' },
    checkpoints: { type: 'string', default: '4' },
    examples: { type: 'string', default: '8' },
    share: { type: 'string', default: '4' },
    'reference-examples': { type: 'string', default: '2' },
    rounds: { type: 'string', default: '5' },
    threads: { type: 'string', default: '2' },
    workers: { type: 'string', default: '1' },
    'memory-max': { type: 'string' },
    variant: { type: 'string', multiple: true, default: [] },
    gain: { type: 'boolean', default: false },
    'tower-moves': { type: 'boolean', default: false },
    folder: { type: 'string' },
  },
})
const SHAPE = shapeOf(options.shape)
const CHECKPOINTS = Number(options.checkpoints)
const EXAMPLES = Number(options.examples)
const ROUNDS = Number(options.rounds)
const THREADS = Number(options.threads)
const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'xmasd-bench-'))
const proxyDir = join(folder, 'proxy')

function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

function digits(value: number): number {
  return Number(value.toPrecision(3))
}

/** Every round has images of its own. Round 0 is the warm-up. */
async function examplesOf(set: ExampleSet, round: number): Promise<string> {
  const at = join(folder, `${set}-${round}`)
  const share = set === 'shared' ? Number(options.share) : 1
  await writeExamples(at, SHAPE, { count: EXAMPLES, share, seed: round })
  return at
}

/** Options of `startScoring`: another engine, precision or schedule. */
const VARIANTS: Record<string, object> = {
  one: { proxyDir: join(proxyDir, 'checkpoint-1') },
  gain: { gain: true },
  tensorflow: { engine: 'tensorflow' },
  bfloat16: { engine: 'tensorflow', precision: 'bfloat16' },
}

type Sides = { ours: Side; variants: Side[]; reference: Side | undefined }

async function startSides(): Promise<Sides> {
  const script = join(ROOT, '.build/bench/score/child.js')
  const memory = options['memory-max']
  const settings = {
    ...{ proxyDir, shape: options.shape, threads: THREADS, workers: Number(options.workers) },
    memoryMax: memory === undefined ? undefined : Number(memory) * 2 ** 30,
  }
  const reference = await openReference()
  const ours = startOurs('ours', script, settings)
  const implied = [...(options.gain ? ['gain'] : []), ...(SHAPE.lora ? ['one'] : [])]
  const variants = [...implied, ...options.variant].map(name => {
    if (!(name in VARIANTS)) throw new Error(`--variant is one of ${Object.keys(VARIANTS)}`)
    return startOurs(name, script, { ...settings, ...VARIANTS[name] })
  })
  return { ours, variants, reference }
}

async function openReference(): Promise<Side | undefined> {
  const { python } = options
  if (python === undefined) return undefined
  const { side, tried } = await startReference(
    {
      python,
      script: join(ROOT, 'bench/reference.py'),
      threads: THREADS,
      proxyDir,
      checkpoints: CHECKPOINTS,
      examples: Math.min(EXAMPLES, Number(options['reference-examples'])),
    },
    await examplesOf('distinct', 0),
  )
  const [eager, sdpa] = [tried.eager!, tried.sdpa!].map(seconds => seconds.toFixed(3))
  say(`reference at batch 1, best of three: eager ${eager} s, sdpa ${sdpa} s an example`)
  return side
}

type Difference = ReturnType<typeof differences>

/** Runs all sides on the examples of one round, each round in another order; returns their differences. */
async function playRound(
  { ours, variants, reference }: Sides,
  round: number,
  worst: Map<Side, Difference>,
): Promise<void> {
  const sides = [ours, reference, ...variants].filter(side => side !== undefined)
  for (const set of SETS) {
    const at = await examplesOf(set, round)
    const values = new Map<Side, number[][][]>()
    for (const i of sides.keys()) {
      const side = sides[(i + round) % sides.length]!
      values.set(side, await side.score(set, at))
    }
    for (const [side, others] of values) {
      const { trajectory, value } = differences(values.get(ours)!, others)
      const known = worst.get(side) ?? { trajectory: 0, value: 0 }
      worst.set(side, {
        trajectory: Math.max(known.trajectory, trajectory),
        value: Math.max(known.value, value),
      })
    }
    rmSync(at, { recursive: true })
  }
}

function ratio(slow: Side | undefined, fast: Side, set: ExampleSet): number | null {
  if (slow === undefined) return null
  return digits(median(slow.seconds[set]) / median(fast.seconds[set]))
}

/** CPU time, which a busy machine leaves comparable. */
function gainCost({ ours, variants }: Sides): object {
  const gain = variants.find(({ name }) => name === 'gain')
  if (gain === undefined) return {}
  const of = (set: ExampleSet): number =>
    digits(median(gain.cpuSeconds[set]) / median(ours.cpuSeconds[set]))
  return { ratioGain: Object.fromEntries(SETS.map(set => [set, of(set)])) }
}

function memoryRatio({ ours, variants }: Sides): object {
  const one = variants.find(({ name }) => name === 'one')
  return one === undefined ? {} : { ratioMemory: digits(ours.peakBytes() / one.peakBytes()) }
}

/** How many times xmasd's matrix products the reference computes, of the shape and of the whole model. */
function workSaved({ told }: Side): object {
  const of = (set: ExampleSet): object => {
    const { saved, savedWhole } = told[set]!
    say(`work saved, ${set}: ${digits(saved)}x, whole model ${digits(savedWhole)}x`)
    return { saved: digits(saved), savedWhole: digits(savedWhole) }
  }
  return Object.fromEntries(SETS.map(set => [set, of(set)]))
}

/** Examples of a batch at the default settings. */
const BATCH = 64

/** What reading a checkpoint takes of a batch's time, where it is read again for every one. */
async function readShare(side: Side): Promise<object> {
  const openSeconds = await side.openSeconds!(await examplesOf('distinct', 0))
  const read = SHAPE.lora === undefined ? 0 : openSeconds / EXAMPLES // in the seconds of each example
  const of = (set: ExampleSet): number =>
    digits(openSeconds / (openSeconds + BATCH * (median(side.seconds[set]) - read)))
  const shares = SETS.map(set => [set, of(set)] as const)
  say(`reading a checkpoint: ${openSeconds.toFixed(2)} s, of a batch ${JSON.stringify(shares)}`)
  return { openSeconds: digits(openSeconds), ...Object.fromEntries(shares) }
}

/** Of one set: examples through all checkpoints, and their tokens at each. */
function rates({ seconds, tokens, checkpoints }: Side, set: ExampleSet): Record<string, number> {
  const middle = median(seconds[set])
  return {
    examplesPerSecond: digits(1 / (middle * checkpoints)),
    tokensPerSecond: digits(median(tokens[set]) / middle),
  }
}

function describe(side: Side, { ours, reference }: Sides, difference: Difference): object {
  const { name, seconds, cpuSeconds } = side
  const bySet = <T>(of: (set: ExampleSet) => T) =>
    Object.fromEntries(SETS.map(set => [set, of(set)]))
  for (const set of SETS) {
    const { examplesPerSecond, tokensPerSecond } = rates(side, set)
    const rate = `${examplesPerSecond} examples/s, ${tokensPerSecond} tokens/s`
    const times = `median ${median(seconds[set]).toFixed(3)} s, best ${Math.min(...seconds[set]).toFixed(3)} s`
    say(`${name.padEnd(10)} ${set.padEnd(9)} ${times}, ${rate}, ${ratio(reference, side, set)}x`)
  }
  say(`${name.padEnd(10)} peak ${Math.round(side.peakBytes() / 2 ** 20)} MiB`)
  return {
    seconds: bySet(set => digits(median(seconds[set]))),
    cpuSeconds: bySet(set => digits(median(cpuSeconds[set]))),
    rates: bySet(set => rates(side, set)),
    ratioDistinct: ratio(reference, side, 'distinct'),
    ratioShared: ratio(reference, side, 'shared'),
    peakBytes: side.peakBytes(),
    ...(side === ours ? {} : { differenceFromOurs: difference }),
  }
}

/** Layers that the shape keeps of a larger model's. */
function keptLayers(): object {
  const { whole, config } = SHAPE
  if (whole === undefined) return {}
  const { vision, text } = readProxyConfig(join(proxyDir, 'checkpoint-1'))
  const kept = {
    vision: `${vision.layers} of ${whole.visionLayers}`,
    text: `${text.layers} of ${whole.textLayers}`,
    vocabulary: `${text.vocab} of ${whole.vocab}`,
  }
  say(`${config.model_type} cut to fit: ${JSON.stringify(kept)}`)
  return { kept }
}

async function main(): Promise<object> {
  say(`writing ${CHECKPOINTS} checkpoints (${options.shape}) into ${folder}`)
  writeSchedule(proxyDir, SHAPE, CHECKPOINTS, options['tower-moves'])
  const sides = await startSides()
  const { ours, variants, reference } = sides
  const all = [ours, reference, ...variants].filter(side => side !== undefined)
  const worst = new Map<Side, Difference>()
  for (const side of [ours, ...variants]) {
    for (const set of SETS) await side.score(set, await examplesOf(set, 0))
    startAgain(side)
  }
  for (let round = 1; round <= ROUNDS; round++) {
    await playRound(sides, round, worst)
    say(`round ${round} of ${ROUNDS}`)
  }
  const bf16 = variants.find(({ name }) => name === 'bfloat16')
  const report = {
    ratioDistinct: ratio(reference, ours, 'distinct'),
    ratioShared: ratio(reference, ours, 'shared'),
    ratioBf16: bf16 === undefined ? null : ratio(reference, bf16, 'distinct'),
    ...gainCost(sides),
    ...memoryRatio(sides),
    work: workSaved(ours),
    ...keptLayers(),
    sides: Object.fromEntries(
      all.map(side => [side.name, describe(side, sides, worst.get(side)!)]),
    ),
    ...{ shape: options.shape, checkpoints: CHECKPOINTS, examples: EXAMPLES, rounds: ROUNDS },
    ...{ threads: THREADS, workers: Number(options.workers), share: Number(options.share) },
    ...{ towerMoves: options['tower-moves'], cpu: cpus()[0]?.model },
  }
  const reading = await readShare(ours)
  for (const side of all) await side.end()
  return { ...report, reading }
}

try {
  process.stdout.write(`${JSON.stringify(await main())}\n`)
} finally {
  if (options.folder === undefined) rmSync(folder, { recursive: true, force: true })
}
