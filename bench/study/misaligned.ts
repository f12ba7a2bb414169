/**
 * Does a negative image gain find swapped answers? Precision and recall on the pool of the study, whose
 * swapped answers are known, at every threshold.
 *
 *   node .build/bench/study/misaligned.js [--seeds 1-3] [--out FILE.svg] [--json FILE] [--work DIR]
 *
 * A proxy is trained on each seed's pool, faults included, and scores it with `gain`. The last line is one
 * JSON object.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { prepareTensorflow } from '../../src/engine/tensorflow/backend.ts'
import { passOf } from '../../src/study/proxy.ts'
import { ROOT } from '../../test/support.ts'
import { bytesOf, POOL, STEPS, seedsOf, svgFile, target } from './options.ts'
import { generate } from './scenes.ts'

const { values: options } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1-3' },
    pool: { type: 'string', default: String(POOL) },
    steps: { type: 'string', default: String(STEPS) },
    out: { type: 'string' },
    json: { type: 'string' },
    work: { type: 'string', default: join(ROOT, '.study/misaligned') },
  },
})

/** Below `threshold` nats an example is called misaligned. */
export type Point = { threshold: number; precision: number; recall: number }
type SeedResult = {
  seed: number
  examples: number
  swapped: number
  /** At `select.gainMin: 0`. */
  atZero: Point
  /** Probability that a swapped answer has a lower gain than one that is not. */
  areaUnderRoc: number
  curve: Point[]
}

type Marked = { gain: number; isSwapped: boolean }

const CURVE_POINTS = 40

async function measure(seed: number): Promise<SeedResult> {
  const { pool } = await generate(seed, { pool: Number(options.pool), heldOut: 0 })
  const folder = join(options.work, `seed-${seed}`)
  mkdirSync(folder, { recursive: true })
  const read = await passOf('reference', {
    pool: bytesOf(pool),
    imageRoot: ROOT,
    proxy: undefined,
    target: target('scenes', Number(options.steps)),
    gain: true,
    seed,
    threads: 1,
    folder,
  })
  const marked = pool
    .map(({ fault }, i): Marked => ({ gain: read.gain[i]!, isSwapped: fault === 'swapped' }))
    .filter(({ gain }) => Number.isFinite(gain))
    .sort((a, b) => a.gain - b.gain)
  const curve = Array.from({ length: CURVE_POINTS }, (_, k) => {
    const last = Math.ceil(((k + 1) * marked.length) / CURVE_POINTS) - 1
    return pointAt(marked, marked[last]!.gain)
  })
  const swapped = marked.filter(({ isSwapped }) => isSwapped).length
  const size = { seed, examples: marked.length, swapped }
  return { ...size, atZero: pointAt(marked, 0), areaUnderRoc: areaOf(marked), curve }
}

function pointAt(marked: readonly Marked[], threshold: number): Point {
  const below = marked.filter(({ gain }) => gain < threshold)
  const found = below.filter(({ isSwapped }) => isSwapped).length
  const all = marked.filter(({ isSwapped }) => isSwapped).length
  const precision = below.length === 0 ? 1 : found / below.length
  return { threshold: round(threshold), precision: round(precision), recall: round(found / all) }
}

/** `marked` ascends by gain. */
function areaOf(marked: readonly Marked[]): number {
  let [lower, pairs] = [0, 0]
  for (const { isSwapped } of marked) {
    if (isSwapped) lower++
    else pairs += lower
  }
  return round(pairs / (lower * (marked.length - lower)))
}

function round(value: number): number {
  return Number(value.toPrecision(4))
}

function draw(results: readonly SeedResult[]): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const rows = results.flatMap(({ seed, curve }) =>
    curve.map(point => ({ ...point, seed: `seed ${seed}` })),
  )
  const zeros = results.map(({ seed, atZero }) => ({ ...atZero, seed: `seed ${seed}` }))
  const share = results.reduce((sum, one) => sum + one.swapped / one.examples, 0) / results.length
  return Plot.plot({
    document,
    width: 640,
    height: 360,
    x: { label: 'recall of swapped answers →', domain: [0, 1] },
    y: { label: '↑ precision', domain: [0, 1], grid: true },
    marks: [
      Plot.ruleY([share], { stroke: '#a8a29e', strokeDasharray: '4 4' }),
      Plot.line(rows, { x: 'recall', y: 'precision', z: 'seed', stroke: '#be185d' }),
      Plot.dot(zeros, { x: 'recall', y: 'precision', fill: '#1c1917', r: 4 }),
    ],
  }).outerHTML
}

prepareTensorflow({ threads: 1 })
const results: SeedResult[] = []
for (const seed of seedsOf(options.seeds)) {
  results.push(await measure(seed))
  process.stderr.write(`${JSON.stringify({ ...results.at(-1), curve: undefined })}\n`)
}
if (options.out !== undefined) {
  writeFileSync(options.out, svgFile(draw(results)))
}
if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(results)}\n`)
process.stdout.write(`${JSON.stringify({ seeds: results })}\n`)
