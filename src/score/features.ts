/**
 * Vision features of images seen before, least recently used first out. An image's features depend on
 * the image and the tower alone. Shapes: M images, N image tokens, C vision channels.
 */
import type { HostTensor } from '../engine/engine.ts'
import type { Image } from './images.ts'

export interface FeatureCache {
  /**
   * [M, N, C] of `images` by tower number `tower`, in their order. `compute` is asked once, for those
   * that are not known.
   */
  stacked(
    tower: number,
    images: readonly Image[],
    compute: (images: readonly Image[]) => Promise<HostTensor>,
  ): Promise<HostTensor>
}

/** Holds up to `bytesMax` of features. */
export function createFeatureCache(bytesMax: number): FeatureCache {
  const known = new Map<string, HostTensor>() // [N, C], the least recently used first
  let bytes = 0
  const keep = (key: string, value: HostTensor): void => {
    known.set(key, value)
    bytes += value.data.byteLength
    for (const [oldest, { data }] of known) {
      if (bytes <= bytesMax) return
      known.delete(oldest)
      bytes -= data.byteLength
    }
  }
  const used = (key: string): HostTensor | undefined => {
    const found = known.get(key)
    if (found === undefined) return undefined
    known.delete(key)
    known.set(key, found)
    return found
  }
  return {
    stacked: async (tower, images, compute) => {
      const keyOf = ({ hash }: Image): string => `${tower} ${hash}`
      const parts = new Map(images.map(image => [keyOf(image), used(keyOf(image))]))
      const missing = images.filter(image => parts.get(keyOf(image)) === undefined)
      if (missing.length > 0) {
        const computed = apart(await compute(missing))
        for (const [m, image] of missing.entries()) {
          parts.set(keyOf(image), computed[m])
          keep(keyOf(image), computed[m]!)
        }
      }
      return stack([...parts.values()] as HostTensor[])
    },
  }
}

/** [M, N, C] -> M times [N, C], each with memory of its own */
function apart({ data, shape }: HostTensor): HostTensor[] {
  const [count, ...rest] = shape as [number, ...number[]]
  const size = data.length / count
  return Array.from({ length: count }, (_, m) => ({
    data: data.slice(m * size, (m + 1) * size),
    shape: rest,
  }))
}

function stack(parts: readonly HostTensor[]): HostTensor {
  const [first] = parts
  const size = first!.data.length
  const data = new Float32Array(parts.length * size)
  for (const [m, part] of parts.entries()) data.set(part.data, m * size)
  return { data, shape: [parts.length, ...first!.shape] }
}
