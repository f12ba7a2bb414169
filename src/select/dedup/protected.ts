/**
 * Which examples are copies of a bundle's protected set: exact ones by content, others as near-duplicates
 * are found (`exemplars.ts`), but among all protected examples, however many share their words. The
 * answer depends on the example and the bundle alone.
 */
import type { Manifest } from '../../bundle/bundle.ts'
import { contentOfKey, type ProtectedExample } from '../../bundle/protected.ts'
import type { ComparedFields, Measure } from '../../record.ts'
import { type Content, contentText } from '../columns/hash-table.ts'
import { Exemplars } from './exemplars.ts'
import { appearanceOf } from './near-duplicates.ts'

/** The protected example that a record is a copy of; without a distance where it is an exact one. */
export type Protector = { key: string; distance?: number; measure?: Measure }

/** Undefined where the record is not a copy. */
export type FindProtected = (record: ComparedFields, content: Content) => Protector | undefined

type Guarding = {
  protectedSet: readonly ProtectedExample[]
  manifest: Pick<Manifest, 'nearness'>
}

/** Undefined where the bundle protects nothing. Without a similarity model only exact copies are found. */
export function protectionOf({ protectedSet, manifest }: Guarding): FindProtected | undefined {
  if (protectedSet.length === 0) return undefined
  const keys = new Map<string, string>()
  for (const { key } of protectedSet) {
    const content = contentOfKey(key)
    if (content !== undefined && !keys.has(content)) keys.set(content, key)
  }
  const findNear = nearProtected(protectedSet, manifest.nearness)
  return (record, content) => {
    const key = keys.get(contentText(content))
    return key === undefined ? findNear(record) : { key }
  }
}

function nearProtected(
  examples: readonly ProtectedExample[],
  model: Manifest['nearness'],
): (record: ComparedFields) => Protector | undefined {
  if (model === undefined) return () => undefined
  const appearances = examples.map(example => appearanceOf(model, compared(example)))
  const pictures = (i: number): number => Math.max(1, appearances[i]?.layouts.count ?? 0)
  const rows = examples.reduce((sum, _, i) => sum + pictures(i), 0)
  const exemplars = new Exemplars(model, rows, { looksMax: Number.POSITIVE_INFINITY })
  for (const [i, appearance] of appearances.entries()) {
    if (appearance !== undefined) exemplars.add(appearance, i)
  }
  return record => {
    const appearance = appearanceOf(model, record)
    const match = appearance && exemplars.find(appearance)
    if (match === undefined) return undefined
    const { sequence, distance, measure } = match
    return { key: examples[sequence]!.key, distance, measure }
  }
}

function compared({ words, layout, trajectory, embedding }: ProtectedExample): ComparedFields {
  return { words: words ?? undefined, layout, trajectory, embedding }
}
