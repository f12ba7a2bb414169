/**
 * Connections to one Kafka cluster. The client library (kafkajs 2.2.4) does connections, TLS, SASL, metadata
 * and the small requests; it hands its cluster to partition assigners, which is how we come by it. Consumers,
 * transactions and the coding of records are ours: see docs/decisions/004-kafka-client.md.
 */
import { connect as connectPlain, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import {
  type Cluster as Connected,
  type ISocketFactory,
  Kafka,
  type Consumer as LibraryConsumer,
  type LogEntry,
  logLevel,
} from 'kafkajs'
import type { Logger } from '../observe/logger.ts'
import { type ConnectionPools, mendConnections } from './kafka-connection.ts'
import { codeOf, KafkaFailure } from './kafka-errors.ts'

export type KafkaConnection = {
  brokers: readonly string[]
  clientId: string
  tls: { ca?: string; cert?: string; key?: string; servername?: string } | undefined
  sasl:
    | { mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'; username: string; password: string }
    | undefined
  /** One connection, or one request, may take that long. */
  requestMsMax: number
  logger: Logger | undefined
}

/** A request in a coding of its own, in the form that the library sends. */
export type Protocol<T> = {
  request: {
    apiKey: number
    apiName: string
    apiVersion: number
    encode(): Promise<{ buf: Buffer; buffer: Buffer }>
  }
  response: { decode(payload: Buffer): Promise<T>; parse(decoded: T): Promise<T> }
}

type Offsets = { topic: string; partitions: { partition: number; offset: string }[] }[]
type Producing = { transactionalId: string; producerId: string; producerEpoch: number }
type Ok = Promise<unknown>

/** What we ask of one broker: methods of the library's that its types leave out. */
export type Node = {
  /** By the number of a kind of request, those that this broker knows. */
  versions: Partial<Record<number, unknown>> | null
  connectionPool: {
    send<T>(protocol: Protocol<T>): Promise<T>
  }
  findGroupCoordinator(options: {
    groupId: string
    coordinatorType: number
  }): Promise<{ coordinator: { nodeId: number } }>
  joinGroup(options: {
    groupId: string
    sessionTimeout: number
    rebalanceTimeout: number
    memberId: string
    groupProtocols: { name: string; metadata: Buffer }[]
  }): Promise<{
    generationId: number
    leaderId: string
    memberId: string
    members: { memberId: string; memberMetadata: Buffer }[]
  }>
  syncGroup(options: {
    groupId: string
    generationId: number
    memberId: string
    groupAssignment: { memberId: string; memberAssignment: Buffer }[]
  }): Promise<{ memberAssignment: Buffer }>
  heartbeat(options: { groupId: string; groupGenerationId: number; memberId: string }): Ok
  leaveGroup(options: { groupId: string; memberId: string }): Ok
  initProducerId(options: {
    transactionalId: string
    transactionTimeout: number
  }): Promise<{ producerId: string; producerEpoch: number }>
  addPartitionsToTxn(options: Producing & { topics: { topic: string; partitions: number[] }[] }): Ok
  addOffsetsToTxn(options: Producing & { groupId: string }): Ok
  txnOffsetCommit(options: Producing & { groupId: string; topics: Offsets }): Ok
  endTxn(options: Producing & { transactionResult: boolean }): Ok
}

export type Coordinated = 'group' | 'transaction'
export const FETCH = 1
const COORDINATOR_TYPES = { group: 0, transaction: 1 } as const

export class Cluster {
  readonly #library: Connected
  readonly #consumer: LibraryConsumer
  readonly #sockets = new Set<Socket>()
  /** The broker that looks after a group or a transactional id. */
  readonly #coordinators = new Map<string, string>()
  /** Told when a connection ends, whoever ended it. */
  onBreak: () => void = () => {}

  constructor(options: KafkaConnection) {
    const onBreak = (): void => this.onBreak()
    const { cluster, consumer } = libraryCluster(options, this.#sockets, onBreak)
    this.#library = cluster
    this.#consumer = consumer
  }

  /** Resolves once a broker has answered and let us in. */
  async connect(): Promise<void> {
    await this.#library.connect()
    await this.#library.refreshMetadata()
  }

  /** What is under way gets a moment to end; then the connections are cut. */
  async close(): Promise<void> {
    this.onBreak = () => {}
    const cut = (): void => {
      for (const socket of this.#sockets) socket.destroy(new Error('closed'))
    }
    const timer = setTimeout(cut, CLOSE_MS)
    await this.#consumer.disconnect()
    clearTimeout(timer)
    cut()
  }

  /** How many partitions a topic has; undefined where it does not exist. */
  async partitions(topic: string): Promise<number | undefined> {
    try {
      await this.#library.addMultipleTargetTopics([topic])
    } catch (error) {
      if (codeOf(error) === 'UNKNOWN_TOPIC_OR_PARTITION') return undefined
      throw error
    }
    await this.#library.refreshMetadataIfNecessary()
    return this.#library.findTopicPartitionMetadata(topic).length
  }

  /** Who leads and who coordinates is asked anew. */
  async refresh(): Promise<void> {
    this.#coordinators.clear()
    await this.#library.refreshMetadata()
  }

  /** The places grouped by the broker that leads them. */
  async leaders<T extends { topic: string; partition: number }>(
    places: readonly T[],
  ): Promise<Map<string, T[]>> {
    await this.#library.addMultipleTargetTopics([...new Set(places.map(({ topic }) => topic))])
    await this.#library.refreshMetadataIfNecessary()
    const byLeader = new Map<string, T[]>()
    for (const place of places) {
      const leader = this.#leaderOf(place)
      const group = byLeader.get(leader)
      if (group === undefined) byLeader.set(leader, [place])
      else group.push(place)
    }
    return byLeader
  }

  #leaderOf({ topic, partition }: { topic: string; partition: number }): string {
    const known = this.#library.findTopicPartitionMetadata(topic)
    const leader = known.find(({ partitionId }) => partitionId === partition)?.leader ?? -1
    if (leader >= 0) return String(leader)
    throw new KafkaFailure('LEADER_NOT_AVAILABLE', `${topic}/${partition} has no leader now`)
  }

  /** A connected broker. */
  async node(nodeId: string): Promise<Node> {
    return (await this.#library.findBroker({ nodeId })) as unknown as Node
  }

  async send<T>(nodeId: string, protocol: Protocol<T>): Promise<T> {
    const { connectionPool } = await this.node(nodeId)
    return connectionPool.send(protocol)
  }

  /** The library's own search swallows why it failed. */
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
    await this.leaders(partitions.map(partition => ({ topic, partition })))
    const wanted = partitions.map(partition => ({ partition }))
    const fromBeginning = which === 'oldest'
    const found = await this.#library.fetchTopicsOffset([
      { topic, partitions: wanted, fromBeginning },
    ])
    const pairs = found.flatMap(one => one.partitions)
    return new Map(pairs.map(({ partition, offset }) => [partition, Number(offset)]))
  }
}

const CLOSE_MS = 1_000

/** Short: what is to be tried again for long is tried again by us, with an eye on what went wrong. */
const RETRY = { initialRetryTime: 50, maxRetryTime: 500, retries: 2 }

/** The library as it is meant to be used, for the administration of topics. */
export function libraryClient(
  options: KafkaConnection,
  sockets: Set<Socket> = new Set(),
  onBreak: () => void = () => {},
): Kafka {
  const { brokers, clientId, tls, sasl, requestMsMax, logger } = options
  const common = {
    brokers: [...brokers],
    clientId,
    ...(sasl === undefined ? {} : { sasl: sasl as never }),
    connectionTimeout: Math.min(requestMsMax, 10_000),
    authenticationTimeout: Math.min(requestMsMax, 10_000),
    requestTimeout: requestMsMax,
    retry: RETRY,
    socketFactory: remembering(sockets, onBreak),
    logLevel: logLevel.WARN,
    logCreator: () => (entry: LogEntry) =>
      logger?.debug({ kafka: entry.log.message }, entry.namespace),
  }
  return new Kafka(tls === undefined ? common : { ...common, ssl: tls })
}

const KEEP_ALIVE_MS = 60_000

/** As the library's own, but so that we can cut the connections. */
function remembering(sockets: Set<Socket>, onBreak: () => void): ISocketFactory {
  return ({ host, port, ssl, onConnect }) => {
    const servername = isIP(host) === 0 ? { servername: host } : {}
    const connected = (): void => {
      socket.once('close', onBreak)
      onConnect()
    }
    const socket =
      ssl === undefined || ssl === null
        ? connectPlain({ host, port }, connected)
        : connectTls({ host, port, ...servername, ...ssl }, connected)
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    socket.setNoDelay(true)
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    return socket
  }
}

function libraryCluster(
  options: KafkaConnection,
  sockets: Set<Socket>,
  onBreak: () => void,
): {
  cluster: Connected
  consumer: LibraryConsumer
} {
  let cluster: Connected | undefined
  const consumer = libraryClient(options, sockets, onBreak).consumer({
    groupId: options.clientId,
    allowAutoTopicCreation: false,
    partitionAssigners: [
      handed => {
        cluster = handed.cluster
        return {
          name: 'none',
          version: 0,
          assign: async () => [],
          protocol: () => ({ name: 'none', metadata: Buffer.alloc(0) }),
        }
      },
    ],
  })
  if (cluster === undefined) throw new Error('kafkajs no longer hands its cluster to assigners')
  const { connectionPoolBuilder } = cluster as unknown as { connectionPoolBuilder: ConnectionPools }
  mendConnections(connectionPoolBuilder)
  return { cluster, consumer }
}
