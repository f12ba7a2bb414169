/** The report as one HTML page that stands alone: no script, nothing fetched. */

import type { Part } from '../observe/parts.ts'
import {
  clusterChart,
  clusterName,
  flowChart,
  instabilityChart,
  trajectoryChart,
} from './charts.ts'
import type { ReportData } from './collect.ts'
import type { Picture } from './pictures.ts'

/** `steps` are the checkpoints' step numbers where they are known. */
export function reportPage(
  data: ReportData,
  pictures: readonly Picture[],
  steps: readonly number[],
): string {
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>xmasd report</title><style>${STYLE}</style></head><body>`,
    `<h1>What the subset looks like</h1>${summary(data)}`,
    ...sections(data, steps),
    pictureSection(pictures),
    '</body></html>\n',
  ].join('\n')
}

function sections(data: ReportData, steps: readonly number[]): string[] {
  if (data.examples === 0 && data.waiting > 0) return ['<p>Nothing has been decided yet.</p>']
  if (data.examples === 0) return ['<p>No example has been assigned yet.</p>']
  const scored = data.sample.length > 0
  return [
    figure(
      'Clusters against their quotas',
      'Grey: examples of the history. Green: kept now. Orange line: what the batch rule gives. Small clusters are kept whole, large ones are cut to the level; green should follow the line. The scale is logarithmic.',
      clusterChart(data.clusters),
    ),
    scored
      ? figure(
          'How steady the kept ones are',
          `A sample of ${data.sample.length} examples with an image. Kept ones should stand to the left: within a cluster the steadiest go first.`,
          instabilityChart(data.sample),
        )
      : '',
    scored
      ? figure(
          'Trajectories by cluster',
          'The score at each checkpoint, for a sample of the largest clusters. Lines of one cluster should run alike; kept ones are the flattest.',
          trajectoryChart(data.trajectories, steps),
        )
      : '',
    data.flow.length > 0
      ? figure(
          'What was decided, and why',
          'Shares along the stream. Steady bands are normal; one that widens is a change of the input, or of the duplicates in it.',
          flowChart(data.flow),
        )
      : '',
  ]
}

function summary(data: ReportData): string {
  const share = data.examples === 0 ? 0 : (100 * data.kept) / data.examples
  const capped = data.clusters.filter(({ size, quota }) => quota < size).length
  const tiles: [string, string][] = [
    [count(data.examples), 'examples that count'],
    [`${count(data.kept)} · ${share.toFixed(1)} %`, `kept; the budget is ${count(data.budget)}`],
    ...partTiles(data),
    [count(data.clusters.length), `clusters in use, ${count(capped)} cut to their quota`],
    [count(data.duplicates), 'duplicates dropped'],
    ...waitingTiles(data),
    [count(data.deadLetters.reduce((sum, row) => sum + row.count, 0)), 'dead letters'],
  ]
  const letters = data.deadLetters.map(row => `${escaped(row.code)} ${count(row.count)}`)
  return [
    `<p>Policy <b>${escaped(data.policy)}</b> at <b>${data.percent} %</b>, bundle <code>${escaped(data.bundles.join(', '))}</code>.</p>`,
    `<dl>${tiles.map(([value, name]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join('')}</dl>`,
    letters.length === 0 ? '' : `<p class="note">Dead letters: ${letters.join(' · ')}</p>`,
  ].join('\n')
}

function waitingTiles({ waiting }: ReportData): [string, string][] {
  return waiting === 0 ? [] : [[count(waiting), 'assigned, not decided yet']]
}

/** What N and the kept ones are made of, where that is more than the stream. */
function partTiles({ parts }: ReportData): [string, string][] {
  const { stream, baseline, control } = parts
  const of = ({ kept, examples }: Part): string => `${count(kept)} of ${count(examples)}`
  const tiles: [string, string][] = []
  if (baseline.examples > 0) {
    tiles.push([of(stream), 'kept of the stream'], [of(baseline), 'kept of the baseline'])
  }
  if (control.examples > 0) tiles.push([of(control), 'kept by lot, besides: the control arm'])
  return tiles
}

function figure(title: string, caption: string, chart: string): string {
  return `<section><h2>${title}</h2><p class="note">${caption}</p>${chart}</section>`
}

function pictureSection(pictures: readonly Picture[]): string {
  if (pictures.length === 0) return ''
  const clusters = [...new Set(pictures.map(({ drawn }) => drawn.cluster))]
  const rows = clusters.map(cluster => {
    const own = pictures.filter(({ drawn }) => drawn.cluster === cluster)
    return `<h3>${clusterName(cluster)}</h3><div class="cards">${own.map(card).join('')}</div>`
  })
  return `<section><h2>Examples</h2><p class="note">Of the largest clusters: the steadiest that are kept, the least steady that are not.</p>${rows.join('')}</section>`
}

function card({ drawn, question, answer, image }: Picture): string {
  const state = drawn.kept ? 'kept' : 'dropped'
  const picture =
    'url' in image
      ? `<img src="${image.url}" alt="">`
      : `<div class="missing">${escaped(image.missing)}</div>`
  return `<article class="${state}">${picture}<p><b>${escaped(question)}</b><br>${escaped(answer)}</p><footer>${state} · instability ${drawn.instability.toPrecision(3)}<br><code>${escaped(drawn.key)}</code></footer></article>`
}

function count(value: number): string {
  return value.toLocaleString('en-US')
}

function escaped(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return text.replaceAll(/[&<>"]/g, character => names[character]!)
}

const STYLE = `
:root { font: 16px/1.5 system-ui, sans-serif; color: #1c1917; background: #fff; }
body { max-width: 940px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 0; }
h3 { font-size: 0.95rem; margin: 1.2rem 0 0.4rem; }
.note { color: #57534e; font-size: 0.9rem; margin: 0.2rem 0 0.8rem; }
code { font-size: 0.85em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 0.8rem; }
dl div { border: 1px solid #e7e5e4; border-radius: 8px; padding: 0.6rem 0.8rem; display: flex; flex-direction: column-reverse; }
dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; } dt { color: #57534e; font-size: 0.8rem; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(145px, 1fr)); gap: 0.6rem; }
article { border: 1px solid #e7e5e4; border-top: 4px solid #b8b2a6; border-radius: 6px; padding: 0.5rem; font-size: 0.8rem; }
article.kept { border-top-color: #1a7f5a; }
article p { margin: 0.4rem 0; overflow-wrap: anywhere; } article footer { color: #57534e; font-size: 0.75rem; }
img { width: 100%; height: 120px; object-fit: contain; background: #f5f5f4; }
.missing { height: 120px; display: grid; place-items: center; background: #f5f5f4; color: #57534e; text-align: center; }
`
