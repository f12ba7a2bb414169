/** A study as one self-contained HTML page: no script, no request. Charts are SVG by Observable Plot. */
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { describeArm, parseArm } from './arms.ts'
import type { Run } from './runs.ts'
import { type Cell, type Judgement, seedsSaid, sentenceOf, signed } from './statistics.ts'

const { document } = parseHTML('<!doctype html><html><body></body></html>')

const WIDTH = 900
const COLOURS = {
  pays: '#1a7f5a',
  'does not pay': '#6b6a65',
  'not enough seeds to tell': '#b45309',
}

export type PageOptions = {
  title: string
  /** The comparison named beforehand. */
  primary: { arm: string; percent: number }
  /** By the user: not the default. */
  isNamed: boolean
}

export function studyPage(
  judgement: Judgement,
  runs: readonly Run[],
  { title, primary, isNamed }: PageOptions,
): string {
  const { arm, percent } = primary
  const seeds = new Set(runs.map(({ seed }) => seed)).size
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>${escaped(title)}</title><style>${STYLE}</style></head><body>`,
    `<h1>Does selecting pay?</h1>`,
    `<p class="answer" style="border-color: ${answerColour(judgement, primary)}">${code(sentenceOf(judgement, arm, percent))}</p>`,
    judgement.caution === undefined ? '' : `<p class="caution">${code(judgement.caution)}</p>`,
    `<p class="note">Data ${escaped(title)}; ${counted(seeds, 'seed')}, ${counted(runs.length, 'run')}. ${primaryNote(judgement, isNamed)}</p>`,
    '<h2>Relative performance</h2>',
    '<p class="note">100: targets trained on everything, with as many steps. The mean over families of held-out results; bars are 95 % bootstrap intervals over seeds, wider for few seeds; fewer than three seeds have none.</p>',
    curveChart(judgement.cells),
    '<h2>Against a random subset of the same size</h2>',
    '<p class="note">Paired by seed. Right of the line: better than random.</p>',
    differenceChart(judgement.cells),
    table(judgement),
    '</body></html>\n',
  ].join('\n')
}

function answerColour({ cells }: Judgement, { arm, percent }: PageOptions['primary']): string {
  const cell = cells.find(one => one.arm === arm && one.percent === percent)
  return COLOURS[cell?.difference?.verdict ?? 'not enough seeds to tell']
}

/** Which comparison answers, and what the others are worth. */
function primaryNote({ cells }: Judgement, isNamed: boolean): string {
  const named = isNamed
    ? 'This comparison was named with <code>--primary</code>.'
    : 'This comparison is the default; <code>--primary</code> names another one, before results are seen.'
  const others = cells.filter(({ difference }) => difference !== undefined).length - 1
  if (others < 1) return named
  return `${named} Of the other ${others === 1 ? 'comparison' : `${others} comparisons`} with random about one in twenty looks better or worse than it is by chance.`
}

function counted(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`
}

const LABELS = { x: 'share of the pool, % →', y: '↑ relative performance, full = 100' }

/** Each arm's mean and interval by percent. */
export function curveChart(cells: readonly Cell[]): string {
  const rows = cells.map(({ arm, percent, relative }) => ({ arm, percent, ...bounded(relative) }))
  const arms = [...new Set(rows.map(({ arm }) => arm))]
  return svg({
    height: 420,
    x: {
      type: 'log',
      label: LABELS.x,
      ticks: [...new Set(rows.map(row => row.percent))],
      tickFormat: 'd',
    },
    y: { label: LABELS.y, grid: true, zero: false, nice: true },
    color: { domain: arms, legend: true, range: arms.map(colourOf) },
    marks: [
      Plot.ruleY([100], { stroke: '#d6d3d1' }),
      Plot.ruleX(rows, { x: 'percent', y1: 'low', y2: 'high', stroke: 'arm', strokeOpacity: 0.35 }),
      Plot.line(rows, { x: 'percent', y: 'mean', stroke: 'arm', z: 'arm' }),
      Plot.dot(rows, { x: 'percent', y: 'mean', fill: 'arm', r: 4, title: 'arm' }),
    ],
  })
}

/** Each arm's difference from random, a panel a percent. */
export function differenceChart(cells: readonly Cell[]): string {
  const rows = cells.flatMap(({ arm, percent, difference }) =>
    difference === undefined
      ? []
      : [{ arm, percent: `${percent} %`, ...bounded(difference), verdict: difference.verdict }],
  )
  const panels = [...new Set(rows.map(({ percent }) => percent))]
  const order = [...rows].sort((a, b) => b.mean - a.mean).map(({ arm }) => arm)
  return svg({
    height: 60 + panels.length * (20 + 20 * new Set(order).size),
    marginLeft: 150,
    marginRight: 60,
    x: { label: 'points of relative performance over random →', grid: true, nice: true },
    y: { domain: [...new Set(order)], label: null },
    fy: { domain: panels, label: null },
    color: { domain: Object.keys(COLOURS), range: Object.values(COLOURS), legend: true },
    marks: [
      Plot.ruleX([0], { stroke: '#1c1917' }),
      Plot.ruleY(rows, { y: 'arm', x1: 'low', x2: 'high', fy: 'percent', stroke: 'verdict' }),
      Plot.dot(rows, { y: 'arm', x: 'mean', fy: 'percent', fill: 'verdict', r: 4 }),
    ],
  })
}

/** Where there is no interval the point stands alone. */
function bounded({ mean, low, high }: Cell['relative']): Cell['relative'] {
  return { mean, low: Number.isFinite(low) ? low : mean, high: Number.isFinite(high) ? high : mean }
}

const HUES = 12

function colourOf(arm: string, i: number): string {
  if (arm === 'random') return '#1c1917'
  if (arm === 'full') return '#a8a29e'
  return `hsl(${Math.round((360 * (i * 5)) / HUES) % 360} ${60 + 10 * (i % 3)}% ${38 + 7 * (i % 3)}%)`
}

function table({ cells, measure }: Judgement): string {
  const head = ['arm', 'share', 'examples', 'seeds', `relative (${measure})`, 'over random', 'says']
  const rows = cells.map(({ arm, percent, seeds, selected, relative, difference }) => [
    `<code>${escaped(arm)}</code> <small>${escaped(describeArm(parseArm(arm)))}</small>`,
    `${percent} %`,
    String(selected),
    String(seeds),
    withInterval(relative, value => value.toFixed(1)),
    difference === undefined ? '' : withInterval(difference, signed),
    difference === undefined ? '' : saysOf(difference),
  ])
  const row = (tag: string, values: readonly string[]): string =>
    `<tr>${values.map(value => `<${tag}>${value}</${tag}>`).join('')}</tr>`
  return `<table>${row('th', head)}${rows.map(values => row('td', values)).join('\n')}</table>`
}

function saysOf(difference: NonNullable<Cell['difference']>): string {
  const { verdict } = difference
  return verdict === 'not enough seeds to tell' ? `${verdict}; ${seedsSaid(difference)}` : verdict
}

/** "64.4 (61.0 to 67.9)" */
export function withInterval(
  { mean, low, high }: Cell['relative'],
  write: (value: number) => string,
): string {
  if (Number.isNaN(mean)) return '–'
  return Number.isFinite(low) ? `${write(mean)} (${write(low)} to ${write(high)})` : write(mean)
}

function svg(options: Plot.PlotOptions): string {
  return Plot.plot({ document, width: WIDTH, ...options }).outerHTML
}

function escaped(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return text.replaceAll(/[&<>"]/g, character => names[character]!)
}

/** Backticks as code. */
function code(text: string): string {
  return escaped(text).replaceAll(/`([^`]*)`/g, '<code>$1</code>')
}

const STYLE = `
:root { font: 16px/1.5 system-ui, sans-serif; color: #1c1917; background: #fff; }
body { max-width: 940px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 0; }
.answer, .caution { border-left: 4px solid; padding-left: 0.8rem; } .answer { font-size: 1.1rem; }
.caution { border-color: #b91c1c; }
.note, small { color: #57534e; } .note { font-size: 0.9rem; margin: 0.2rem 0 0.8rem; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; margin-top: 1.5rem; }
th, td { text-align: left; padding: 0.25rem 0.6rem 0.25rem 0; border-bottom: 1px solid #e7e5e4; }
`
