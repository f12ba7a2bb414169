/** The brokers of one Kafka cluster: who leads which partition, who coordinates what, and requests to each of them. */
import type { Socket } from 'node:net'
import { checkCode, groupBy, KafkaFailure, type Place } from '../wire/model.ts'
import { offsetsRequest, type Protocol } from '../wire/requests.ts'
import {
  asNode,
  type KafkaConnection,
  type Library,
  libraryCluster,
  type Node,
  type Partition,
  type TopicMetadata,
} from './connection.ts'

export type Coordinated = 'group' | 'transaction'
const COORDINATOR_TYPES = { group: 0, transaction: 1 } as const

export class Brokers {
  readonly #library: Library
  readonly #disconnect: () => Promise<void>
  readonly #sockets = new Set<Socket>()
  /** Node ids of the coordinators of groups and transactional ids. */
  readonly #coordinators = new Map<string, string>()
  /** Called when a connection ends, whichever side ended it. */
  onBreak: () => void = () => {}

  constructor(options: KafkaConnection) {
    const onBreak = (): void => this.onBreak()
    const { cluster, disconnect } = libraryCluster(options, this.#sockets, onBreak)
    this.#library = cluster
    this.#disconnect = disconnect
  }

  /** Resolves once a broker has answered and let us in. */
  async connect(): Promise<void> {
    await this.#library.connect()
    await this.#library.refreshMetadata()
  }

  /** Requests in flight have a second to end; then the connections are cut. */
  async close(): Promise<void> {
    this.onBreak = () => {}
    const cut = (): void => {
      for (const socket of this.#sockets) socket.destroy(new Error('closed'))
    }
    const timer = setTimeout(cut, CLOSE_MS)
    await this.#disconnect()
    clearTimeout(timer)
    cut()
  }

  /** The partitions of those topics that exist, as the brokers have them now. */
  async describe(topics: readonly string[]): Promise<Map<string, Partition[]>> {
    await this.#know(topics)
    if (topics.some(topic => this.#metadataOf(topic)?.topicErrorCode !== 0)) {
      await this.#library.refreshMetadata()
    }
    const found = new Map<string, Partition[]>()
    for (const topic of topics) {
      const metadata = this.#metadataOf(topic)
      if (metadata === undefined || metadata.topicErrorCode === UNKNOWN_TOPIC) continue
      checkCode(metadata.topicErrorCode, topic)
      found.set(topic, metadata.partitionMetadata)
    }
    return found
  }

  async clusterId(): Promise<string> {
    if (this.#library.brokerPool.metadata === null) await this.#library.refreshMetadata()
    return this.#library.brokerPool.metadata!.clusterId
  }

  /** Forgets leaders and coordinators, and asks for them again. */
  async refresh(): Promise<void> {
    this.#coordinators.clear()
    await this.refreshLeaders()
  }

  async refreshLeaders(): Promise<void> {
    await this.#library.refreshMetadata()
  }

  /** Groups partitions by their leader. `leaderless`: those that have none at the moment. */
  async leaders<T extends { topic: string; partition: number }>(
    places: readonly T[],
  ): Promise<{ byLeader: Map<string, T[]>; leaderless: T[] }> {
    await this.#know(places.map(({ topic }) => topic))
    const byLeader = groupBy(places, place => String(this.#leaderOf(place)))
    const leaderless = byLeader.get(NO_LEADER) ?? []
    byLeader.delete(NO_LEADER)
    return { byLeader, leaderless }
  }

  /** The same; throws LEADER_NOT_AVAILABLE when a partition has no leader. */
  async allLeaders<T extends { topic: string; partition: number }>(
    places: readonly T[],
  ): Promise<Map<string, T[]>> {
    const { byLeader, leaderless } = await this.leaders(places)
    const [first] = leaderless
    if (first === undefined) return byLeader
    throw leaderlessError(first)
  }

  /** -1 for a partition without a leader, or an unknown one. */
  #leaderOf({ topic, partition }: { topic: string; partition: number }): number {
    const metadata = this.#metadataOf(topic)
    if (metadata?.topicErrorCode === FORBIDDEN_TOPIC) checkCode(FORBIDDEN_TOPIC, topic)
    const known = metadata?.partitionMetadata ?? []
    return known.find(({ partitionId }) => partitionId === partition)?.leader ?? -1
  }

  async #know(topics: readonly string[]): Promise<void> {
    const unknown = [...new Set(topics)].filter(topic => !this.#library.targetTopics.has(topic))
    if (unknown.length > 0) await this.#library.addMultipleTargetTopics(unknown)
    await this.#library.refreshMetadataIfNecessary()
  }

  #metadataOf(topic: string): TopicMetadata | undefined {
    return this.#library.brokerPool.metadata?.topicMetadata.find(one => one.topic === topic)
  }

  /** A connected broker. */
  async node(nodeId: string): Promise<Node> {
    return asNode(await this.#library.findBroker({ nodeId }))
  }

  async send<T>(nodeId: string, protocol: Protocol<T>): Promise<T> {
    const { connectionPool } = await this.node(nodeId)
    return connectionPool.send(protocol)
  }

  /** A request of our own, because the search of kafkajs hides why it failed. */
  async coordinator(kind: Coordinated, key: string): Promise<Node> {
    const at = `${kind} ${key}`
    let nodeId = this.#coordinators.get(at)
    if (nodeId === undefined) {
      const any = await this.#anyNode()
      const coordinatorType = COORDINATOR_TYPES[kind]
      const found = await any.findGroupCoordinator({ groupId: key, coordinatorType })
      nodeId = String(found.coordinator.nodeId)
      this.#coordinators.set(at, nodeId)
    }
    return this.node(nodeId)
  }

  async #anyNode(): Promise<Node> {
    await this.#library.refreshMetadataIfNecessary()
    const ids = this.#library.getNodeIds()
    const nodeId = ids[Math.floor(Math.random() * ids.length)]
    if (nodeId === undefined) throw new KafkaFailure('BROKER_NOT_AVAILABLE', 'no broker is known')
    return this.node(String(nodeId))
  }

  /** The ends that a reader of committed records sees, or the oldest offsets that are kept. */
  async offsets(
    topic: string,
    partitions: readonly number[],
    which: 'oldest' | 'end',
  ): Promise<Map<number, number>> {
    const leaders = await this.allLeaders(partitions.map(partition => ({ topic, partition })))
    const answers = await Promise.all(
      [...leaders].map(([nodeId, led]) => this.send(nodeId, offsetsRequest(led, which))),
    )
    const offsets = new Map<number, number>()
    for (const { partition, code, offset } of answers.flat()) {
      checkCode(code, `the offsets of ${topic}/${partition}`)
      offsets.set(partition, offset)
    }
    return offsets
  }

  /** The broker that changes topics. */
  async controller(): Promise<Node> {
    await this.#library.refreshMetadataIfNecessary()
    return asNode(await this.#library.findControllerBroker())
  }
}

export function leaderlessError({ topic, partition }: Place): KafkaFailure {
  return new KafkaFailure('LEADER_NOT_AVAILABLE', `${topic}/${partition} has no leader now`)
}

const NO_LEADER = '-1'
const UNKNOWN_TOPIC = 3
const FORBIDDEN_TOPIC = 29
const CLOSE_MS = 1_000
