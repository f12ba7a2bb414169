/** A network between clients and a broker, which can fail as networks do. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

type Dying = { apiKeys: readonly number[]; left: number; onDead: () => void }

export class Relay {
  /** The broker's port. */
  target = 0
  /** Connections that clients have opened so far. */
  opened = 0
  readonly #server: Server
  readonly #pairs = new Set<readonly [Socket, Socket]>()
  readonly #swallowing = new Map<Socket, 'all' | 'answers'>()
  #cutAfter = Number.POSITIVE_INFINITY
  #losing: number | undefined
  #dying: Dying | undefined

  private constructor() {
    this.#server = createServer(client => this.#join(client))
  }

  static async start(): Promise<Relay> {
    const relay = new Relay()
    relay.#server.listen(0, '127.0.0.1')
    await once(relay.#server, 'listening')
    return relay
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  #join(client: Socket): void {
    this.opened++
    const broker = connect(this.target, '127.0.0.1')
    const pair = [client, broker] as const
    this.#pairs.add(pair)
    const end = (): void => {
      client.destroy()
      broker.destroy()
      this.#pairs.delete(pair)
      this.#swallowing.delete(client)
    }
    for (const socket of pair) socket.on('error', end).on('close', end)
    let isLosing = false
    client.on('data', part => {
      if (this.#dying !== undefined) {
        part = part.subarray(0, this.#survived(part, this.#dying))
        if (part.length === 0) return
      }
      if (part.length > 6 && part.readInt16BE(4) === this.#losing) {
        isLosing = true
        this.#losing = undefined
      }
      if (this.#swallowing.get(client) !== 'all') broker.write(part)
    })
    broker.on('data', part => {
      if (this.#swallowing.has(client)) return
      if (isLosing) return end()
      if (part.length < this.#cutAfter) return void client.write(part)
      client.end(part.subarray(0, this.#cutAfter))
      this.#cutAfter = Number.POSITIVE_INFINITY
      broker.destroy()
    })
  }

  /** The next request of this kind reaches the broker; its answer is lost, and with it the connection. */
  loseAnswerTo(apiKey: number): void {
    this.#losing = apiKey
  }

  /**
   * Nothing comes through from the nth request of these kinds on, that one included, as if the client had died before it.
   * Resolves then.
   */
  dieAt(nth: number, apiKeys: readonly number[]): Promise<void> {
    return new Promise(onDead => {
      this.#dying = { apiKeys, left: nth, onDead }
    })
  }

  revive(): void {
    this.#dying = undefined
  }

  /** The bytes of these whole requests that come before death. */
  #survived(requests: Buffer, dying: Dying): number {
    let at = 0
    while (dying.left > 0 && at < requests.length) {
      if (dying.apiKeys.includes(requests.readInt16BE(at + 4))) dying.left--
      if (dying.left === 0) dying.onDead()
      else at += 4 + requests.readInt32BE(at)
    }
    return at
  }

  get isLost(): boolean {
    return this.#losing === undefined
  }

  /** The next answer of which so many bytes come at once ends there, and with it its connection. */
  cutAfter(bytes: number): void {
    this.#cutAfter = bytes
  }

  get isCut(): boolean {
    return this.#cutAfter === Number.POSITIVE_INFINITY
  }

  /** The connections that there are stay open, and nothing comes through any more, or no answer. */
  swallow(what: 'all' | 'answers'): void {
    for (const [client] of this.#pairs) this.#swallowing.set(client, what)
  }

  /** Ends the connections that there are. */
  cut(): void {
    for (const [client] of this.#pairs) client.destroy()
  }

  async close(): Promise<void> {
    this.#server.close()
    this.cut()
    await once(this.#server, 'close')
  }
}
