/**
 * What becomes of a picture before the proxy runs. A family of proxies says it (`Pictures`); ingest asks
 * it. N patches of a tile, X values of a patch.
 */
import type { ImageLimits, Rgb } from './pixels.ts'

/** Stands in `places` where the learned row behind a line of features stands. */
export const NEWLINE = -1

/** How a picture was cut, where pictures of one proxy differ in it. Plain data. */
export type Cut = {
  /** Tiles, each of `grid` rows and columns of patches. */
  tiles: number
  grid: readonly [rows: number, columns: number]
  /** Rows of features that the vision tower makes of it. */
  features: number
  /** Positions that it takes in the sequence. */
  positions: number
  /**
   * What stands at each position: a row of its features, NEWLINE, or, from `features` on, a blended row.
   * Default: its features in their order.
   */
  places?: Int32Array
  /** Rows mixed of four rows of features each: which, and their weights. */
  blends?: { rows: Int32Array; weights: Float32Array }
  /** Rows and columns of its positions, where the proxy counts positions on several axes. */
  field?: readonly [rows: number, columns: number]
}

/** `hash` names the decoded image and how it was cut; `patches` is [tiles * N, X]. */
export type SequenceImage = {
  hash: string
  patches: Float32Array
  /** Absent where all pictures are cut alike: one tile, whose features are its positions. */
  cut?: Cut
}

export type Picture = Omit<SequenceImage, 'hash'> & {
  /** Tells apart what is made of one image in two ways. */
  variant?: string
  /** The text that takes the placeholder's place in a prompt. */
  text: string
}

/** What a family makes of pictures, with one checkpoint's files. */
export type Pictures = {
  /** The text that a chat template writes for a picture. */
  placeholder: string
  /**
   * Whether a prompt of the four-piece templates, too, is tokenised in one piece with its pictures
   * expanded as text. Otherwise what stands between pictures is tokenised apart, as LLaVA's code does.
   */
  inOnePiece: boolean
  /** All that decides the pixels. */
  described: Readonly<Record<string, unknown>>
  /** One of an example's `count` pictures. Throws IMAGE_TOO_MANY_PIXELS. */
  cut(image: Rgb, count: number, limits: Pick<ImageLimits, 'pixelsMax'>): Picture
}

/**
 * Pixels that a picture is given, at most about: of a whole picture, without tiles. `checkpoint`: as the
 * checkpoint's own image processor says. Default: the family's.
 */
export type PixelBudget = number | 'checkpoint' | undefined
