/** The distinct images of a batch. Shapes: M images, N patches, X features of a patch. */
import type { HostTensor } from '../engine/engine.ts'
import type { Sequence } from '../ingest/prepare.ts'

export type Image = Sequence['image']

/** By hash, in the order they come. */
export function distinctImages(sequences: readonly { image: Image }[]): Image[] {
  return [...new Map(sequences.map(({ image }) => [image.hash, image])).values()]
}

/** [M, N, X] */
export function stackPatches(images: readonly Image[], patchCount: number): HostTensor {
  const size = images[0]!.patches.length
  const data = new Float32Array(images.length * size)
  for (const [m, { patches }] of images.entries()) {
    if (patches.length !== size) throw new RangeError('images of one proxy have one size')
    data.set(patches, m * size)
  }
  return { data, shape: [images.length, patchCount, size / patchCount] }
}
