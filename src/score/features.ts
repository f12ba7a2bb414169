/**
 * Features of images: what the vision tower makes of them, tiles of one size together, and those of images
 * seen before. They depend on the image and the tower alone.
 *
 * Shapes: M tiles, N patches of a tile, X values of a patch, n rows of features of a tile or an image, W
 * channels of all levels.
 */
import { LRUCache } from 'lru-cache'
import type { HostTensor, Output } from '../engine/engine.ts'
import { joinedFloats } from '../math/vectors.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import { type Image, stackPatches } from './batch.ts'
import type { VisionProgram } from './checkpoint-score.ts'

/** Patches of one run of the tower, at most, where a tile has no more. */
export const PATCHES_MAX = 4096

type Tile = { image: number; patches: Float32Array }

/** [n, W] of each image. Throws ENGINE_FAILED, OUT_OF_MEMORY. */
export async function imageFeatures(
  program: Pick<VisionProgram, 'run'>,
  config: ProxyConfig,
  images: readonly Image[],
): Promise<HostTensor[]> {
  const parts: Output[][] = images.map(() => [])
  for (const { grid, tiles } of tilesByGrid(config, images)) {
    const count = Math.max(1, Math.floor(PATCHES_MAX / (grid[0] * grid[1])))
    for (let at = 0; at < tiles.length; at += count) {
      const some = tiles.slice(at, at + count)
      const rows = await tileFeatures(program, config, grid, some)
      for (const [i, { image }] of some.entries()) parts[image]!.push(rows[i]!)
    }
  }
  return parts.map(joined)
}

/** An image of the proxy's usual size, of any pixel values. */
export function usualImage(
  config: ProxyConfig,
  hash: string,
  patchesOf: (values: number) => Float32Array,
): Image {
  const { tower, usual } = familyOf(config)
  const { patches: count, cut } = usual(config)
  const values = count * (tower.inputs(config).patches!.shape[2] as number)
  return { hash, patches: patchesOf(values), ...(cut === undefined ? {} : { cut }) }
}

function tilesByGrid(
  config: ProxyConfig,
  images: readonly Image[],
): { grid: readonly [number, number]; tiles: Tile[] }[] {
  const side = Math.sqrt(patchesPerImage(config.vision))
  const groups = new Map<string, { grid: readonly [number, number]; tiles: Tile[] }>()
  for (const [image, { patches, cut }] of images.entries()) {
    const { grid, tiles: count } = cut ?? { grid: [side, side] as const, tiles: 1 }
    const group = groups.get(String(grid)) ?? { grid, tiles: [] }
    groups.set(String(grid), group)
    const size = patches.length / count
    for (let k = 0; k < count; k++) {
      group.tiles.push({ image, patches: patches.subarray(k * size, (k + 1) * size) })
    }
  }
  return [...groups.values()]
}

/** [n, W] of each tile, the levels of a row side by side */
async function tileFeatures(
  program: Pick<VisionProgram, 'run'>,
  config: ProxyConfig,
  grid: readonly [number, number],
  tiles: readonly Tile[],
): Promise<Output[]> {
  const { tower } = familyOf(config)
  const { others, ...first } = await program.run({
    patches: stackPatches(tiles, grid[0] * grid[1]),
    ...tower.tables(config, grid, tiles.length),
  })
  const levels = [first, ...others]
  const [, rows, width] = first.shape as [number, number, number]
  return tiles.map((_, m) => {
    const own = new Float32Array(rows * width * levels.length)
    for (const [l, level] of levels.entries()) {
      for (let row = 0; row < rows; row++) {
        const from = (m * rows + row) * width
        own.set(level.data.subarray(from, from + width), (row * levels.length + l) * width)
      }
    }
    return { data: own, shape: [rows, width * levels.length] }
  })
}

/** One below the other. */
function joined(parts: readonly Output[]): Output {
  const data = joinedFloats(parts.map(part => part.data))
  const width = parts[0]!.shape[1]!
  return { data, shape: [data.length / width, width] }
}

export interface FeatureCache {
  /**
   * [1, n, W] of all `images` by tower number `tower`, in their order. `compute` is asked once, for those
   * that are not known, and gives the features of each.
   */
  stacked(
    tower: number,
    images: readonly Image[],
    compute: (images: readonly Image[]) => Promise<HostTensor[]>,
  ): Promise<HostTensor>
}

/** Holds up to `bytesMax` of features, least recently used first out. */
export function createFeatureCache(bytesMax: number): FeatureCache {
  const known = new LRUCache<string, HostTensor>({
    maxSize: Math.max(1, Math.floor(bytesMax)),
    sizeCalculation: ({ data }) => data.byteLength,
  })
  return {
    stacked: async (tower, images, compute) => {
      const keyOf = ({ hash }: Image): string => `${tower} ${hash}`
      const features = new Map(images.map(image => [keyOf(image), known.get(keyOf(image))]))
      const missing = images.filter(image => features.get(keyOf(image)) === undefined)
      if (missing.length > 0) {
        const computed = await compute(missing)
        for (const [m, image] of missing.entries()) {
          features.set(keyOf(image), computed[m])
          known.set(keyOf(image), computed[m]!)
        }
      }
      const { data, shape } = joined([...features.values()] as Output[])
      return { data, shape: [1, ...shape] }
    },
  }
}
