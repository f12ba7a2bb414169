/** The examples of the subset themselves, from where the log still holds them, and their weights. */
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import type { Cluster, Source } from '../record.ts'
import { activeAssignments, decisionsOf, isOutside } from './assignments.ts'
import { readSelectPosition } from './bundle-epochs.ts'

export type KeptExample = { key: string; value: Uint8Array }

type KeptPlace = { source: Source; cluster: Cluster }

export type KeptPlaces = {
  /** By key: where the example came from, and its cluster. */
  places: Map<string, KeptPlace>
  /** Of each cluster: its examples over its kept ones. */
  weights: Map<Cluster, number>
}

/**
 * Reads `decisions` and `assignments` once. Copies and misaligned examples count in no cluster, those of the
 * random holdout in theirs. Memory: one key an example.
 */
export async function readKeptPlaces(
  log: Log,
  config: Config,
  keys: ReadonlySet<string>,
): Promise<KeptPlaces> {
  const position = await readSelectPosition(log, config)
  const seen = new Set<string>()
  for await (const { decision } of decisionsOf(log, config)) {
    if (isOutside({ ...decision, arm: undefined })) seen.add(decision.key)
    else if (decision.action === 'restore') seen.delete(decision.key)
  }
  const places = new Map<string, KeptPlace>()
  const counts = new Map<Cluster, { size: number; kept: number }>()
  for await (const { assignment, isFolded } of activeAssignments(log, config, position)) {
    const { key, cluster, source } = assignment
    if (!isFolded || seen.has(key)) continue
    seen.add(key)
    const count = counts.get(cluster) ?? { size: 0, kept: 0 }
    counts.set(cluster, count)
    count.size++
    if (!keys.has(key)) continue
    count.kept++
    places.set(key, { source, cluster })
  }
  const weights = new Map([...counts].map(([cluster, { size, kept }]) => [cluster, size / kept]))
  return { places, weights }
}

/** Those of `wanted` that `examples` still holds, partition by partition, in log order. */
export async function* keptOnLog(
  log: Log,
  config: Config,
  { places }: KeptPlaces,
  wanted: ReadonlySet<string>,
): AsyncGenerator<KeptExample> {
  const topic = config.log.topics.examples
  const partitions = new Map<number, Map<number, string>>()
  for (const key of wanted) {
    const source = places.get(key)?.source
    if (source?.topic !== topic) continue
    const offsets = partitions.get(source.partition) ?? new Map<number, string>()
    partitions.set(source.partition, offsets.set(source.offset, key))
  }
  for (const [partition, offsets] of partitions) {
    const ends = [...offsets.keys()].reduce(
      ({ from, to }, offset) => ({ from: Math.min(from, offset), to: Math.max(to, offset + 1) }),
      { from: Number.POSITIVE_INFINITY, to: 0 },
    )
    for await (const { offset, value } of log.read(topic, { partition, ...ends })) {
      const key = offsets.get(offset)
      if (key !== undefined && value !== null) yield { key, value }
    }
  }
}
