/**
 * What Pillow and libvips see differently in a GIF of one frame: its transparent colour, and the canvas
 * around a frame that does not cover it.
 */
import type { Rgb } from './pixels.ts'
import { placed } from './preprocess.ts'
import { type Crop, cropped } from './resize.ts'

export type Gif = {
  /** The file, its transparent colour counting as any other: Pillow paints it, libvips gives black. */
  opaque: Uint8Array
  /** Enlarged to where the frame ends. */
  width: number
  height: number
  frame: Crop
  /** What Pillow fills the canvas with. */
  around: readonly [number, number, number]
}

const EXTENSION = 0x21
const GRAPHIC_CONTROL = 0xf9
const FRAME = 0x2c

/** Reads a GIF up to its first frame's pixels; undefined where it has no frame. */
export function readGif(bytes: Uint8Array): Gif | undefined {
  const opaque = new Uint8Array(bytes)
  const view = new DataView(opaque.buffer)
  let at = 13 + tableBytes(opaque[10] ?? 0)
  let transparent: number | undefined
  while (opaque[at] === EXTENSION) {
    if (opaque[at + 1] === GRAPHIC_CONTROL && (opaque[at + 3] ?? 0) & 1) {
      transparent = opaque[at + 6]
      opaque[at + 3]! &= 0xfe
    }
    at += 2
    while (at < opaque.length && opaque[at] !== 0) at += opaque[at]! + 1
    at++
  }
  if (opaque[at] !== FRAME || at + 10 > opaque.length) return undefined
  const [left, top, width, height] = [1, 3, 5, 7].map(offset => view.getUint16(at + offset, true))
  const frame = { left: left!, top: top!, width: width!, height: height! }
  const own = tableBytes(opaque[at + 9]!)
  const table =
    own > 0
      ? opaque.subarray(at + 10, at + 10 + own)
      : opaque.subarray(13, 13 + tableBytes(opaque[10]!))
  return {
    opaque,
    width: Math.max(view.getUint16(6, true), frame.left + frame.width),
    height: Math.max(view.getUint16(8, true), frame.top + frame.height),
    frame,
    around: colourOf(table, transparent ?? 0),
  }
}

/** Of the colour table that the packed byte tells of. */
function tableBytes(packed: number): number {
  return (packed & 0x80) === 0 ? 0 : 3 * 2 ** ((packed & 7) + 1)
}

/** Beyond the table Pillow has black, but grey where the table is all greys in order, or missing. */
function colourOf(table: Uint8Array, index: number): Gif['around'] {
  if (3 * index < table.length) {
    const [red, green, blue] = table.subarray(3 * index)
    return [red!, green!, blue!]
  }
  const isGrey = table.every((level, i) => level === Math.floor(i / 3))
  return isGrey ? [index, index, index] : [0, 0, 0]
}

/** The frame as libvips decodes it, on the canvas that Pillow makes. */
export function onCanvas(image: Rgb, { width, height, frame, around }: Gif): Rgb {
  if (frame.width === width && frame.height === height) return image
  return placed(cropped(image, frame), { width, height }, frame, around)
}
