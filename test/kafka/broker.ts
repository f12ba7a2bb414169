/**
 * A real Apache Kafka broker (KRaft, one node) for tests and benchmarks: starts, stops, dies, stands
 * still, comes back on the same data and ports. Everything is bound to the loopback.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Kafka, logLevel } from 'kafkajs'
import { brokerJars, KAFKA_FOLDER, run } from './jars.ts'
import type { Relay } from './relay.ts'
import { makeTls, type Tls } from './tls.ts'

/** `app` may do everything, `limited` nothing: it has no ACL. Nobody logs in on the plain listener. */
export const USERS = { app: 'app-secret-5f3d', limited: 'limited-secret-77' } as const

export type BrokerOptions = {
  /** Opens a second listener with TLS and SASL (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512), and ACLs. */
  sasl?: boolean
  /** More lines of server.properties; they win. */
  properties?: Record<string, string>
  /** Joins this one's cluster instead of making its own. */
  joins?: Broker
  /** Compiles as far as it goes, as a long-lived broker would; tests want a short start. */
  isFast?: boolean
  /** Opens one more listener behind it, for clients that connect to the relay's address. */
  relay?: Relay
  /** A limit in bytes on the files that it writes: a full disk. */
  fileBytesMax?: number
}

type Place = { folder: string; ports: Ports; clusterId: string; controller: number; node: number }
type Ports = { plain: number; controller: number; sasl: number; relayed: number }

const READY_MS_MAX = 60_000

export class Broker {
  readonly options: BrokerOptions
  readonly place: Place
  readonly tls: Tls | undefined
  #child: ChildProcess | undefined

  private constructor(options: BrokerOptions, place: Place) {
    this.options = options
    this.place = place
    this.tls = options.sasl ? makeTls(join(place.folder, 'tls')) : undefined
  }

  /** Resolves once it answers: 4 to 5 seconds. */
  static async start(options: BrokerOptions = {}): Promise<Broker> {
    const folder = mkdtempSync(join(tmpdir(), 'xmasd-kafka-'))
    const [plain, controller, sasl, relayed] = await freePorts(4)
    const ports = { plain: plain!, controller: controller!, sasl: sasl!, relayed: relayed! }
    if (options.relay !== undefined) options.relay.target = ports.relayed
    const first = options.joins?.place
    const broker = new Broker(options, {
      folder,
      ports,
      clusterId: first?.clusterId ?? randomBytes(16).toString('base64url').replace(/^-/, 'A'),
      controller: first?.controller ?? ports.controller,
      node: first === undefined ? 1 : 2,
    })
    try {
      broker.#format()
      await broker.start(options)
      return broker
    } catch (error) {
      await broker.close()
      throw error
    }
  }

  get address(): string {
    return `127.0.0.1:${this.place.ports.plain}`
  }

  /** Its certificate is for this name. */
  get saslAddress(): string {
    return `localhost:${this.place.ports.sasl}`
  }

  /** The client's view of it, for what tests look up or change themselves. */
  client(): Kafka {
    const retry = { initialRetryTime: 50, retries: 5 }
    return new Kafka({ brokers: [this.address], logLevel: logLevel.NOTHING, retry })
  }

  /** Starts it again on the same data, after `stop` or `kill`. */
  async start(options: Pick<BrokerOptions, 'fileBytesMax'> = {}): Promise<void> {
    const { folder } = this.place
    const output = openSync(join(folder, 'broker.log'), 'a')
    const java = ['java', ...this.#java(), 'kafka.Kafka', this.#properties]
    const limit = options.fileBytesMax === undefined ? '' : limitFiles(options.fileBytesMax)
    const child = spawn('bash', ['-c', `${limit} exec "$@"`, 'broker', ...java], {
      cwd: folder,
      stdio: ['ignore', output, output],
    })
    this.#child = child
    const ended = new Promise<'ended'>(resolve => child.once('exit', () => resolve('ended')))
    if ((await Promise.race([ended, this.#answers()])) === 'ended') {
      throw new Error(`the broker ended:\n${this.log().slice(-3000)}`)
    }
  }

  /** As a crash would. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  async stop(): Promise<void> {
    await this.#end('SIGTERM')
  }

  /** Resolves when it has ended by itself. */
  async ended(): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    await new Promise(resolve => child.once('exit', resolve))
  }

  /** It stands still, connections stay open; `false` lets it go on. */
  freeze(isFrozen: boolean): void {
    this.#child?.kill(isFrozen ? 'SIGSTOP' : 'SIGCONT')
  }

  log(): string {
    return readFileSync(join(this.place.folder, 'broker.log'), 'utf8')
  }

  /** Ends it and removes its data. */
  async close(): Promise<void> {
    await this.kill()
    rmSync(this.place.folder, { recursive: true, force: true })
  }

  get #properties(): string {
    return join(this.place.folder, 'server.properties')
  }

  #java(): string[] {
    const { isFast = false } = this.options
    const fast = ['-Xms512m', '-Xmx512m', '-XX:+UseSerialGC']
    const small = ['-Xms64m', '-Xmx256m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1']
    const logging = `-Dlog4j2.configurationFile=${join(KAFKA_FOLDER, 'log4j2.properties')}`
    return [...(isFast ? fast : small), '-Xshare:auto', logging, '-cp', `${brokerJars()}/*`]
  }

  #format(): void {
    const { folder, clusterId } = this.place
    const lines = Object.entries(this.#settings()).map(([key, value]) => `${key}=${value}\n`)
    writeFileSync(this.#properties, lines.join(''))
    mkdirSync(join(folder, 'log'), { recursive: true })
    const scram = Object.entries(USERS).flatMap(([name, password]) =>
      ['SCRAM-SHA-256', 'SCRAM-SHA-512'].flatMap(mechanism => [
        '--add-scram',
        `${mechanism}=[name=${name},password=${password}]`,
      ]),
    )
    const format = ['kafka.tools.StorageTool', 'format', '-t', clusterId, '-c', this.#properties]
    run('java', [...this.#java(), ...format, ...(this.options.joins ? [] : scram)])
  }

  #settings(): Record<string, string> {
    const { folder, ports, controller, node } = this.place
    const isFirst = this.options.joins === undefined
    const listeners = [`PLAINTEXT://${this.address}`]
    const advertised = [...listeners]
    if (this.options.relay !== undefined) {
      listeners.push(`RELAYED://127.0.0.1:${ports.relayed}`)
      advertised.push(`RELAYED://${this.options.relay.address}`)
    }
    if (isFirst) listeners.push(`CONTROLLER://127.0.0.1:${ports.controller}`)
    if (this.tls !== undefined) {
      listeners.push(`SASL_SSL://127.0.0.1:${ports.sasl}`)
      advertised.push(`SASL_SSL://${this.saslAddress}`)
    }
    return {
      'process.roles': isFirst ? 'broker,controller' : 'broker',
      'node.id': String(node),
      'controller.quorum.voters': `1@127.0.0.1:${controller}`,
      'controller.listener.names': 'CONTROLLER',
      'inter.broker.listener.name': 'PLAINTEXT',
      listeners: listeners.join(','),
      'advertised.listeners': advertised.join(','),
      'listener.security.protocol.map':
        'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,RELAYED:PLAINTEXT',
      'log.dirs': join(folder, 'log'),
      ...SMALL,
      ...(this.tls === undefined ? {} : secured(this.tls)),
      ...this.options.properties,
    }
  }

  async #answers(): Promise<void> {
    const deadline = performance.now() + READY_MS_MAX
    for (;;) {
      const admin = this.client().admin({ retry: { retries: 0 } })
      try {
        await admin.connect()
        await admin.describeCluster()
        return
      } catch (error) {
        if (performance.now() > deadline) throw error
        await new Promise(resolve => setTimeout(resolve, 100))
      } finally {
        await admin.disconnect()
      }
    }
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = this.ended()
    child.kill(signal)
    child.kill('SIGCONT')
    await ended
  }
}

/** bash counts blocks of 1024 bytes; without the trap the signal of the limit would end the JVM. */
function limitFiles(bytes: number): string {
  return `trap '' XFSZ; ulimit -f ${Math.ceil(bytes / 1024)};`
}

/** One node, few threads, short waits: what a broker on one machine for tests wants. */
const SMALL = {
  'auto.create.topics.enable': 'false',
  'num.partitions': '1',
  'default.replication.factor': '1',
  'min.insync.replicas': '1',
  'offsets.topic.replication.factor': '1',
  'offsets.topic.num.partitions': '5',
  'transaction.state.log.replication.factor': '1',
  'transaction.state.log.min.isr': '1',
  'transaction.state.log.num.partitions': '5',
  'share.coordinator.state.topic.replication.factor': '1',
  'share.coordinator.state.topic.min.isr': '1',
  'group.initial.rebalance.delay.ms': '0',
  'group.min.session.timeout.ms': '1000',
  // After SIGKILL a restarted broker waits for its old session to end: 9 s by default.
  'broker.session.timeout.ms': '4000',
  'broker.heartbeat.interval.ms': '1000',
  'log.cleaner.dedupe.buffer.size': '16777216',
  'num.network.threads': '2',
  'num.io.threads': '4',
  'background.threads': '2',
}

function secured(tls: Tls): Record<string, string> {
  const plain = Object.entries(USERS).map(([name, password]) => `user_${name}="${password}"`)
  const login = 'org.apache.kafka.common.security'
  const jaas = 'listener.name.sasl_ssl'
  return {
    'sasl.enabled.mechanisms': 'PLAIN,SCRAM-SHA-256,SCRAM-SHA-512',
    [`${jaas}.plain.sasl.jaas.config`]: `${login}.plain.PlainLoginModule required ${plain.join(' ')};`,
    [`${jaas}.scram-sha-256.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
    [`${jaas}.scram-sha-512.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
    [`${jaas}.ssl.keystore.type`]: 'PEM',
    [`${jaas}.ssl.keystore.location`]: tls.server,
    'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
    'super.users': 'User:ANONYMOUS;User:app',
  }
}

export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer())
  const ports = await Promise.all(
    servers.map(
      server =>
        new Promise<number>(resolve => {
          server.listen(0, '127.0.0.1', () => {
            const address = server.address()
            resolve(typeof address === 'object' && address !== null ? address.port : 0)
          })
        }),
    ),
  )
  await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
  return ports
}
