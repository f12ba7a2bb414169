/** The small parts that several views share. */
import type { ComponentChildren } from 'preact'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { COLOURS, type Meaning, meaningOf, REASON_TEXTS } from '../../observe/colours.ts'
import type { ExampleRow } from '../schemas.ts'
import { frozen } from './frozen.ts'
import { pictureUrl } from './store.ts'

export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** With its noun. */
export function numbered(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`
}

export function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits)} %`
}

export function seconds(value: number): string {
  if (value < 1) return value === 0 ? 'none' : '< 1 s'
  if (value < 120) return `${Math.round(value)} s`
  return value < 7_200 ? `${Math.round(value / 60)} min` : `${(value / 3_600).toFixed(1)} h`
}

export function rate(perSecond: number): string {
  return perSecond >= 10 || perSecond === 0 ? count(perSecond) : perSecond.toFixed(1)
}

export function exampleHref(key: string): string {
  return `#/example/${encodeURIComponent(key)}`
}

export function clusterName(cluster: number | 'text'): string {
  return cluster === 'text' ? 'text-only' : `cluster ${cluster}`
}

export function clusterHref(cluster: number | 'text'): string {
  return `#/cluster/${cluster}`
}

type FigureProps = { name: string; value: string; id: string; children?: ComponentChildren }

/** A figure of the header. */
export function Figure({ name, value, id, children }: FigureProps) {
  return (
    <div class="figure" data-figure={id}>
      <dt>{name}</dt>
      <dd>
        <b>{value}</b>
        <small>{children}</small>
      </dd>
    </div>
  )
}

/** Rows of a `<dl class="facts">`. */
export function FactRows({ rows }: { rows: readonly (readonly [string, string | number])[] }) {
  return (
    <>
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </>
  )
}

/** The action in its colour and in a word. */
export function Badge({ action, reason }: { action: string | null; reason: string | null }) {
  if (action === null) return <span class="badge waits">waits</span>
  const meaning = meaningOf(action, reason)
  return <span class={`badge ${meaning}`}>{meaning === 'duplicate' ? 'duplicate' : action}</span>
}

export function reasonText(reason: string): string {
  return REASON_TEXTS[reason] ?? reason.replaceAll('_', ' ')
}

export function Legend({ meanings }: { meanings: Meaning[] }) {
  return (
    <ul class="legend">
      {meanings.map(meaning => (
        <li key={meaning}>
          <span class={`swatch ${meaning}`} aria-hidden="true" />
          {COLOURS[meaning].says}
        </li>
      ))}
    </ul>
  )
}

type PictureProps = {
  example: { key: string; images: number }
  side?: 96 | 160 | 320 | 640
  n?: number
}

/** A picture by its example's key, loaded when it comes near the window. */
export function Picture({ example, side = 160, n = 0 }: PictureProps) {
  const [isBroken, setBroken] = useState(false)
  const image = useRef<HTMLImageElement>(null)
  useEffect(() => setBroken(false), [example.key, n])
  // A picture that is gone is not waited for: until it came, the browser would hold what was around it.
  useLayoutEffect(() => () => image.current?.removeAttribute('src'), [])
  if (example.images <= n) return <span class="picture none">text only</span>
  if (isBroken) return <span class="picture none">no picture</span>
  const url = pictureUrl(example.key, n, side)
  if (url === undefined) return <span class="picture none">not in this copy</span>
  return (
    <img
      class="picture"
      ref={image}
      src={url}
      alt=""
      loading={frozen === undefined ? 'lazy' : 'eager'}
      decoding="async"
      onError={() => setBroken(true)}
    />
  )
}

/** An example as a card of fixed height, which leads to its page. */
export function Card({ example, note }: { example: ExampleRow; note?: string }) {
  const meaning = example.action === null ? 'waits' : meaningOf(example.action, example.reason)
  return (
    <a class={`card ${meaning}`} href={exampleHref(example.key)}>
      <Picture example={example} />
      <span class="said">{example.question || example.id}</span>
      <span class="foot">
        <Badge action={example.action} reason={example.reason} />
        <span>{note ?? example.instability?.toPrecision(3)}</span>
      </span>
    </a>
  )
}

type CardsProps<Row> = { of: readonly Row[]; note?: (row: Row) => string }

export function Cards<Row extends ExampleRow>({ of, note }: CardsProps<Row>) {
  return (
    <div class="row">
      {of.map(row => (
        <Card key={row.key} example={row} note={note?.(row)} />
      ))}
    </div>
  )
}

const CARD_WIDTH = 148
const CARD_HEIGHT = 232
const GAP = 10
const SLICE = 60
const OVERSCAN_ROWS = 2

type GridProps = {
  total: number
  /** The examples from `from` on; what they belong to is `name`. */
  load: (from: number, count: number) => Promise<ExampleRow[]>
  name: string
  /** Grows when what was loaded is old. */
  version?: number
}

type RowsProps = Omit<GridProps, 'total' | 'load'> & {
  title: string
  from: number
  to: number
  load: GridProps['load']
  /** In a report: those of them that it holds. */
  held: ExampleRow[] | undefined
}

/** A panel of the examples `from` to `to`; of a report's, those that it holds. */
export function Rows({ title, from, to, load, held, ...rest }: RowsProps) {
  const all = to - from
  const isPart = held !== undefined && held.length < all
  return (
    <Panel
      title={title}
      note={isPart ? `${count(held.length)} of them are in this copy.` : undefined}
    >
      {held === undefined ? (
        <Grid total={all} load={(at, length) => load(from + at, length)} {...rest} />
      ) : (
        <Grid total={held.length} load={async (at, n) => held.slice(at, at + n)} {...rest} />
      )}
    </Panel>
  )
}

/** Cards of thousands of examples: only those near the window exist, and are fetched. */
export function Grid({ total, load, name, version = 0 }: GridProps) {
  const box = useRef<HTMLDivElement>(null)
  const view = useView(box, total)
  const slices = useSlices(name, version, load)
  const { columns, first, last } = view
  const [from, to] = [first * columns, Math.min(total, last * columns)]
  useEffect(() => slices.want(from, to), [from, to, name, version])
  const height = Math.ceil(total / columns) * (CARD_HEIGHT + GAP)
  const width = `calc((100% - ${(columns - 1) * GAP}px) / ${columns})`
  const known = useRef(new Map<string, Cell>())
  const cells = new Map<string, Cell>()
  for (let index = from; index < to; index++) {
    const example = slices.get(index)
    const place = `${name}/${columns}/${index}`
    const old = known.current.get(place)
    // The same node as before is not compared with itself again: scrolling draws new rows alone.
    const isSame = old !== undefined && old.example === example
    const top = Math.floor(index / columns) * (CARD_HEIGHT + GAP)
    const left = `calc((100% + ${GAP}px) / ${columns} * ${index % columns})`
    const style = { top: `${top}px`, left, width }
    cells.set(place, isSame ? old : { example, node: cellOf(index, example, style) })
  }
  known.current = cells
  return (
    <div class="grid" ref={box} style={{ height: `${height}px` }}>
      {[...cells.values()].map(({ node }) => node)}
    </div>
  )
}

type Cell = { example: ExampleRow | undefined; node: ComponentChildren }

function cellOf(
  index: number,
  example: ExampleRow | undefined,
  style: Record<string, string>,
): ComponentChildren {
  return (
    <div class="cell" key={index} style={style}>
      {example === undefined ? <span class="card empty" /> : <Card example={example} />}
    </div>
  )
}

type GridView = { columns: number; first: number; last: number }

/** The columns that fit, and the rows of cards near the window. */
function useView(box: { current: HTMLDivElement | null }, total: number): GridView {
  const [view, setView] = useState<GridView>({ columns: 1, first: 0, last: 0 })
  const measure = useRef(() => {})
  measure.current = () => {
    if (box.current === null) return
    const { top, width } = box.current.getBoundingClientRect()
    const columns = Math.max(1, Math.floor((width + GAP) / (CARD_WIDTH + GAP)))
    const rows = Math.ceil(total / columns)
    const height = CARD_HEIGHT + GAP
    const from = Math.floor(-top / height) - OVERSCAN_ROWS
    const to = Math.ceil((innerHeight - top) / height) + OVERSCAN_ROWS
    const first = Math.min(rows, Math.max(0, from))
    const last = Math.min(rows, Math.max(0, to))
    setView(old =>
      old.columns === columns && old.first === first && old.last === last
        ? old
        : { columns, first, last },
    )
  }
  useLayoutEffect(() => measure.current())
  useEffect(() => {
    let isDue = false
    // At most once a frame, however many events it has.
    const later = (): void => {
      if (isDue) return
      isDue = true
      requestAnimationFrame(() => {
        isDue = false
        measure.current()
      })
    }
    addEventListener('scroll', later, { passive: true })
    addEventListener('resize', later)
    return () => {
      removeEventListener('scroll', later)
      removeEventListener('resize', later)
    }
  }, [])
  return view
}

/** Slices of `SLICE` examples; those of an older version are shown until the new ones are there. */
function useSlices(name: string, version: number, load: GridProps['load']) {
  const [, redraw] = useState(0)
  const known = useRef<{
    name: string
    slices: Map<number, { version: number; rows: ExampleRow[] }>
  }>({
    ...{ name: '', slices: new Map() },
  })
  if (known.current.name !== name) known.current = { name, slices: new Map() }
  const asked = useRef(new Set<string>())
  const { slices } = known.current
  return {
    get: (index: number): ExampleRow | undefined =>
      slices.get(Math.floor(index / SLICE))?.rows[index % SLICE],
    want: (from: number, to: number): void => {
      for (let slice = Math.floor(from / SLICE); slice * SLICE < to; slice++) {
        const ask = `${name}/${slice}`
        if (slices.get(slice)?.version === version || asked.current.has(ask)) continue
        asked.current.add(ask)
        const done = (): void => void asked.current.delete(ask)
        load(slice * SLICE, SLICE)
          .then(rows => {
            slices.set(slice, { version, rows })
            redraw(count => count + 1)
          })
          .then(done, done)
      }
    },
  }
}

/** A command with a button that copies it. */
export function Command({ text }: { text: string }) {
  const [isCopied, setCopied] = useState(false)
  const copy = (): void => {
    void navigator.clipboard?.writeText(text).then(() => {
      setCopied(true)
      setTimeout(() => setCopied(false), 1_500)
    })
  }
  return (
    <div class="command">
      <code>{text}</code>
      <button type="button" onClick={copy}>
        {isCopied ? 'copied' : 'copy'}
      </button>
    </div>
  )
}

type PanelProps = { title: string; note?: string; children: ComponentChildren }

export function Panel({ title, note, children }: PanelProps) {
  return (
    <section class="panel">
      <h2>{title}</h2>
      {note !== undefined && <p class="note">{note}</p>}
      {children}
    </section>
  )
}

type MoreProps = { shown: number; step: number; of: number; show: (count: number) => void }

/** A button that shows more clusters, where there are more. */
export function More({ shown, step, of, show }: MoreProps) {
  if (of <= shown) return null
  return (
    <button type="button" onClick={() => show(shown + step)}>
      show more of {count(of - shown)} clusters
    </button>
  )
}

/** What to say where there is nothing to show yet. */
export function Waiting({ problem }: { problem: string | undefined }) {
  return <p class="note">{problem ?? 'Reading the log …'}</p>
}
