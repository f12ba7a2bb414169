/** Synthetic assignments: Zipf(1.1) clusters, 5% redelivered or duplicated, 6% text-only. */
import type { Log, OutRecord } from '../src/log/log.ts'
import { seededRandom } from '../src/math/random.ts'
import { type Assignment, keyOf, TOPICS } from '../src/record.ts'
import { drawFrom, zipfShares } from './regret/streams.ts'

/** `bundle`: the bundle id that the assignments carry. */
export type Size = { examples: number; clusters: number; checkpoints: number; bundle?: string }

const FILL_BATCH = 2048
/** Base64 of a layout (54 values) and of an embedding (64, of text or question), a byte each. */
const LAYOUT_LENGTH = 72
const EMBEDDING_LENGTH = 88

export function* assignments(size: Size): Generator<Assignment> {
  const random = seededRandom(1)
  const uint32 = (): number => Math.floor(random() * 2 ** 32)
  const draw = drawFrom(zipfShares(size.clusters), random)
  const hex = (): string => uint32().toString(16).padStart(8, '0')
  const recent: Assignment[] = []
  for (let i = 0; i < size.examples; i++) {
    const again = random() < 0.05 ? recent[uint32() % recent.length] : undefined
    if (again !== undefined) {
      const id = random() < 0.5 ? again.id : `${again.id}-copy`
      yield { ...again, id, key: keyOf(id, again.content) }
      continue
    }
    const made = assignment(random, draw(), i, hex, size)
    recent[recent.length < 5000 ? recent.length : uint32() % 5000] = made
    yield made
  }
}

function assignment(
  random: () => number,
  cluster: number,
  i: number,
  hex: () => string,
  { checkpoints, bundle = '0123456789ab' }: Size,
): Assignment {
  const isText = random() < 0.06
  const singularValues = Array.from({ length: checkpoints }, () =>
    Array.from({ length: 5 }, (_, k) => (20 * random()) / (k + 1)),
  )
  const trajectory = singularValues.map(row => row.reduce((sum, value) => sum + value, 0))
  const steps = trajectory.slice(1).map((value, t) => Math.abs(value - trajectory[t]!))
  const id = `${String((i * 7919) % 1_000_003).padStart(12, '0')}`
  const content = Array.from({ length: 8 }, hex).join('')
  return {
    v: 1,
    key: keyOf(id, content),
    id,
    cluster: isText ? 'text' : cluster,
    singularValues: isText ? null : singularValues,
    trajectory: isText ? null : trajectory,
    instability: isText ? null : steps.reduce((sum, step) => sum + step, 0),
    distance: isText ? null : random(),
    content,
    bundle,
    source: { topic: TOPICS.examples, partition: i % 8, offset: i },
    words: hex() + hex(),
    layout: isText ? null : content.repeat(2).slice(0, LAYOUT_LENGTH),
    embedding: isText ? null : content.repeat(2).slice(0, EMBEDDING_LENGTH),
    question: isText ? null : content.repeat(2).slice(0, EMBEDDING_LENGTH),
  }
}

/** Fills the topic `assignments`, which must exist. */
export async function fillAssignments(log: Log, size: Size): Promise<void> {
  let batch: OutRecord[] = []
  for (const record of assignments(size)) {
    const value = Buffer.from(JSON.stringify(record))
    batch.push({ topic: TOPICS.assignments, key: record.key, value, partition: 0 })
    if (batch.length < FILL_BATCH) continue
    await log.append(batch)
    batch = []
  }
  if (batch.length > 0) await log.append(batch)
}
