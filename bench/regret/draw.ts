/**
 * Draws the plots of `docs/regret.md` from the file of `bench:regret -- --out`: a file a figure, a row
 * a case.
 *
 *   npm run bench:regret:draw -- [--from docs/regret.json] [--out docs/regret]
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { ROOT } from '../../test/support.ts'
import type { Report, Result } from '../regret.ts'

const { values: options } = parseArgs({
  options: {
    from: { type: 'string', default: join(ROOT, 'docs/regret.json') },
    out: { type: 'string', default: join(ROOT, 'docs/regret') },
  },
})

const SERIES = {
  final: { label: 'final', colour: '#1a7f5a' },
  optimum: { label: 'possible: sizes and distributions known', colour: '#c2410c' },
  begun_known: { label: 'possible: seen sizes known', colour: '#7c3aed' },
  proportional: { label: 'proportional controller', colour: '#6b7280' },
  naive: { label: 'naive', colour: '#b8b2a6' },
} as const
type Shown = keyof typeof SERIES

const FIGURES = [
  { figure: 'recovered', label: 'stability recovered, %', domain: [-50, 110] },
  {
    figure: 'recoveredMended',
    label: 'stability recovered at equal counts, %',
    domain: [-50, 110],
  },
  { figure: 'budgetErrorEnd', label: 'budget error at the end, %', domain: [0, 10] },
  { figure: 'totalVariation', label: 'total variation of cluster counts, %', domain: [0, 20] },
  {
    figure: 'jaccard',
    label: "overlap with the batch rule's subset (Jaccard), %",
    domain: [0, 100],
  },
] as const
type Drawn = (typeof FIGURES)[number]

const ROW_HEIGHT = 15
const LEGEND_AT = [-80, -25, 225, 430, 640]
const SIZE = { width: 880, marginLeft: 110, marginRight: 150 }

function isShown(result: Result): result is Result & { kind: Shown } {
  return result.kind in SERIES && !(result.kind === 'naive' && result.baseline > 0)
}

function groupOf({ order, baseline }: Result): string {
  const name = order
    .replaceAll('_', ' ')
    .replace('stationary', 'random order')
    .replace('popularity', 'shares')
  return baseline > 0 ? `after a baseline of ${baseline.toLocaleString('en')}` : name
}

function chart(results: readonly Result[], { figure, label, domain }: Drawn): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const [least, most] = domain
  const points = results.filter(isShown).map(result => {
    const value = 100 * result[figure]
    return {
      group: groupOf(result),
      row: `K ${result.clusters} at ${result.percent} %`,
      series: SERIES[result.kind].label,
      // Values beyond the axis are drawn at its end.
      value: Math.min(most, Math.max(least, value)),
    }
  })
  const groups = [...new Set(points.map(({ group }) => group))]
  const rows = [...new Set(points.map(({ row }) => row))]
  const series = Object.values(SERIES)
  const drawn = Plot.plot({
    document,
    ...SIZE,
    height: 60 + ROW_HEIGHT * groups.length * (rows.length + 1),
    x: { label: `${label} →`, domain: [least, most], grid: true },
    y: { domain: rows, label: null },
    fy: { domain: groups, label: null, axis: 'right' },
    color: { domain: series.map(one => one.label), range: series.map(one => one.colour) },
    marks: [
      Plot.frame({ stroke: '#e5e7eb' }),
      Plot.dot(points, { x: 'value', y: 'row', fy: 'group', fill: 'series', r: 4 }),
    ],
  })
  return withLegend(drawn.outerHTML, Number(drawn.getAttribute('height')))
}

function withLegend(plot: string, height: number): string {
  const entries = Object.values(SERIES).map(({ label, colour }, i) => {
    const x = SIZE.marginLeft + LEGEND_AT[i]!
    const text = `<text x="${x + 9}" y="18" font-family="system-ui, sans-serif" font-size="11">${label}</text>`
    return `<circle cx="${x}" cy="14" r="4" fill="${colour}"/>${text}`
  })
  const [width, whole] = [SIZE.width, height + 24]
  const sized = `width="${width}" height="${whole}" viewBox="0 0 ${width} ${whole}"`
  const paper = `<rect width="${width}" height="${whole}" fill="white"/>`
  const moved = `<g transform="translate(0 24)">${plot}</g>`
  return `<svg xmlns="http://www.w3.org/2000/svg" ${sized}>${paper}${entries.join('')}${moved}</svg>\n`
}

const { results }: Report = JSON.parse(readFileSync(options.from, 'utf8'))
for (const drawn of FIGURES) {
  writeFileSync(`${options.out}-${kebab(drawn.figure)}.svg`, chart(results, drawn))
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)
}
