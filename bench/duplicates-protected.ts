/**
 * Evaluation data that leaks into a stream: every question of a benchmark in eight disguises, among
 * examples that only resemble one. Nothing but the bundle's protected set keeps them out here.
 */
import type { Bundle } from '../src/bundle/bundle.ts'
import { seededRandom } from '../src/math/random.ts'
import { protectionOf } from '../src/select/dedup/protected.ts'
import type { FoldedAssignment } from '../src/select/fold.ts'
import { SelectState } from '../src/select/state.ts'
import { MemoryState } from '../test/select/stream.ts'
import {
  type Changes,
  DUPLICATES,
  type Labelled,
  type Original,
  pick,
} from './duplicates-stream.ts'

const { picture, phrase } = DUPLICATES
const DISGUISES: Changes = {
  jpeg: picture['jpeg 50']!,
  webp: picture.webp!,
  half: picture.half!,
  cropped: picture['crop 4 %']!,
  brighter: picture.brighter!,
  case: phrase.case!,
  punctuation: phrase.punctuation!,
  politeness: phrase.politeness!,
}

export type Leaks = {
  questions: number
  leaks: number
  innocents: number
  /** Share of the leaks that were dropped as protected; and of what was dropped so, the share of leaks. */
  recall: number
  precision: number
  recallOf: Record<string, number>
  /** Leaks in a subset of everything, and those of them that were dropped as protected. */
  kept: number
  keptOfProtected: number
}

/** The leaks of `questions` in their disguises, the other `originals`, and a lookalike of each question. */
export async function leakingStream(
  questions: readonly Original[],
  originals: readonly Original[],
  lookalikes: Changes,
  seed: number,
): Promise<Labelled[]> {
  const random = seededRandom(seed)
  const stream = originals.map(original => labelled(original, 'original', original.id, false))
  for (const [i, question] of questions.entries()) {
    for (const [kind, change] of Object.entries(DISGUISES)) {
      const leak = await change(question, random)
      if (leak !== undefined) stream.push(labelled(leak, kind, `leak-${i}-${kind}`, true))
    }
    const [kind, change] = pick(Object.entries(lookalikes), random)
    const other = await change(question, random)
    if (other !== undefined) stream.push(labelled(other, kind, `other-${i}`, false))
  }
  return stream.sort(() => random() - 0.5)
}

function labelled(
  { id: of, image, conversations }: Original,
  kind: string,
  id: string,
  isDuplicate: boolean,
): Labelled {
  const url = `data:image/png;base64,${image.toString('base64')}`
  return { id, image: url, conversations, kind, of, isDuplicate }
}

/** Folds the scored stream under `bundle`, which protects the questions; a subset of everything. */
export function measureLeaks(
  questions: number,
  stream: readonly Labelled[],
  scored: readonly FoldedAssignment[],
  bundle: Bundle,
): Leaks {
  const settings = { policy: 'revisable', percent: 100, settleEvery: 1 } as const
  const state = new SelectState(new MemoryState(), settings)
  const findProtected = protectionOf(bundle)
  const dropped = new Set<string>()
  for (const [offset, record] of scored.entries()) {
    const { outcome } = state.fold(record, offset, { findProtected })
    if (outcome === 'protected') dropped.add(record.id)
  }
  const kept = new Set([...state.subset()].map(({ id }) => id))
  const leaks = stream.filter(({ isDuplicate }) => isDuplicate)
  const found = leaks.filter(({ id }) => dropped.has(id)).length
  const recallOf = Object.keys(DISGUISES).map(kind => {
    const ofKind = leaks.filter(leak => leak.kind === kind)
    return [kind, ofKind.filter(({ id }) => dropped.has(id)).length / ofKind.length]
  })
  return {
    questions,
    leaks: leaks.length,
    innocents: stream.length - leaks.length,
    recall: found / leaks.length,
    precision: found / dropped.size,
    recallOf: Object.fromEntries(recallOf),
    kept: leaks.filter(({ id }) => kept.has(id)).length,
    keptOfProtected: [...dropped].filter(id => kept.has(id)).length,
  }
}
