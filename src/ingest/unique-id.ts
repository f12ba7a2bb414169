/** The ids by which the published code (arXiv 2510.01454) tells examples of a data file apart. */

/** What names of an example make its unique id. */
export type Named = { id: unknown; image?: unknown; unique_idx?: unknown }

/** Of the bytes of an example; all undefined where they are no JSON object. */
export function namesOf(value: Uint8Array): Named {
  try {
    const { id, image, unique_idx } = JSON.parse(Buffer.from(value).toString())
    return { id, image, unique_idx }
  } catch {
    return { id: undefined }
  }
}

/** No image: as the published code's selection and this one's ingest take it. */
export function isTextOnly({ image }: Named): boolean {
  return image === undefined || image === null || image === ''
}

/**
 * The published code's unique ids: `unique_idx` where the data has it, else id::image, or id alone for
 * text-only; where that stands several times, with #0, #1, … Several images, which it does not
 * know, are joined by commas.
 */
export function uniqueIds(examples: readonly Named[]): string[] {
  if (examples[0]?.unique_idx !== undefined) return examples.map(one => String(one.unique_idx))
  const bases = examples.map(one => {
    const images = Array.isArray(one.image) ? one.image.join(',') : String(one.image)
    return isTextOnly(one) ? String(one.id) : `${one.id}::${images}`
  })
  const counts = new Map<string, number>()
  for (const base of bases) counts.set(base, (counts.get(base) ?? 0) + 1)
  const seen = new Map<string, number>()
  return bases.map(base => {
    if (counts.get(base) === 1) return base
    const index = seen.get(base) ?? 0
    seen.set(base, index + 1)
    return `${base}#${index}`
  })
}
