/**
 * kafkajs 2.2.4 as it is used here: the client that makes connections, its cluster and its brokers with the private
 * parts that its types leave out, and patches of its connections, which do not outlive brokers and networks:
 *
 * - Callers that find a connection broken at the same time each open a socket, and all but the last are forgotten. When
 *   one of those ends, it ends the connection that is in use. The patch lets callers share one.
 * - Bytes of an answer that broke off are taken for the beginning of the next answer: from then on every request
 *   times out. The patch drops them.
 * - A request that timed out leaves its connection in place. Where the network swallows packets, the system needs a
 *   quarter of an hour to notice. The patch cuts the connection, as Kafka's own client does.
 * - Metadata with the error of one topic or partition, such as a missing leader, are thrown away whole. The patch
 *   passes them on.
 * - A connection that closes waits for its requests, which no longer time out. The patch cuts it after a second.
 */
import { connect as connectPlain, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { type Cluster, type ISocketFactory, Kafka, type LogEntry, logLevel } from 'kafkajs'
import type { Protocol } from '../wire/requests.ts'
import type { Logger } from './retry.ts'

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

type Producing = { transactionalId: string; producerId: string; producerEpoch: number }
type Ok = Promise<unknown>

/** A broker of kafkajs: the methods that its types leave out. */
export type Node = {
  /** By the number of a kind of request, those that this broker knows. */
  versions: Partial<Record<number, unknown>> | null
  connectionPool: {
    send<T>(protocol: Protocol<T>): Promise<T>
  }
  findGroupCoordinator(options: Sought): Promise<{ coordinator: { nodeId: number } }>
  joinGroup(options: Joining): Promise<Joined>
  syncGroup(options: Syncing): Promise<{ memberAssignment: Buffer }>
  heartbeat(options: { groupId: string; groupGenerationId: number; memberId: string }): Ok
  leaveGroup(options: { groupId: string; memberId: string }): Ok
  initProducerId(options: Initialising): Promise<{ producerId: string; producerEpoch: number }>
  addPartitionsToTxn(options: Producing & { topics: { topic: string; partitions: number[] }[] }): Ok
  addOffsetsToTxn(options: Producing & { groupId: string }): Ok
  endTxn(options: Producing & { transactionResult: boolean }): Ok
  createTopics(options: { topics: readonly NewTopic[]; timeout: number }): Ok
  describeConfigs(options: { resources: { type: number; name: string }[] }): Promise<Configs>
}

type Sought = { groupId: string; coordinatorType: number }
type Joining = {
  groupId: string
  sessionTimeout: number
  rebalanceTimeout: number
  memberId: string
  groupProtocols: { name: string; metadata: Buffer }[]
}
type Joined = {
  generationId: number
  leaderId: string
  memberId: string
  members: { memberId: string; memberMetadata: Buffer }[]
}
type Syncing = {
  groupId: string
  generationId: number
  memberId: string
  groupAssignment: { memberId: string; memberAssignment: Buffer }[]
}
type Initialising = { transactionalId: string | null; transactionTimeout: number }
type Config = { configName: string; configValue: string }
type Configs = { resources: { resourceName: string; configEntries: Config[] }[] }

export type NewTopic = {
  topic: string
  numPartitions: number
  replicationFactor: number
  configEntries: { name: string; value: string }[]
}

export type Partition = { partitionId: number; leader: number; replicas: number[] }
export type TopicMetadata = {
  topic: string
  topicErrorCode: number
  partitionMetadata: Partition[]
}

/** The cluster of kafkajs, with what its types leave out. */
export type Library = Cluster & {
  targetTopics: ReadonlySet<string>
  brokerPool: { metadata: { clusterId: string; topicMetadata: TopicMetadata[] } | null }
  connectionPoolBuilder: ConnectionPools
  findControllerBroker(): Promise<unknown>
}

/** Few retries: `withRetry` does the others, because it classifies errors. */
const RETRY = { initialRetryTime: 50, maxRetryTime: 500, retries: 2 }

function libraryClient(options: KafkaConnection, sockets: Set<Socket>, onBreak: () => void): Kafka {
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

/** As the one of kafkajs, but its sockets can be cut. */
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

/** Its cluster is handed to partition assigners, which is a public way to come by it. */
export function libraryCluster(
  options: KafkaConnection,
  sockets: Set<Socket>,
  onBreak: () => void,
): { cluster: Library; disconnect: () => Promise<void> } {
  let cluster: Library | undefined
  const consumer = libraryClient(options, sockets, onBreak).consumer({
    groupId: options.clientId,
    allowAutoTopicCreation: false,
    partitionAssigners: [
      handed => {
        cluster = handed.cluster as Library
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
  requireFields('cluster', cluster, CLUSTER_FIELDS)
  requireFields('broker pool', cluster.brokerPool, ['metadata'])
  patchConnections(cluster.connectionPoolBuilder)
  return { cluster, disconnect: () => consumer.disconnect() }
}

const CLUSTER_FIELDS = [
  'addMultipleTargetTopics',
  'brokerPool',
  'connect',
  'connectionPoolBuilder',
  'findBroker',
  'findControllerBroker',
  'getNodeIds',
  'refreshMetadata',
  'refreshMetadataIfNecessary',
  'targetTopics',
]
const CONNECTION_FIELDS = [
  'bytesBuffered',
  'bytesNeeded',
  'chunks',
  'connect',
  'disconnect',
  'send',
]
const BROKER_FIELDS = [
  'addOffsetsToTxn',
  'addPartitionsToTxn',
  'connectionPool',
  'createTopics',
  'describeConfigs',
  'endTxn',
  'findGroupCoordinator',
  'heartbeat',
  'initProducerId',
  'joinGroup',
  'leaveGroup',
  'syncGroup',
  'versions',
]

/** A broker of kafkajs, checked for the parts that are used. */
export function asNode(broker: unknown): Node {
  requireFields('broker', broker, BROKER_FIELDS)
  return broker as Node
}

/** Fails at the start when another version of kafkajs lacks a private part. */
function requireFields(what: string, owner: unknown, fields: readonly string[]): void {
  const missing = fields.filter(field => !(field in (owner as object)))
  if (missing.length > 0) throw new TypeError(`the ${what} of kafkajs has no ${missing.join(', ')}`)
}

/** A connection of kafkajs, as it is within. */
type Connection = {
  connect(): Promise<unknown>
  disconnect(): Promise<unknown>
  send(request: Request): Promise<unknown>
  socket: Socket | undefined
  chunks: Buffer[]
  bytesBuffered: number
  bytesNeeded: number
}

type Request = {
  request: { apiKey: number }
  response: { decode(payload: Buffer): Promise<unknown>; parse(decoded: unknown): Promise<unknown> }
}

/** Where kafkajs makes its connections: those to one broker at a time. */
type ConnectionPools = { build(options?: unknown): Promise<{ pool: Connection[] }> }

/** Patches all connections that will be made. */
function patchConnections(pools: ConnectionPools): void {
  const build = pools.build.bind(pools)
  pools.build = async options => {
    const made = await build(options)
    requireFields('connection pool', made, ['pool', 'send', 'isConnected'])
    for (const connection of made.pool) {
      requireFields('connection', connection, CONNECTION_FIELDS)
      patch(connection)
    }
    return made
  }
}

const SIZE_BYTES = 4
const LEAVE_MS_MAX = 1_000

function patch(connection: Connection): void {
  const connect = connection.connect.bind(connection)
  const disconnect = connection.disconnect.bind(connection)
  const send = connection.send.bind(connection)
  let connecting: Promise<unknown> | undefined
  let leaving: Promise<unknown> | undefined

  const begin = async (): Promise<unknown> => {
    await leaving
    forget(connection.socket)
    Object.assign(connection, { chunks: [], bytesBuffered: 0, bytesNeeded: SIZE_BYTES })
    const connected = await connect()
    requireFields('connected connection', connection, ['socket'])
    return connected
  }
  const leave = async (): Promise<unknown> => {
    // kafkajs adds a listener to a dead socket every time.
    if (connection.socket?.destroyed) connection.socket = undefined
    const timer = setTimeout(() => cut(connection, 'closed'), LEAVE_MS_MAX)
    return disconnect().finally(() => clearTimeout(timer))
  }
  connection.connect = () => {
    connecting ??= begin().finally(() => {
      connecting = undefined
    })
    return connecting
  }
  connection.disconnect = () => {
    leaving ??= leave().finally(() => {
      leaving = undefined
    })
    return leaving
  }
  connection.send = async request => {
    try {
      return await send(request.request.apiKey === METADATA ? tolerant(request) : request)
    } catch (error) {
      if (isTimeout(error)) cut(connection, 'a request timed out')
      throw error
    }
  }
}

const METADATA = 3

function tolerant({ request, response }: Request): Request {
  const decode = (payload: Buffer): Promise<unknown> => response.decode(payload)
  return { request, response: { decode, parse: async decoded => decoded } }
}

/** Makes its requests fail. */
function cut({ socket }: Connection, why: string): void {
  socket?.destroy(new Error(why))
}

/** Detaches a socket: its events no longer reach the connection. */
function forget(socket: Socket | undefined): void {
  if (socket === undefined) return
  for (const event of ['data', 'end', 'error', 'timeout']) socket.removeAllListeners(event)
  socket.on('error', () => {})
  socket.destroy()
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'KafkaJSRequestTimeoutError'
}
