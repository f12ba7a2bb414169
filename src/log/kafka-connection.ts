/**
 * What the connections of the client library (kafkajs 2.2.4) lack to outlive brokers and networks:
 *
 * - Callers that find one broken at the same time each open a socket, and all but the last are forgotten: when
 *   one of those ends, it ends the connection that is in use. So does the socket of before. Here callers share
 *   one, after the end of the one before.
 * - What had come of an answer when the connection broke is taken for the beginning of the next one: from
 *   then on every request times out.
 * - A request that timed out leaves the connection in place. Where the network swallows what is sent the system
 *   needs a quarter of an hour to notice. Here it is cut, as Kafka's own client does, and the next one is new.
 * - A connection that is to be closed waits for its requests, which no longer time out. Here not for long.
 */
import type { Socket } from 'node:net'

/** A connection of the library's, as it is within. */
type Connection = {
  connect(): Promise<unknown>
  disconnect(): Promise<unknown>
  send(request: unknown): Promise<unknown>
  socket: Socket | undefined
  chunks: Buffer[]
  bytesBuffered: number
  bytesNeeded: number
}

/** Where the library makes its connections: those to one broker at a time. */
export type ConnectionPools = { build(options?: unknown): Promise<{ pool: Connection[] }> }

/** Mends all connections that will be made. */
export function mendConnections(pools: ConnectionPools): void {
  const build = pools.build.bind(pools)
  pools.build = async options => {
    const made = await build(options)
    for (const connection of made.pool) mend(connection)
    return made
  }
}

const SIZE_BYTES = 4
const LEAVE_MS_MAX = 1_000

function mend(connection: Connection): void {
  const connect = connection.connect.bind(connection)
  const disconnect = connection.disconnect.bind(connection)
  const send = connection.send.bind(connection)
  let connecting: Promise<unknown> | undefined
  let leaving: Promise<unknown> | undefined

  const begin = async (): Promise<unknown> => {
    await leaving
    forget(connection.socket)
    Object.assign(connection, { chunks: [], bytesBuffered: 0, bytesNeeded: SIZE_BYTES })
    return connect()
  }
  const leave = async (): Promise<unknown> => {
    // On a dead one the library hangs a listener every time.
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
      return await send(request)
    } catch (error) {
      if (isTimeout(error)) cut(connection, 'a request timed out')
      throw error
    }
  }
}

/** Its requests fail. */
function cut({ socket }: Connection, why: string): void {
  socket?.destroy(new Error(why))
}

/** Nothing that still happens to it concerns the connection. */
function forget(socket: Socket | undefined): void {
  if (socket === undefined) return
  for (const event of ['data', 'end', 'error', 'timeout']) socket.removeAllListeners(event)
  socket.on('error', () => {})
  socket.destroy()
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'KafkaJSRequestTimeoutError'
}
