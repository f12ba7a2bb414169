/** Creates topics that are missing, and checks the others against their specification. */
import { XmasdError } from '../../errors.ts'
import { type Brokers, leaderlessError } from './brokers.ts'
import type { NewTopic } from './connection.ts'
import { codeOf } from './errors.ts'

/** A topic as it is to be. */
export type TopicSpec = {
  name: string
  partitions: number
  /** Keep at least the latest record of every key; older ones may go. */
  compacted?: boolean
  /** Milliseconds that records are kept, -1 for good. Default: the engine's. */
  retentionMs?: number
}

export type KafkaTopic = { name: string; partitions: number; compacted: boolean }

export type TopicDefaults = {
  replicationFactor: number
  minInsyncReplicas: number
  /** The largest batch that we write: a topic that takes less is a mismatch. */
  batchBytesMax: number
}

/** A topic as it is on the brokers. */
type Found = { partitions: number; replicas: number; settings: Map<string, string> }

/** Creates what is missing, or with `readonly` throws TOPIC_MISSING. Throws TOPIC_MISMATCH where a topic is not as specified. */
export async function ensureTopics(
  brokers: Brokers,
  specs: readonly TopicSpec[],
  defaults: TopicDefaults,
  readonly: boolean,
): Promise<void> {
  const names = specs.map(({ name }) => name)
  const existing = await brokers.describe(names)
  const missing = specs.filter(({ name }) => !existing.has(name))
  if (missing.length > 0) {
    if (readonly) throw missingError(missing[0]!)
    await create(brokers, missing, defaults)
    await waitForLeaders(brokers, missing)
  }
  const found = await describe(brokers, names)
  for (const spec of specs) check(spec, found.get(spec.name)!, defaults)
}

function missingError({ name }: TopicSpec): XmasdError {
  return new XmasdError(
    'TOPIC_MISSING',
    `the brokers have no topic ${name} yet`,
    'start `xmasd run` or `xmasd produce` once: they create the topics',
  )
}

async function create(
  brokers: Brokers,
  specs: readonly TopicSpec[],
  defaults: TopicDefaults,
): Promise<void> {
  const topics = specs.map(spec => creationOf(spec, defaults))
  const controller = await brokers.controller()
  try {
    await controller.createTopics({ topics, timeout: CREATE_MS_MAX })
  } catch (error) {
    if (!isRace(error)) throw error
  }
}

/** Throws a retryable error until the brokers report leaders for all of them. */
async function waitForLeaders(brokers: Brokers, specs: readonly TopicSpec[]): Promise<void> {
  await brokers.refreshLeaders()
  const found = await brokers.describe(specs.map(({ name }) => name))
  for (const { name } of specs) {
    const partitions = found.get(name) ?? []
    const without = partitions.find(({ leader }) => leader < 0)?.partitionId
    if (partitions.length > 0 && without === undefined) continue
    throw leaderlessError({ topic: name, partition: without ?? 0 })
  }
}

/** Another process has created the same topics meanwhile: they are checked like any other. */
function isRace(error: unknown): boolean {
  const errors = (error as { errors?: unknown[] }).errors ?? [error]
  return errors.every(one => codeOf(one) === 'TOPIC_ALREADY_EXISTS')
}

function creationOf(spec: TopicSpec, defaults: TopicDefaults): NewTopic {
  const { name, partitions, compacted = false, retentionMs } = spec
  const { replicationFactor, minInsyncReplicas, batchBytesMax } = defaults
  const settings: Record<string, string> = {
    'cleanup.policy': compacted ? 'compact' : 'delete',
    'min.insync.replicas': String(minInsyncReplicas),
    'max.message.bytes': String(Math.max(MESSAGE_BYTES, batchBytesMax)),
  }
  if (retentionMs !== undefined) settings['retention.ms'] = String(retentionMs)
  if (retentionMs === FOR_GOOD) settings['retention.bytes'] = String(FOR_GOOD)
  const configEntries = Object.entries(settings).map(([key, value]) => ({ name: key, value }))
  return { topic: name, numPartitions: partitions, replicationFactor, configEntries }
}

const CREATE_MS_MAX = 10_000
/** Kafka's number for a topic among the things that have settings. */
const TOPIC_RESOURCE = 2
/** Kafka's own default of max.message.bytes. */
const MESSAGE_BYTES = 1_048_588
const FOR_GOOD = -1

async function describe(brokers: Brokers, names: readonly string[]): Promise<Map<string, Found>> {
  const topics = await brokers.describe(names)
  const { resources } = await (await brokers.controller()).describeConfigs({
    resources: names.map(name => ({ type: TOPIC_RESOURCE, name })),
  })
  const settings = new Map(
    resources.map(({ resourceName, configEntries }) => [
      resourceName,
      new Map(configEntries.map(entry => [entry.configName, entry.configValue])),
    ]),
  )
  return new Map(
    [...topics].map(([name, partitions]) => [
      name,
      {
        partitions: partitions.length,
        replicas: Math.min(...partitions.map(({ replicas }) => replicas.length)),
        settings: settings.get(name) ?? new Map(),
      },
    ]),
  )
}

type Difference = { what: string; has: string | number; wants: string | number; fix: string }

function check(spec: TopicSpec, found: Found, defaults: TopicDefaults): void {
  const difference = differenceOf(spec, found, defaults)
  if (difference === undefined) return
  const { what, has, wants, fix } = difference
  throw new XmasdError(
    'TOPIC_MISMATCH',
    `topic ${spec.name} has ${what} ${has} on the brokers, the configuration asks for ${wants}`,
    fix,
  )
}

function differenceOf(
  spec: TopicSpec,
  found: Found,
  defaults: TopicDefaults,
): Difference | undefined {
  const { name, partitions, compacted = false, retentionMs } = spec
  if (found.partitions !== partitions) {
    const fix = `configure ${name} as it is on the brokers, or name another topic`
    return { what: 'partitions:', has: found.partitions, wants: partitions, fix }
  }
  if (found.replicas < defaults.replicationFactor) {
    const fix = 'add replicas with kafka-reassign-partitions, or lower log.replicationFactor'
    return { what: 'replicas:', has: found.replicas, wants: defaults.replicationFactor, fix }
  }
  const setting = (key: string): string => found.settings.get(key) ?? ''
  const alter = (key: string, wants: string | number): Difference => ({
    what: key,
    has: setting(key),
    wants,
    fix: `kafka-configs --alter --entity-type topics --entity-name ${name} --add-config ${key}=${wants}`,
  })
  const policy = compacted ? 'compact' : 'delete'
  if (setting('cleanup.policy') !== policy) return alter('cleanup.policy', policy)
  if (Number(setting('min.insync.replicas')) < defaults.minInsyncReplicas) {
    return alter('min.insync.replicas', defaults.minInsyncReplicas)
  }
  if (Number(setting('max.message.bytes')) < defaults.batchBytesMax) {
    return alter('max.message.bytes', defaults.batchBytesMax)
  }
  if (retentionMs !== undefined && setting('retention.ms') !== String(retentionMs)) {
    return alter('retention.ms', retentionMs)
  }
  if (retentionMs === FOR_GOOD && setting('retention.bytes') !== String(FOR_GOOD)) {
    return alter('retention.bytes', FOR_GOOD)
  }
  return undefined
}
