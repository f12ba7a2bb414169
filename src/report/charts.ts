/** The report's charts, as SVG text drawn by Observable Plot. They need no script in the page. */
import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import type { Cluster } from '../record.ts'
import { type ClusterRow, type Drawn, FLOW_SLICES, type FlowCell } from './collect.ts'

const { document } = parseHTML('<!doctype html><html><body></body></html>')

const KEPT = '#1a7f5a'
const DROPPED = '#b8b2a6'
const WIDTH = 900
const STATE = { domain: ['kept', 'dropped'], range: [KEPT, DROPPED], legend: true }

/** Clusters by size: how many they have, how many are kept, what the batch rule gives them. */
export function clusterChart(clusters: readonly ClusterRow[]): string {
  const rows = clusters.map((row, rank) => ({ ...row, rank: rank + 1 }))
  const title = ({ cluster, size, kept, quota }: ClusterRow): string =>
    `cluster ${cluster}: ${size} examples, ${kept} kept, quota ${quota}`
  const bar = (key: 'size' | 'kept', fill: string) =>
    Plot.rectY(rows, {
      x1: 'rank',
      x2: (row: { rank: number }) => row.rank + 1,
      y1: 0.8,
      y2: (row: ClusterRow) => Math.max(0.8, row[key]),
      fill,
      insetRight: rows.length > 300 ? 0 : 0.5,
      title,
    })
  const step = rows.flatMap(({ rank, quota }) => [
    { x: rank, y: Math.max(0.8, quota) },
    { x: rank + 1, y: Math.max(0.8, quota) },
  ])
  return svg({
    height: 320,
    x: { label: 'clusters, largest first →', tickFormat: 'd' },
    y: { type: 'log', grid: true, label: '↑ examples', tickFormat: '~s', domain: yDomain(rows) },
    color: { domain: ['in the history', 'kept'], range: [DROPPED, KEPT], legend: true },
    marks: [
      bar('size', DROPPED),
      bar('kept', KEPT),
      Plot.line(step, { x: 'x', y: 'y', stroke: '#c2410c', strokeWidth: 1.5 }),
    ],
  })
}

function yDomain(rows: readonly ClusterRow[]): [number, number] {
  return [0.8, Math.max(1, ...rows.map(({ size }) => size))]
}

/** How steady kept and dropped examples are. */
export function instabilityChart(sample: readonly Drawn[]): string {
  const rows = sample.map(({ kept, instability }) => ({ state: stateOf(kept), instability }))
  return svg({
    height: 260,
    x: { label: 'instability: sum of |score step| over the schedule →' },
    y: { grid: true, label: '↑ examples of the sample' },
    color: STATE,
    marks: [
      Plot.rectY(
        rows,
        Plot.binX<Plot.RectYOptions>(
          { y: 'count' },
          { x: 'instability', thresholds: 50, fill: 'state' },
        ),
      ),
      Plot.ruleY([0]),
    ],
  })
}

/** How scores move over the schedule, cluster by cluster. */
export function trajectoryChart(drawn: readonly Drawn[], steps: readonly number[]): string {
  const rows = drawn.flatMap(({ key, cluster, kept, trajectory }) =>
    trajectory.map((score, t) => ({
      key,
      cluster: `cluster ${cluster}`,
      state: stateOf(kept),
      step: steps[t] ?? t + 1,
      score,
    })),
  )
  const clusters = [...new Set(rows.map(({ cluster }) => cluster))]
  const columns = 4
  const at = (cluster: string): number => clusters.indexOf(cluster)
  return svg({
    height: 40 + 150 * Math.ceil(clusters.length / columns),
    marginLeft: 50,
    x: { label: 'checkpoint →', ticks: 3 },
    y: { label: '↑ score', ticks: 4, grid: true },
    fx: { axis: null },
    fy: { axis: null },
    color: STATE,
    marks: [
      Plot.line(rows, {
        x: 'step',
        y: 'score',
        z: 'key',
        fx: (row: { cluster: string }) => at(row.cluster) % columns,
        fy: (row: { cluster: string }) => Math.floor(at(row.cluster) / columns),
        stroke: 'state',
        strokeWidth: 1,
        strokeOpacity: 0.8,
        title: 'key',
      }),
      Plot.text(clusters, {
        fx: (cluster: string) => at(cluster) % columns,
        fy: (cluster: string) => Math.floor(at(cluster) / columns),
        text: (cluster: string) => cluster,
        frameAnchor: 'top-left',
        dx: 4,
        dy: 2,
        fontWeight: 'bold',
      }),
      Plot.frame({ stroke: '#ddd' }),
    ],
  })
}

/** What was decided, and why, along the stream. */
export function flowChart(flow: readonly FlowCell[]): string {
  const rows = flow.map(({ slice, action, reason, count }) => ({
    share: slice / FLOW_SLICES,
    what: `${action}: ${reason.replaceAll('_', ' ')}`,
    count,
  }))
  const order = [...new Set(rows.map(({ what }) => what))].sort()
  return svg({
    height: 260,
    x: { label: 'decisions, oldest to newest →', tickFormat: '.0%' },
    y: { label: '↑ share', tickFormat: '.0%' },
    color: { legend: true, domain: order, scheme: 'Tableau10' },
    marks: [
      Plot.rectY(
        rows,
        Plot.stackY(
          { offset: 'normalize', order },
          {
            x1: 'share',
            x2: (row: { share: number }) => row.share + 1 / FLOW_SLICES,
            y: 'count',
            z: 'what',
            fill: 'what',
          },
        ),
      ),
    ],
  })
}

function stateOf(kept: boolean): 'kept' | 'dropped' {
  return kept ? 'kept' : 'dropped'
}

function svg(options: Plot.PlotOptions): string {
  return Plot.plot({ document, width: WIDTH, ...options }).outerHTML
}

export function clusterName(cluster: Cluster): string {
  return cluster === 'text' ? 'text-only' : `cluster ${cluster}`
}
