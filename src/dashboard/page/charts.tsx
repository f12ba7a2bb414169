/** Charts of the report and of an example. Each is drawn at the width it has, so that its text keeps its size. */
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { COLOURS, type Meaning, meaningOf } from '../../observe/colours.ts'
import type { FlowCell, ReportCharts, ReportCounts } from '../schemas.ts'
import { clusterHref, clusterName, count, percent } from './widgets.tsx'

type Frame = {
  width: number
  height: number
  x: (share: number) => number
  y: (share: number) => number
}

type ChartProps = {
  height: number
  label: string
  left?: number
  children: (frame: Frame) => ComponentChildren
  onMove?: (share: number) => void
}

const [BOTTOM, TOP, RIGHT] = [22, 8, 8]

/** `x` and `y` lead from 0..1 to pixels, y upwards. */
export function Chart({ height, label, left = 44, children, onMove }: ChartProps) {
  const box = useRef<HTMLDivElement>(null)
  const [width, setWidth] = useState(0)
  useLayoutEffect(() => {
    const observer = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 0))
    observer.observe(box.current!)
    setWidth(box.current!.clientWidth)
    return () => observer.disconnect()
  }, [])
  const frame: Frame = {
    ...{ width, height },
    x: share => left + share * (width - left - RIGHT),
    y: share => height - BOTTOM - share * (height - BOTTOM - TOP),
  }
  const move = (event: PointerEvent): void => {
    const { left: start } = box.current!.getBoundingClientRect()
    onMove?.((event.clientX - start - left) / (width - left - RIGHT))
  }
  return (
    <div ref={box} class="plot" style={{ height: `${height}px` }}>
      {width > 0 && (
        <svg
          width={width}
          height={height}
          role="img"
          aria-label={label}
          onPointerMove={move}
          onPointerDown={move}
        >
          {children(frame)}
        </svg>
      )}
    </div>
  )
}

type AxisProps = { frame: Frame; ticks: { at: number; text: string }[] }

export function Rules({ frame: { x, y }, ticks }: AxisProps) {
  return (
    <>
      {ticks.map(({ at, text }) => (
        <g key={text}>
          <line class="rule" x1={x(0)} x2={x(1)} y1={y(at)} y2={y(at)} />
          <text x={x(0) - 6} y={y(at) + 4} text-anchor="end">
            {text}
          </text>
        </g>
      ))}
    </>
  )
}

export function Feet({ frame: { x, height }, ticks }: AxisProps) {
  return (
    <>
      {ticks.map(({ at, text }, i) => (
        <text
          key={text}
          x={x(at)}
          y={height - 5}
          text-anchor={i === 0 ? 'start' : i === ticks.length - 1 ? 'end' : 'middle'}
        >
          {text}
        </text>
      ))}
    </>
  )
}

type Key = { colour: string; name: string }

function Keys({ of }: { of: Key[] }) {
  return (
    <ul class="legend">
      {of.map(({ colour, name }) => (
        <li key={name}>
          <span class="swatch" style={{ background: colour }} aria-hidden="true" />
          {name}
        </li>
      ))}
    </ul>
  )
}

const of = (meaning: Meaning): string => `var(--${meaning})`
const LEAST = 0.8

/** Clusters by size, on a logarithmic scale: size, kept, and the quota of the batch rule as a line. */
export function Quotas({ clusters }: { clusters: ReportCounts['clusters'] }) {
  const [at, setAt] = useState<number | undefined>(undefined)
  const n = clusters.length
  const most = Math.max(1, ...clusters.slice(0, 1).map(({ size }) => size))
  const scale = (value: number): number =>
    Math.log(Math.max(LEAST, value) / LEAST) / Math.log(Math.max(most, 2) / LEAST)
  const ticks = [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
    .filter(value => value <= Math.max(most, 2))
    .map(value => ({ at: scale(value), text: count(value) }))
  const one = at === undefined ? undefined : clusters[at]
  return (
    <>
      <Keys
        of={[
          { colour: of('drop'), name: 'examples of the cluster' },
          { colour: of('keep'), name: 'kept of them' },
          { colour: 'var(--text)', name: 'quota of the batch rule (line)' },
        ]}
      />
      <Chart
        height={280}
        label={`${count(n)} clusters by size; the largest has ${count(most)} examples`}
        onMove={share => setAt(Math.max(0, Math.min(n - 1, Math.floor(share * n))))}
      >
        {frame => {
          const bars = (value: (one: ReportCounts['clusters'][number]) => number): string =>
            clusters
              .map((cluster, i) => bar(frame, i / n, (i + 1) / n, scale(value(cluster))))
              .join('')
          const line = clusters.flatMap(({ quota }, i) =>
            [i / n, (i + 1) / n].map(x => `${frame.x(x)},${frame.y(scale(quota))}`),
          )
          return (
            <>
              <Rules frame={frame} ticks={ticks} />
              <path d={bars(({ size }) => size)} fill={of('drop')} />
              <path d={bars(({ kept }) => kept)} fill={of('keep')} />
              <polyline class="quota" points={line.join(' ')} />
              <Feet
                frame={frame}
                ticks={[
                  { at: 0, text: 'largest cluster' },
                  { at: 1, text: 'smallest' },
                ]}
              />
            </>
          )
        }}
      </Chart>
      <p class="note">
        {one === undefined ? (
          'Point at a bar to read it.'
        ) : (
          <>
            <a href={clusterHref(one.cluster)}>{clusterName(one.cluster)}</a>: {count(one.size)}{' '}
            examples, {count(one.kept)} kept, quota {count(one.quota)}
          </>
        )}
      </p>
    </>
  )
}

/** A bar between two shares of the width, as part of a path. */
function bar({ x, y }: Frame, from: number, to: number, height: number, base = 0): string {
  const gap = x(to) - x(from) > 4 ? 1 : 0
  return `M${x(from)} ${y(base)}V${y(height)}H${x(to) - gap}V${y(base)}Z`
}

/** How many examples of each instability are kept and dropped. */
export function Instability({ of: found }: { of: ReportCharts['instability'] }) {
  const { from, width, kept, dropped } = found
  const bins = kept.length
  const most = Math.max(1, ...kept.map((value, i) => value + dropped[i]!))
  return (
    <>
      <Keys
        of={[
          { colour: of('keep'), name: 'kept' },
          { colour: of('drop'), name: 'dropped' },
        ]}
      />
      <Chart
        height={220}
        label={`instability from ${from.toPrecision(3)} on; kept and dropped examples`}
      >
        {frame => {
          const bars = (value: (i: number) => number, base: (i: number) => number): string =>
            kept
              .map((_, i) =>
                bar(frame, i / bins, (i + 1) / bins, (base(i) + value(i)) / most, base(i) / most),
              )
              .join('')
          return (
            <>
              <Rules
                frame={frame}
                ticks={[0, 0.5, 1].map(at => ({ at, text: count(at * most) }))}
              />
              <path
                d={bars(
                  i => kept[i]!,
                  () => 0,
                )}
                fill={of('keep')}
              />
              <path
                d={bars(
                  i => dropped[i]!,
                  i => kept[i]!,
                )}
                fill={of('drop')}
              />
              <Feet
                frame={frame}
                ticks={[0, 0.5, 1].map(at => ({
                  at,
                  text: `${(from + at * bins * width).toPrecision(3)}${at === 1 ? ' and more' : ''}`,
                }))}
              />
            </>
          )
        }}
      </Chart>
    </>
  )
}

type TrajectoriesProps = { of: ReportCharts['trajectories'][number]; steps: number[] | null }

/** Scores over the schedule of one cluster, on a scale of its own. */
export function Trajectories({ of: found, steps }: TrajectoriesProps) {
  const { cluster, kept, dropped } = found
  const scores = [...kept, ...dropped].flat()
  const [low, high] = [Math.min(...scores), Math.max(...scores)]
  const length = Math.max(2, kept[0]?.length ?? dropped[0]?.length ?? 0)
  const scale = (score: number): number => (score - low) / (high - low || 1)
  return (
    <Chart
      height={130}
      left={52}
      label={`trajectories of ${clusterName(cluster)}: scores from ${low.toPrecision(3)} to ${high.toPrecision(3)}`}
    >
      {frame => {
        const points = (line: number[]): string =>
          line.map((score, t) => `${frame.x(t / (length - 1))},${frame.y(scale(score))}`).join(' ')
        return (
          <>
            <Rules
              frame={frame}
              ticks={[0, 1].map(at => ({ at, text: (at === 0 ? low : high).toPrecision(3) }))}
            />
            {dropped.map((line, i) => (
              <polyline key={`d${i}`} class="own drop" points={points(line)} />
            ))}
            {kept.map((line, i) => (
              <polyline key={`k${i}`} class="own keep" points={points(line)} />
            ))}
            <Feet
              frame={frame}
              ticks={[
                { at: 0, text: `checkpoint ${steps?.[0] ?? 1}` },
                { at: 1, text: String(steps?.at(-1) ?? length) },
              ]}
            />
          </>
        )
      }}
    </Chart>
  )
}

/** Decisions by reason along the stream, as shares. */
export function Flow({ flow: { slices, cells } }: { flow: ReportCharts['flow'] }) {
  const kinds = kindsOf(cells)
  const sums = new Array<number>(slices).fill(0)
  for (const { slice, count: number } of cells) sums[slice]! += number
  const below = new Array<number>(slices).fill(0)
  const layers = kinds.map(({ name, colour, total }) => {
    const own = new Map<number, number>()
    for (const cell of cells) if (nameOf(cell) === name) own.set(cell.slice, cell.count)
    const bars = Array.from({ length: slices }, (_, slice) => {
      const from = below[slice]!
      below[slice] = from + (own.get(slice) ?? 0) / Math.max(1, sums[slice]!)
      return { from, to: below[slice]! }
    })
    return { name, colour, total, bars }
  })
  const all = sums.reduce((sum, value) => sum + value, 0)
  return (
    <>
      <Chart
        height={240}
        label="shares of actions and reasons, from the oldest to the newest decision"
      >
        {frame => (
          <>
            {layers.map(({ name, colour, bars }) => (
              <path
                key={name}
                fill={colour}
                d={bars
                  .map(({ from, to }, i) =>
                    to === from ? '' : bar(frame, i / slices, (i + 1) / slices, to, from),
                  )
                  .join('')}
              />
            ))}
            <Rules frame={frame} ticks={[0, 0.5, 1].map(at => ({ at, text: percent(at, 0) }))} />
            <Feet
              frame={frame}
              ticks={[
                { at: 0, text: 'oldest decisions' },
                { at: 1, text: 'newest' },
              ]}
            />
          </>
        )}
      </Chart>
      <Keys
        of={layers.map(({ name, colour, total }) => ({
          colour,
          name: `${name}: ${count(total)} (${percent(total / Math.max(1, all))})`,
        }))}
      />
    </>
  )
}

function nameOf({ action, reason }: FlowCell): string {
  return `${action}: ${reason.replaceAll('_', ' ')}`
}

/** Reasons of one meaning have its colour, each paler than the one before. */
function kindsOf(cells: readonly FlowCell[]): { name: string; colour: string; total: number }[] {
  const meanings = Object.keys(COLOURS)
  const kinds = new Map<string, { name: string; meaning: Meaning; total: number }>()
  for (const cell of cells) {
    const name = nameOf(cell)
    const kind = kinds.get(name) ?? { name, meaning: meaningOf(cell.action, cell.reason), total: 0 }
    kind.total += cell.count
    kinds.set(name, kind)
  }
  const place = ({ meaning }: { meaning: Meaning }): number => meanings.indexOf(meaning)
  const order = [...kinds.values()].sort((a, b) => place(a) - place(b) || b.total - a.total)
  return order.map(({ name, meaning, total }, i) => {
    const before = order.slice(0, i).filter(one => one.meaning === meaning).length
    const share = 100 - 28 * Math.min(before, 3)
    return { name, colour: `color-mix(in srgb, var(--${meaning}) ${share}%, var(--panel))`, total }
  })
}
