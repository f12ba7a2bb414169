/**
 * The cost of a checkpoint, an example and a text token, on the proxy of bench:score, in CPU seconds of
 * one thread (so that a busy machine does not count). Writes `docs/score-cost.json`, and draws
 * `docs/score-cost.svg` from it.
 *
 *   npm run bench:score-cost -- [--shape tiny] [--rounds N] [--out docs/score-cost] [--folder DIR] [--draw]
 *
 * Each point is the minimum of the rounds. `--draw` draws the JSON file as it is.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { ROOT } from '../test/support.ts'
import { type Child, startChild } from './child.ts'
import { writeExamples } from './score/examples.ts'
import { writeSchedule } from './score/model.ts'
import { shapeOf } from './score/shapes.ts'

const { values: options } = parseArgs({
  options: {
    shape: { type: 'string', default: 'full' },
    rounds: { type: 'string', default: '2' },
    out: { type: 'string', default: join(ROOT, 'docs/score-cost') },
    folder: { type: 'string' },
    draw: { type: 'boolean', default: false },
  },
})
const SHAPE = shapeOf(options.shape)
const TEXT = SHAPE.after[1]

/** What varies; the others stay at these values. */
const AXES = {
  checkpoints: [1, 2, 3, 4],
  examples: [1, 2, 4, 6],
  'text tokens': [TEXT / 4, TEXT, 2 * TEXT, 4 * TEXT],
} as const
const BASE = { checkpoints: 1, examples: 2, 'text tokens': TEXT }
type Axis = keyof typeof AXES
type Point = { axis: Axis; count: number; cpuSeconds: number }

/** A schedule of the first `count` checkpoints. */
function scheduleOf(folder: string, count: number): string {
  const dir = join(folder, `first-${count}`)
  if (existsSync(dir)) return dir
  mkdirSync(dir)
  for (let step = 1; step <= count; step++) {
    symlinkSync(join(folder, 'proxy', `checkpoint-${step}`), join(dir, `checkpoint-${step}`))
  }
  return dir
}

async function pointOf(child: Child, folder: string, axis: Axis, count: number): Promise<Point> {
  const size = { ...BASE, [axis]: count }
  let cpuSeconds = Number.POSITIVE_INFINITY
  for (let round = 0; round < Number(options.rounds); round++) {
    const at = join(folder, `${axis}-${count}-${round}`)
    const after = [size['text tokens'], size['text tokens']] as const
    const seed = round + 1
    await writeExamples(at, { ...SHAPE, after }, { count: size.examples, share: 1, seed })
    const answer = await child.ask<{ cpuSeconds: number }>({ folder: at })
    cpuSeconds = Math.min(cpuSeconds, answer.cpuSeconds)
  }
  process.stderr.write(`${count} ${axis}: ${cpuSeconds.toFixed(3)} s\n`)
  return { axis, count, cpuSeconds }
}

async function measure(folder: string): Promise<Point[]> {
  writeSchedule(join(folder, 'proxy'), SHAPE, AXES.checkpoints.at(-1)!)
  const start = (checkpoints: number): Child =>
    startChild(process.execPath, [
      join(ROOT, '.build/bench/score/child.js'),
      JSON.stringify({
        ...{ proxyDir: scheduleOf(folder, checkpoints), shape: options.shape },
        ...{ workers: 1, threads: 1 },
      }),
    ])
  const points: Point[] = []
  for (const count of AXES.checkpoints) {
    const child = start(count)
    await pointOf(child, folder, 'checkpoints', count) // warm-up
    points.push(await pointOf(child, folder, 'checkpoints', count))
    await child.end()
  }
  const child = start(BASE.checkpoints)
  for (const axis of ['examples', 'text tokens'] as const) {
    for (const count of AXES[axis]) points.push(await pointOf(child, folder, axis, count))
  }
  await child.end()
  return points
}

/** The least-squares line, and the share of the variance that it explains. */
function lineOf(points: readonly Point[]): { slope: number; intercept: number; r2: number } {
  const mean = (of: (point: Point) => number): number =>
    points.reduce((sum, point) => sum + of(point), 0) / points.length
  const [x, y] = [mean(({ count }) => count), mean(({ cpuSeconds }) => cpuSeconds)]
  const along = mean(({ count, cpuSeconds }) => (count - x) * (cpuSeconds - y))
  const slope = along / mean(({ count }) => (count - x) ** 2)
  const intercept = y - slope * x
  const left = mean(({ count, cpuSeconds }) => (cpuSeconds - intercept - slope * count) ** 2)
  return { slope, intercept, r2: 1 - left / mean(({ cpuSeconds }) => (cpuSeconds - y) ** 2) }
}

const PANEL = { width: 300, height: 260 }

/** One panel an axis, side by side: the points and the line through them. */
function chart(points: readonly Point[]): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const axes = Object.keys(AXES) as Axis[]
  const panels = axes.map((axis, i) => {
    const own = points.filter(point => point.axis === axis)
    const { slope, intercept, r2 } = lineOf(own)
    const most = Math.max(...own.map(({ count }) => count))
    const ends = [0, most].map(count => ({ count, cpuSeconds: intercept + slope * count }))
    const label = `${slope.toPrecision(3)} s each, R² ${r2.toFixed(4)}`
    const drawn = Plot.plot({
      document,
      ...PANEL,
      x: { label: `${axis} →`, domain: [0, 1.05 * most] },
      y: { label: '↑ seconds of CPU time', grid: true, zero: true },
      marks: [
        Plot.line(ends, { x: 'count', y: 'cpuSeconds', stroke: '#c2410c' }),
        Plot.dot(own, { x: 'count', y: 'cpuSeconds', fill: '#1a7f5a', r: 4 }),
        Plot.text([label], { frameAnchor: 'top-left', dx: 6, dy: 4, fontSize: 12 }),
      ],
    })
    drawn.setAttribute('x', String(i * PANEL.width))
    return drawn.outerHTML
  })
  const [width, { height }] = [axes.length * PANEL.width, PANEL]
  const sized = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`
  const paper = `<rect width="${width}" height="${height}" fill="white"/>`
  return `<svg xmlns="http://www.w3.org/2000/svg" ${sized}>${paper}${panels.join('')}</svg>\n`
}

async function main(): Promise<object> {
  if (!options.draw) {
    const folder = options.folder ?? mkdtempSync(join(tmpdir(), 'xmasd-bench-'))
    try {
      const points = await measure(folder)
      const made = { shape: options.shape, base: BASE, cpu: cpus()[0]?.model, points }
      writeFileSync(`${options.out}.json`, `${JSON.stringify(made, null, 2)}\n`)
    } finally {
      if (options.folder === undefined) rmSync(folder, { recursive: true, force: true })
    }
  }
  const { points }: { points: Point[] } = JSON.parse(readFileSync(`${options.out}.json`, 'utf8'))
  writeFileSync(`${options.out}.svg`, chart(points))
  const lines = (Object.keys(AXES) as Axis[]).map(axis => {
    const { slope, r2 } = lineOf(points.filter(point => point.axis === axis))
    return [axis, { secondsEach: Number(slope.toPrecision(4)), r2: Number(r2.toFixed(5)) }]
  })
  return Object.fromEntries(lines)
}

process.stdout.write(`${JSON.stringify(await main())}\n`)
