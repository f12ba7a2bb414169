/** The map: signatures in two dimensions. New ones glow; a lasso opens the gallery of what it holds. */
import { useEffect, useRef, useState } from 'preact/hooks'
import { COLOURS } from '../../observe/colours.ts'
import type { ExampleRow, TrajectoryMap as MapDocument } from '../schemas.ts'
import { Choice } from './clusters.tsx'
import { frozen, heldRows } from './frozen.ts'
import { get, useLive } from './store.ts'
import { count, Legend, Panel, percent, Rows } from './widgets.tsx'

type Points = {
  signature: MapDocument['signature']
  fit: number
  explained: number[]
  row: Uint32Array
  x: Uint16Array
  y: Uint16Array
  cluster: Int32Array
  state: Uint8Array
}

const DRAWN = {
  sum: 'trajectories',
  spectrum: 'singular values',
  embedding: 'embeddings',
  question: 'embeddings of the question',
  joint: 'singular values and embeddings',
}
const HUES = {
  action: { name: 'action' },
  cluster: { name: 'cluster' },
  age: { name: 'age' },
}
const CELLS = 4_096
const GLOW_MS = 2_500
const NEW_EVERY_MS = 800
const ALL_EVERY_MS = 15_000

export function TrajectoryMap() {
  const { version } = useLive()
  const canvas = useRef<HTMLCanvasElement>(null)
  const [points, setPoints] = useState<Points | undefined>(undefined)
  const [hue, setHue] = useState('action')
  const [held, setHeld] = useState<number[]>([])
  const drawing = useRef(new Drawing())
  usePoints(version, points, (all, fresh) => {
    setPoints(all)
    drawing.current.arrived(all, fresh)
  })
  useEffect(() => {
    if (canvas.current === null) return
    return drawing.current.start(canvas.current, lassoed => setHeld(lassoed))
  }, [points === undefined])
  useEffect(() => drawing.current.show(points, hue), [points, hue])
  const explained = points?.explained ?? []
  const drawn = DRAWN[points?.signature ?? 'sum']
  const load = async (from: number, length: number): Promise<ExampleRow[]> => {
    const rows = held.slice(from, from + length).join(',')
    return (await get<{ rows: ExampleRow[] }>(`examples?rows=${rows}`)).rows
  }
  return (
    <>
      <Panel
        title={`Map of ${drawn}`}
        note={`Each point is an example; near points have similar ${drawn} (the two principal axes). Draw a line around some to see them.`}
      >
        <div class="bar">
          <Choice label="colour by" value={hue} of={HUES} choose={setHue} />
          {hue === 'action' && <Legend meanings={['keep', 'drop', 'duplicate']} />}
          {hue === 'age' && <span class="note">pale: old, strong: new</span>}
          <span class="note">
            {count(points?.row.length ?? 0)} examples, duplicates among them, text-only ones not
            {explained.length > 1 &&
              `, ${percent(explained[0]! + explained[1]!)} of their variance`}
          </span>
        </div>
        <canvas
          class="map"
          ref={canvas}
          role="img"
          aria-label={`${drawn} of ${points?.row.length ?? 0} examples on their two principal axes; the clusters page lists the same examples`}
        />
      </Panel>
      {held.length > 0 && (
        <Rows
          title={`In the lasso: ${count(held.length)}`}
          from={0}
          to={held.length}
          load={load}
          held={heldRows(held)}
          name={`lasso/${held[0]}/${held.length}`}
        />
      )}
    </>
  )
}

/** All points at first and now and then, between only the new ones. */
function usePoints(
  version: number,
  points: Points | undefined,
  take: (all: Points, fresh: number) => void,
): void {
  const newest = useRef({ version, points, take })
  newest.current = { version, points, take }
  useEffect(() => {
    const stopping = new AbortController()
    const { signal } = stopping
    const follow = async (): Promise<void> => {
      let [seen, wholeAt] = [-1, Number.NEGATIVE_INFINITY]
      while (!signal.aborted) {
        const now = newest.current
        if (now.version !== seen || now.points === undefined) {
          seen = now.version
          const isWhole = now.points === undefined || performance.now() - wholeAt > ALL_EVERY_MS
          const after = isWhole ? -1 : (now.points!.row.at(-1) ?? -1)
          const found = await get<MapDocument>(`map?after=${after}`, signal).catch(() => undefined)
          if (found !== undefined && !signal.aborted) {
            const fresh = pointsOf(found)
            const fits = isWhole || fresh.fit === now.points!.fit
            if (isWhole) wholeAt = performance.now()
            if (!fits) wholeAt = Number.NEGATIVE_INFINITY
            else if (isWhole) now.take(fresh, 0)
            else if (fresh.row.length > 0) now.take(joined(now.points!, fresh), fresh.row.length)
          }
        }
        if (frozen !== undefined) return
        await new Promise(resolve => setTimeout(resolve, NEW_EVERY_MS))
      }
    }
    void follow()
    return () => stopping.abort()
  }, [])
}

function pointsOf({ signature, fit, explained, row, x, y, cluster, state }: MapDocument): Points {
  const bytes = (text: string): ArrayBuffer =>
    Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer
  return {
    ...{ signature, fit, explained },
    row: new Uint32Array(bytes(row)),
    x: new Uint16Array(bytes(x)),
    y: new Uint16Array(bytes(y)),
    cluster: new Int32Array(bytes(cluster)),
    state: new Uint8Array(bytes(state)),
  }
}

function joined(a: Points, b: Points): Points {
  const join = <T extends Uint32Array | Uint16Array | Int32Array | Uint8Array>(
    one: T,
    other: T,
  ): T => {
    const all = new (one.constructor as new (length: number) => T)(one.length + other.length)
    all.set(one)
    all.set(other, one.length)
    return all
  }
  return {
    ...a,
    row: join(a.row, b.row),
    x: join(a.x, b.x),
    y: join(a.y, b.y),
    cluster: join(a.cluster, b.cluster),
    state: join(a.state, b.state),
  }
}

type Place = { x: number; y: number }

type Glow = { from: number; to: number; at: number }

/** The points are drawn once for each change; glow and lasso over them, every frame. */
class Drawing {
  #points: Points | undefined
  #hue = 'action'
  #base: ImageData | undefined
  #lasso: Place[] = []
  #glowing: Glow[] = []
  /** Whether the last frame has something over the points that must go. */
  #isDirty = true

  arrived(all: Points, fresh: number): void {
    const { length } = all.row
    if (fresh > 0) this.#glowing.push({ from: length - fresh, to: length, at: performance.now() })
  }

  show(points: Points | undefined, hue: string): void {
    this.#points = points
    this.#hue = hue
    this.#base = undefined
  }

  /** Draws until the returned function is called. */
  start(canvas: HTMLCanvasElement, onLasso: (rows: number[]) => void): () => void {
    const context = canvas.getContext('2d')!
    const stopping = new AbortController()
    const { signal } = stopping
    const frame = (): void => {
      if (signal.aborted) return
      this.#paint(canvas, context)
      requestAnimationFrame(frame)
    }
    requestAnimationFrame(frame)
    const at = (event: PointerEvent): Place => ({ x: event.offsetX, y: event.offsetY })
    const down = (event: PointerEvent): void => {
      canvas.setPointerCapture(event.pointerId)
      this.#lasso = [at(event)]
    }
    const move = (event: PointerEvent): void => {
      if (this.#lasso.length > 0) this.#lasso.push(at(event))
    }
    const up = (): void => {
      const lasso = this.#lasso
      this.#lasso = []
      this.#isDirty = true
      if (this.#points !== undefined && lasso.length > 2)
        onLasso(within(this.#points, lasso, canvas))
    }
    canvas.addEventListener('pointerdown', down, { signal })
    canvas.addEventListener('pointermove', move, { signal })
    canvas.addEventListener('pointerup', up, { signal })
    this.#base = undefined
    return () => stopping.abort()
  }

  #paint(canvas: HTMLCanvasElement, context: CanvasRenderingContext2D): void {
    const scale = devicePixelRatio
    const width = Math.round(canvas.clientWidth * scale)
    const height = Math.round(canvas.clientHeight * scale)
    if (width === 0 || height === 0) return
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width
      canvas.height = height
      this.#base = undefined
    }
    this.#glowing = this.#glowing.filter(({ at }) => performance.now() - at < GLOW_MS)
    const isBusy = this.#glowing.length > 0 || this.#lasso.length > 0
    if (this.#base !== undefined && !isBusy && !this.#isDirty) return
    this.#isDirty = isBusy
    const points = this.#points
    if (points === undefined) return
    this.#base ??= dotsOf(points, this.#hue, width, height)
    context.putImageData(this.#base, 0, 0)
    for (const glow of this.#glowing) drawGlow(context, points, glow, width, height)
    if (this.#lasso.length > 1) drawLasso(context, this.#lasso, scale)
  }
}

const SIDE = 2

function dotsOf(points: Points, hue: string, width: number, height: number): ImageData {
  const image = new ImageData(width, height)
  const pixels = new Uint32Array(image.data.buffer)
  const { x, y, row } = points
  const colour = colouring(points, hue)
  const side = row.length > 20_000 ? SIDE : 2 * SIDE
  for (let i = 0; i < row.length; i++) {
    const left = Math.floor((x[i]! * (width - side)) / CELLS)
    const top = Math.floor(((CELLS - 1 - y[i]!) * (height - side)) / CELLS)
    const value = colour(i)
    for (let dy = 0; dy < side; dy++) {
      const start = (top + dy) * width + left
      pixels.fill(value, start, start + side)
    }
  }
  return image
}

/** Colours as ABGR words, as ImageData lies in memory. */
function colouring({ state, cluster, row }: Points, hue: string): (i: number) => number {
  const theme = isDark() ? 'dark' : 'light'
  const of = (text: string): number => wordOf(...channelsOf(text), 230)
  const states = [
    of(COLOURS.drop[theme]),
    of(COLOURS.keep[theme]),
    of(COLOURS.drop[theme]),
    of(COLOURS.duplicate[theme]),
  ]
  if (hue === 'action') return i => states[state[i]!]!
  if (hue === 'cluster') {
    const wheel = Array.from({ length: 360 }, (_, turn) => wordOf(...rgbOf(turn), 230))
    return i => wheel[(cluster[i]! * 137) % 360]!
  }
  const [red, green, blue] = channelsOf(COLOURS.restore[theme])
  return i => wordOf(red, green, blue, 40 + Math.round((200 * i) / row.length))
}

export function isDark(): boolean {
  return document.documentElement.dataset.theme === 'dark'
}

function channelsOf(hex: string): [number, number, number] {
  const value = Number.parseInt(hex.slice(1), 16)
  return [value >> 16, (value >> 8) & 255, value & 255]
}

function wordOf(red: number, green: number, blue: number, alpha: number): number {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0
}

/** A turn of the colour wheel at middle lightness. */
function rgbOf(turn: number): [number, number, number] {
  const channel = (shift: number): number => {
    const k = (shift + turn / 30) % 12
    return Math.round(255 * (0.5 - 0.33 * Math.max(-1, Math.min(k - 3, 9 - k, 1))))
  }
  return [channel(0), channel(8), channel(4)]
}

const GLOWS_MAX = 400

function drawGlow(
  context: CanvasRenderingContext2D,
  { x, y }: Points,
  { from, to, at }: Glow,
  width: number,
  height: number,
): void {
  const share = 1 - (performance.now() - at) / GLOW_MS
  const colour = COLOURS.keep[isDark() ? 'dark' : 'light']
  context.strokeStyle = colour
  context.globalAlpha = Math.max(0, share)
  context.lineWidth = 2
  context.beginPath()
  for (let i = Math.max(from, to - GLOWS_MAX); i < to; i++) {
    const [left, top] = [(x[i]! * width) / CELLS, ((CELLS - 1 - y[i]!) * height) / CELLS]
    const radius = 5 + 8 * (1 - share)
    context.moveTo(left + radius, top)
    context.arc(left, top, radius, 0, 2 * Math.PI)
  }
  context.stroke()
  context.globalAlpha = 1
}

function drawLasso(
  context: CanvasRenderingContext2D,
  lasso: readonly Place[],
  scale: number,
): void {
  context.strokeStyle = isDark() ? '#fff' : '#000'
  context.lineWidth = 1.5 * scale
  context.beginPath()
  for (const { x, y } of lasso) context.lineTo(x * scale, y * scale)
  context.closePath()
  context.stroke()
}

/** Rows of the points inside the polygon, by the even-odd rule. */
function within(
  { x, y, row }: Points,
  lasso: readonly Place[],
  canvas: HTMLCanvasElement,
): number[] {
  const corners = lasso.map(place => ({
    x: (place.x * CELLS) / canvas.clientWidth,
    y: CELLS - 1 - (place.y * CELLS) / canvas.clientHeight,
  }))
  const rows: number[] = []
  for (let i = 0; i < row.length; i++) {
    let isInside = false
    for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
      const [one, other] = [corners[a]!, corners[b]!]
      if (one.y > y[i]! === other.y > y[i]!) continue
      if (x[i]! < ((other.x - one.x) * (y[i]! - one.y)) / (other.y - one.y) + one.x)
        isInside = !isInside
    }
    if (isInside) rows.push(row[i]!)
  }
  return rows.reverse()
}
