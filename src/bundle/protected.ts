/**
 * The protected set of a bundle: evaluation data, whose copies never reach the subset
 * (docs/duplicates.md). One JSON line an example, in the order in which they were given.
 */
import { z } from 'zod'
import { messageOf } from '../errors.ts'

export const ProtectedExample = z.strictObject({
  /** Its id + `@` + 16 hex digits of its content hash, by which exact copies are found. */
  key: z.string(),
  // The compared fields of near-duplicates, as in an assignment.
  words: z.string().nullable(),
  layout: z.string().nullable(),
  trajectory: z.array(z.number()).nullable(),
  embedding: z.string().nullable(),
})
export type ProtectedExample = z.infer<typeof ProtectedExample>

export function encodeProtected(examples: readonly ProtectedExample[]): string {
  return examples.map(example => `${JSON.stringify(ProtectedExample.parse(example))}\n`).join('')
}

/** @throws Error, naming the line, where one is not of this form */
export function decodeProtected(text: string): ProtectedExample[] {
  const lines = text.split('\n').filter(line => line !== '')
  return lines.map((line, i) => {
    try {
      return ProtectedExample.parse(JSON.parse(line))
    } catch (error) {
      throw new Error(`line ${i + 1} is no protected example: ${messageOf(error)}`)
    }
  })
}

/** The 16 hex digits of a key's content; undefined where it has none. */
export function contentOfKey(key: string): string | undefined {
  return /@([0-9a-f]{16})$/.exec(key)?.[1]
}

/** One of each key, the first. */
export function unitedProtected(
  ...sets: readonly (readonly ProtectedExample[])[]
): ProtectedExample[] {
  const byKey = new Map<string, ProtectedExample>()
  for (const example of sets.flat()) if (!byKey.has(example.key)) byKey.set(example.key, example)
  return [...byKey.values()]
}
