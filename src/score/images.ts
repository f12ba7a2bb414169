/** The distinct images of a batch. Shapes: M images, N patches, X features of a patch. */
import type { HostTensor } from '../engine/engine.ts'
import type { SequenceImage } from '../ingest/prepare.ts'

export type Image = SequenceImage

/** By hash, in the order they come. */
export function distinctImages(sequences: readonly { images: readonly Image[] }[]): Image[] {
  const images = sequences.flatMap(({ images }) => images)
  return [...new Map(images.map(image => [image.hash, image])).values()]
}

/**
 * The row of the features of `all`, seen as [M*N, C], that stands at each image position of a
 * sequence [I].
 */
export function imageRowsOf(
  { images, columns }: { images: readonly Image[]; columns: ArrayLike<number> },
  all: readonly Image[],
  imageTokens: number,
): number[] {
  const starts = images.map(image => all.findIndex(({ hash }) => hash === image.hash) * imageTokens)
  return Array.from(columns, (_, i) => starts[Math.floor(i / imageTokens)]! + (i % imageTokens))
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
