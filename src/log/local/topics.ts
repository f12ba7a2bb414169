/** What the local log keeps about topics: descriptions, ends and committed positions. */
import { XmasdError } from '../../errors.ts'
import { Partitioner } from '../../kafka/write/partition.ts'
import type { TopicSpec } from '../log.ts'
import type { Environment, MetaKey } from './environment.ts'

/** Topic numbers and partitions take two bytes each in a record's key. */
const NUMBER_MAX = 0xffff

export type Topic = { id: number; name: string; partitions: number; compacted: boolean }

/** The topics of a log, by name, including those that another process has created meanwhile. */
export class Topics {
  readonly #environment: Environment
  readonly #known = new Map<string, Topic>()
  readonly partitioner = new Partitioner()

  constructor(environment: Environment) {
    this.#environment = environment
  }

  find(name: string): Topic | undefined {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    this.#environment.root.resetReadTxn()
    const stored = this.#environment.meta.get(['topic', name]) as Omit<Topic, 'name'> | undefined
    if (stored === undefined) return undefined
    const topic = { ...stored, name }
    // A write that is half done may still be rolled back.
    if (this.#environment.halfDone === undefined) this.#known.set(name, topic)
    return topic
  }

  /** Throws RangeError where there is no such topic. */
  get(name: string): Topic {
    const topic = this.find(name)
    if (topic === undefined) throw new RangeError(`no topic ${name} in the log: ensureTopics first`)
    return topic
  }
}

/** Throws RangeError for a specification that no log could hold. */
export function checkSpec({ name, partitions }: TopicSpec): void {
  if (name === '' || name.length > 249) throw new RangeError(`topic name of length ${name.length}`)
  if (!Number.isInteger(partitions) || partitions < 1 || partitions > NUMBER_MAX) {
    throw new RangeError(`topic ${name}: ${partitions} partitions`)
  }
}

/** Throws TOPIC_MISMATCH where the topic in the log is not as specified. */
export function checkTopic(topic: Topic, { name, partitions, compacted = false }: TopicSpec): void {
  if (topic.partitions === partitions && topic.compacted === compacted) return
  const describe = (count: number, isCompacted: boolean) =>
    `${count} partition(s), ${isCompacted ? 'compacted' : 'not compacted'}`
  throw new XmasdError(
    'TOPIC_MISMATCH',
    `topic ${name} has ${describe(topic.partitions, topic.compacted)} in the log, ` +
      `the configuration asks for ${describe(partitions, compacted)}`,
    `configure ${name} as it is in the log, or set log.path to a new folder`,
  )
}

/** Inside a write: creates the topic, or checks the one that another process has created. */
export function createTopic({ meta }: Environment, spec: TopicSpec): void {
  const stored = meta.get(['topic', spec.name]) as Topic | undefined
  if (stored !== undefined) {
    checkTopic(stored, spec)
    return
  }
  const id = ((meta.get(['topics']) as number | undefined) ?? 0) + 1
  if (id > NUMBER_MAX) throw new RangeError(`more than ${NUMBER_MAX} topics`)
  const { partitions, compacted = false } = spec
  meta.put(['topics'], id)
  meta.put(['topic', spec.name], { id, partitions, compacted })
}

/** Throws RangeError where the topic has no such partition. */
export function checkPartition(topic: Topic, partition: number): void {
  if (!Number.isInteger(partition) || partition < 0 || partition >= topic.partitions) {
    throw new RangeError(`topic ${topic.name} has no partition ${partition}`)
  }
}

export const SEQUENCE: MetaKey = ['sequence']

export function endKey(topicId: number, partition: number): MetaKey {
  return ['end', topicId, partition]
}

export function positionKey(group: string, topicId: number, partition: number): MetaKey {
  return ['position', group, topicId, partition]
}

/** A counter: 0 where it was never written. */
export function readCount(environment: Environment, key: MetaKey): number {
  return (environment.meta.get(key) as number | undefined) ?? 0
}
