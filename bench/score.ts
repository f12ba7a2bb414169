/**
 * Our scorer against the reference's way of working (`reference.py`): the same weights, examples and
 * number of threads, in one run, by turns.
 *
 *   npm run bench:score -- --python "$(test/parity/python.sh)" [--rounds N] [--examples N] …
 *
 * Without a Python our side runs alone. The proxy has random weights (`score-model.ts`; `--shape tiny`
 * is for tests), T checkpoints that differ, and a vision tower that is the same in all, as where
 * fine-tuning freezes it; `--tower-moves` makes it differ. Two sets of examples: `distinct`, an image
 * each, and `shared`, where `--share` neighbours have one. Images come anew in every round, so that
 * none is known from before.
 *
 * A round scores both sets at all checkpoints with ours, and a few examples of both with the
 * reference, at batch 1, eager or sdpa, whichever the warm-up found faster. Loading a checkpoint counts
 * on our side where it happens while scoring (`--memory-max GiB` is its budget; what does not fit is
 * streamed), never on the reference's. Throughput is examples ×
 * checkpoints a second. Singular values are compared with the reference's exact ones; peak memory is
 * VmHWM of each process. Each `--variant NAME` is scored by a process of its own
 * and compared with ours. The last line is one JSON object.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ROOT } from '../test/support.ts'
import { SHAPES, writeExamples, writeSchedule } from './score-model.ts'
import {
  differences,
  type ExampleSet,
  median,
  SETS,
  type Side,
  startOurs,
  startReference,
} from './score-sides.ts'

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
    'tower-moves': { type: 'boolean', default: false },
    folder: { type: 'string' },
  },
})
const SHAPE = SHAPES[options.shape as keyof typeof SHAPES]
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
function examplesOf(set: ExampleSet, round: number): string {
  const at = join(folder, `${set}-${round}`)
  const share = set === 'shared' ? Number(options.share) : 1
  writeExamples(at, SHAPE, { count: EXAMPLES, share, seed: round })
  return at
}

/** Options of `startScoring`: another engine, or less exactness. */
const VARIANTS: Record<string, object> = {
  tensorflow: { engine: 'tensorflow' },
  bfloat16: { engine: 'tensorflow', precision: 'bfloat16' },
}

type Sides = { ours: Side; variants: Side[]; reference: Side | undefined }

async function startSides(): Promise<Sides> {
  const script = join(ROOT, '.build/bench/score-child.js')
  const memory = options['memory-max']
  const settings = {
    ...{ proxyDir, threads: THREADS, workers: Number(options.workers) },
    memoryMax: memory === undefined ? undefined : Number(memory) * 2 ** 30,
  }
  const reference = await openReference()
  const ours = startOurs('ours', script, settings)
  const variants = options.variant.map(name => {
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
    examplesOf('distinct', 0),
  )
  const [eager, sdpa] = [tried.eager!, tried.sdpa!].map(seconds => seconds.toFixed(3))
  say(`reference at batch 1, best of three: eager ${eager} s, sdpa ${sdpa} s an example`)
  return side
}

type Difference = ReturnType<typeof differences>

/** All sides on the examples of one round, each time another first; how far they are from ours. */
async function playRound(
  { ours, variants, reference }: Sides,
  round: number,
  worst: Map<Side, Difference>,
): Promise<void> {
  const sides = [ours, reference, ...variants].filter(side => side !== undefined)
  for (const set of SETS) {
    const at = examplesOf(set, round)
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

function describe(side: Side, { ours, reference }: Sides, difference: Difference): object {
  const { name, seconds, cpuSeconds } = side
  for (const set of SETS) {
    const [best, middle] = [Math.min(...seconds[set]), median(seconds[set])]
    const times = `median ${middle.toFixed(3)} s, best ${best.toFixed(3)} s`
    say(`${name.padEnd(10)} ${set.padEnd(9)} ${times}, ${ratio(reference, side, set)}x`)
  }
  say(`${name.padEnd(10)} peak ${Math.round(side.peakBytes() / 2 ** 20)} MiB`)
  return {
    seconds: Object.fromEntries(SETS.map(set => [set, digits(median(seconds[set]))])),
    cpuSeconds: Object.fromEntries(SETS.map(set => [set, digits(median(cpuSeconds[set]))])),
    ratioDistinct: ratio(reference, side, 'distinct'),
    ratioShared: ratio(reference, side, 'shared'),
    peakBytes: side.peakBytes(),
    ...(side === ours ? {} : { differenceFromOurs: difference }),
  }
}

async function main(): Promise<object> {
  say(`writing ${CHECKPOINTS} checkpoints (${options.shape}) into ${folder}`)
  writeSchedule(proxyDir, SHAPE, CHECKPOINTS, options['tower-moves'])
  const sides = await startSides()
  const { ours, variants, reference } = sides
  const all = [ours, reference, ...variants].filter(side => side !== undefined)
  const worst = new Map<Side, Difference>()
  for (const side of [ours, ...variants]) {
    for (const set of SETS) await side.score(set, examplesOf(set, 0))
    for (const set of SETS) side.seconds[set].length = side.cpuSeconds[set].length = 0 // warm-up
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
    sides: Object.fromEntries(
      all.map(side => [side.name, describe(side, sides, worst.get(side)!)]),
    ),
    ...{ shape: options.shape, checkpoints: CHECKPOINTS, examples: EXAMPLES, rounds: ROUNDS },
    ...{ threads: THREADS, workers: Number(options.workers), share: Number(options.share) },
    ...{ towerMoves: options['tower-moves'], cpu: cpus()[0]?.model },
  }
  for (const side of all) await side.end()
  return report
}

try {
  process.stdout.write(`${JSON.stringify(await main())}\n`)
} finally {
  if (options.folder === undefined) rmSync(folder, { recursive: true, force: true })
}
