/** Pictures of the demo: coloured shapes on grey, drawn from a seed. */
import sharp from 'sharp'

export const COLOURS = {
  yellow: [250, 210, 40],
  blue: [40, 90, 220],
  black: [25, 25, 30],
  red: [210, 50, 45],
  green: [50, 160, 80],
} as const
export const KINDS = ['square', 'circle', 'triangle'] as const

export type Colour = keyof typeof COLOURS
export type Kind = (typeof KINDS)[number]

/** Centre and half side in pixels. */
export type Shape = { kind: Kind; colour: Colour; x: number; y: number; radius: number }
export type Scene = { side: number; grey: number; shapes: Shape[] }

const SIDE = 96
/** One shape a cell of a grid: none hides another. */
const GRID = 3
/** A night sky has five to thirty stars. */
const STARS_MIN = 5
const STARS_MORE = 26

/** One to six shapes; few shapes are more likely. */
export function drawScene(random: () => number): Scene {
  const count = 1 + Math.floor(6 * random() ** 2)
  const cells = Array.from({ length: GRID * GRID }, (_, cell) => cell)
  const shapes = Array.from({ length: count }, () => {
    const [cell] = cells.splice(Math.floor(cells.length * random()), 1)
    return drawShape(random, cell!)
  })
  return { side: SIDE, grey: 190 + Math.floor(40 * random()), shapes }
}

function drawShape(random: () => number, cell: number): Shape {
  const size = SIDE / GRID
  const radius = 5 + Math.floor(9 * random())
  const room = size - 2 * radius
  const names = Object.keys(COLOURS) as Colour[]
  return {
    kind: KINDS[Math.floor(KINDS.length * random())]!,
    colour: names[Math.floor(names.length * random() ** 1.5)]!,
    x: Math.floor((cell % GRID) * size + radius + room * random()),
    y: Math.floor(Math.floor(cell / GRID) * size + radius + room * random()),
    radius,
  }
}

/** Yellow stars on near-black. `random` gives how many and where. */
export function drawNight(random: () => number): Scene {
  const count = STARS_MIN + Math.floor(STARS_MORE * random())
  const shapes = Array.from({ length: count }, (): Shape => {
    const radius = random() < 0.3 ? 2 : 1
    const [x, y] = [anyPlace(random, radius), anyPlace(random, radius)]
    return { kind: 'circle', colour: 'yellow', x, y, radius }
  })
  return { side: SIDE, grey: 12, shapes }
}

function anyPlace(random: () => number, radius: number): number {
  return radius + Math.floor((SIDE - 2 * radius) * random())
}

/** The scene as a PNG in a data: URL. */
export async function renderScene(scene: Scene): Promise<string> {
  const { side, grey, shapes } = scene
  const pixels = Buffer.alloc(side * side * 3, grey)
  for (const shape of shapes) paint(pixels, side, shape)
  const png = await sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
    .png({ compressionLevel: 6 })
    .toBuffer()
  return `data:image/png;base64,${png.toString('base64')}`
}

function paint(pixels: Buffer, side: number, { kind, colour, x, y, radius }: Shape): void {
  const [red, green, blue] = COLOURS[colour]
  for (let dy = -radius; dy <= radius; dy++) {
    for (let dx = -radius; dx <= radius; dx++) {
      if (!covers(kind, dx, dy, radius)) continue
      const at = ((y + dy) * side + x + dx) * 3
      pixels[at] = red
      pixels[at + 1] = green
      pixels[at + 2] = blue
    }
  }
}

function covers(kind: Kind, dx: number, dy: number, radius: number): boolean {
  if (kind === 'square') return true
  if (kind === 'circle') return dx * dx + dy * dy <= radius * radius
  return Math.abs(dx) <= (dy + radius) / 2
}
