/**
 * The daemon's own path over a real Kafka broker, on this machine: the score role with a proxy that costs
 * little, and the select role; beside them what kafkajs does by itself on the same broker.
 *
 *   npm run bench:pipeline -- [--examples N] [--assignments N] [--text SHARE] [--T N]
 *
 * Examples are text-only (`--text`, default 0.5) or carry a picture of 8 x 8 pixels; the proxy is one of 8 channels
 * and one layer on each side, untrained, so that nearly all is the daemon's own. The first fifth is warm-up.
 * Memory is this process', sampled while it scores. The last line is one JSON object.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Kafka, logLevel } from 'kafkajs'
import sharp from 'sharp'
import { DriftWindow } from '../src/cluster/drift.ts'
import { type Config, loadConfig } from '../src/config.ts'
import { startDaemon } from '../src/daemon.ts'
import type { Log, OutRecord } from '../src/log/log.ts'
import { createLogger } from '../src/observe/logger.ts'
import { createMetrics } from '../src/observe/metrics.ts'
import { openLog, topicSpecs } from '../src/open-log.ts'
import { TOPICS } from '../src/record.ts'
import { openSelectRole } from '../src/role/select-role.ts'
import { newStatus } from '../src/role/status.ts'
import { saveCheckpoint } from '../src/train/checkpoint.ts'
import { initialParameters } from '../src/train/init.ts'
import { configOf, SMALL_PROXY, TRAINING_TEMPLATE } from '../src/train/shape.ts'
import { succeed } from '../test/e2e/command.ts'
import { Broker } from '../test/kafka/broker.ts'
import { fillAssignments } from './assignments.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '200000' },
    assignments: { type: 'string', default: '200000' },
    text: { type: 'string', default: '0.5' },
    T: { type: 'string', default: '8' },
  },
})
const EXAMPLES = Number(options.examples)
const ASSIGNMENTS = Number(options.assignments)
const FILL_BATCH = 1_000
const PICTURES = 64
const WARM_UP = 0.2
const CLUSTERS = 1_000
const BASELINE = { examples: 0, sizes: new Array<number>(CLUSTERS).fill(0), textOnly: 0 }

async function pictures(): Promise<string[]> {
  const made = Array.from({ length: PICTURES }, async (_, n) => {
    const data = Buffer.from(Array.from({ length: 192 }, (_, i) => (n * 37 + i * 11) & 255))
    const png = sharp(data, { raw: { width: 8, height: 8, channels: 3 } }).png()
    return `data:image/png;base64,${(await png.toBuffer()).toString('base64')}`
  })
  return Promise.all(made)
}

function exampleValue(i: number, images: readonly string[]): Buffer {
  const isText = (i % 100) / 100 < Number(options.text)
  const question = `what is number ${i}?`
  const human = isText ? question : `<image>\n${question}`
  const image = isText ? {} : { image: images[i % images.length] }
  const conversations = [
    { from: 'human', value: human },
    { from: 'gpt', value: 'yes' },
  ]
  return Buffer.from(JSON.stringify({ id: `e${i}`, ...image, conversations }))
}

async function fillExamples(log: Log, images: readonly string[]): Promise<void> {
  for (let at = 0; at < EXAMPLES; at += FILL_BATCH) {
    const count = Math.min(FILL_BATCH, EXAMPLES - at)
    const batch: OutRecord[] = Array.from({ length: count }, (_, i) => {
      return { topic: TOPICS.examples, key: `e${at + i}`, value: exampleValue(at + i, images) }
    })
    await log.append(batch)
  }
}

/** A proxy that costs next to nothing: its forward pass is not what is measured. */
function makeProxy(folder: string): void {
  const sizes = { imageSize: 8, patchSize: 4, visionWidth: 8, visionLayers: 1, lengthMax: 128 }
  const config = configOf({ ...SMALL_PROXY, ...sizes, width: 8, layers: 1, heads: 2, kvHeads: 1 })
  mkdirSync(folder)
  writeFileSync(join(folder, 'template.json'), JSON.stringify(TRAINING_TEMPLATE))
  for (const step of [1, 2]) {
    const parameters = initialParameters(config, step)
    saveCheckpoint(folder, { step, steps: 2, config, parameters, history: [] })
  }
}

/** The proxy, and a bundle of it. */
async function makeSite(folder: string, address: string, images: string[]): Promise<Config> {
  const at = (name: string): string => join(folder, name)
  makeProxy(at('proxy'))
  const sample = Array.from({ length: 200 }, (_, i) => `${exampleValue(99 + 100 * i, images)}\n`)
  writeFileSync(at('data.jsonl'), sample.join(''))
  await succeed([
    'score',
    '--proxy',
    at('proxy'),
    '--data',
    at('data.jsonl'),
    '--out',
    at('t.jsonl'),
  ])
  const fit = ['fit', '--trajectories', at('t.jsonl'), '--out', at('bundle'), '--clusters', '10']
  await succeed(fit)
  const lines = [
    `log: { kind: kafka, brokers: ['${address}'], path: ./state, examplesPartitions: 4 }`,
    'proxy: { path: ./proxy }',
    'bundle: ./bundle',
    'score: { batchExamplesMax: 512, batchesInFlightMax: 4 }',
    'http: { enabled: false }',
  ]
  writeFileSync(at('xmasd.yaml'), `${lines.join('\n')}\n`)
  return loadConfig(at('xmasd.yaml'), {})
}

type Sight = { atMs: number; done: number; rss: number }

/** What was done and how much memory it took, at the start and once a second until `stop`. */
function watch(done: () => Promise<number> | number): { stop(): Promise<Sight[]> } {
  const sights: Sight[] = []
  const look = async (): Promise<void> => {
    const seen = await done()
    sights.push({ atMs: performance.now(), done: seen, rss: process.memoryUsage().rss })
  }
  void look()
  const timer = setInterval(() => void look(), 1_000)
  return {
    stop: async () => {
      clearInterval(timer)
      await look()
      return sights
    },
  }
}

/** By how many percent memory grew from the end of the warm-up to the end; says it in between. */
function driftOf(what: string, sights: readonly Sight[]): number {
  const end = sights.at(-1)!
  const warm = sights.filter(({ done }) => done >= WARM_UP * end.done)
  const few = Math.max(1, Math.ceil(warm.length / 10))
  const mean = (some: readonly Sight[]): number =>
    some.reduce((sum, { rss }) => sum + rss, 0) / some.length
  const said = sights.filter((_, i) => i % few === 0 || i === sights.length - 1)
  const steps = said.map(
    ({ done, rss }) => `${Math.round(done / 1_000)}k ${Math.round(rss / 2 ** 20)} MB`,
  )
  process.stdout.write(`${what}, memory: ${steps.join(', ')}\n`)
  const [early, late] = [mean(warm.slice(0, few)), mean(warm.slice(-few))]
  return (100 * (late - early)) / early
}

/** Examples a second after the warm-up, and by how much memory grew from then to the end. */
async function measureScore(config: Config, log: Log): Promise<{ rate: number; drift: number }> {
  const logger = createLogger('warn')
  const daemon = await startDaemon({ config, roles: ['score'], logger, untilIdle: true })
  const watching = watch(async () => {
    const positions = await log.committed(config.score.group, TOPICS.examples)
    return positions.reduce((a, b) => a + b, 0)
  })
  await daemon.done
  const sights = await watching.stop()
  await daemon.close()
  const warm = sights.filter(({ done }) => done >= WARM_UP * sights.at(-1)!.done)
  const busy = warm.filter(({ done }, i) => i === 0 || done > warm[i - 1]!.done)
  // A run of a second has no warm-up that could be left out.
  const [first, last] = [busy.length > 1 ? busy[0]! : sights[0]!, busy.at(-1)!]
  const rate = (1000 * (last.done - first.done)) / (last.atMs - first.atMs)
  return { rate, drift: driftOf('score', sights) }
}

async function measureSelect(config: Config, log: Log): Promise<{ rate: number; drift: number }> {
  const parts = {
    config,
    log,
    metrics: createMetrics(),
    logger: createLogger('warn'),
    status: newStatus('select'),
    drift: new DriftWindow({ clusters: CLUSTERS, baseline: BASELINE, radii: undefined }),
  }
  const role = await openSelectRole(parts)
  const controller = new AbortController()
  const started = performance.now()
  const watching = watch(async () => (await parts.metrics.history.get()).values[0]?.value ?? 0)
  const running = role.run(controller.signal)
  for (;;) {
    await new Promise(resolve => setTimeout(resolve, 20))
    if (parts.status.idle) break
  }
  const seconds = (performance.now() - started) / 1000
  const sights = await watching.stop()
  controller.abort()
  await running
  await role.close()
  return { rate: ASSIGNMENTS / seconds, drift: driftOf('select', sights) }
}

function rawClient(broker: Broker): Kafka {
  return new Kafka({ brokers: [broker.address], logLevel: logLevel.NOTHING })
}

async function rawConsume(broker: Broker): Promise<number> {
  const consumer = rawClient(broker).consumer({ groupId: 'raw', maxBytesPerPartition: 4 << 20 })
  await consumer.connect()
  await consumer.subscribe({ topic: TOPICS.assignments, fromBeginning: true })
  let read = 0
  let started = 0
  const done = new Promise<number>(resolve => {
    void consumer.run({
      eachBatch: async ({ batch }) => {
        started ||= performance.now()
        read += batch.messages.length
        if (read >= ASSIGNMENTS) resolve((1000 * read) / (performance.now() - started))
      },
    })
  })
  const rate = await done
  await consumer.disconnect()
  return rate
}

async function rawTransactional(broker: Broker): Promise<number> {
  const id = { transactionalId: 'raw', idempotent: true, maxInFlightRequests: 1 }
  const producer = rawClient(broker).producer(id)
  await producer.connect()
  const messages = Array.from({ length: 500 }, (_, i) => ({ key: `k${i}`, value: 'x'.repeat(300) }))
  const rounds = Math.max(2, Math.ceil(ASSIGNMENTS / 10 / messages.length))
  const started = performance.now()
  for (let round = 0; round < rounds; round++) {
    const transaction = await producer.transaction()
    await transaction.send({ topic: 'raw', messages })
    await transaction.commit()
  }
  const rate = (1000 * rounds * messages.length) / (performance.now() - started)
  await producer.disconnect()
  return rate
}

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-'))
const broker = await Broker.start({ isFast: true })
try {
  const images = await pictures()
  const config = await makeSite(folder, broker.address, images)
  const log = await openLog(config)
  await log.ensureTopics([...topicSpecs(config), { name: 'raw', partitions: 1 }])
  await fillExamples(log, images)
  const { rate, drift } = await measureScore(config, log)
  process.stdout.write(`score: ${Math.round(rate)} examples/s, memory ${drift.toFixed(1)} %\n`)
  await log.close()

  const selecting = await Broker.start({ isFast: true })
  try {
    const env = { XMASD_LOG_BROKERS: selecting.address, XMASD_LOG_PATH: join(folder, 'select') }
    const other = loadConfig(join(folder, 'xmasd.yaml'), env)
    const filled = await openLog(other)
    await filled.ensureTopics([...topicSpecs(other), { name: 'raw', partitions: 1 }])
    const size = { examples: ASSIGNMENTS, clusters: CLUSTERS, checkpoints: Number(options.T) }
    await fillAssignments(filled, size)
    const selected = await measureSelect(other, filled)
    await filled.close()
    const report = {
      examplesPerSecond: Math.round(rate),
      assignmentsPerSecond: Math.round(selected.rate),
      rawConsumePerSecond: Math.round(await rawConsume(selecting)),
      rawTransactionalPerSecond: Math.round(await rawTransactional(selecting)),
      rssDriftPercent: Math.round(10 * drift) / 10,
      rssDriftPercentOfSelect: Math.round(10 * selected.drift) / 10,
    }
    process.stdout.write(`${JSON.stringify(report)}\n`)
  } finally {
    await selecting.close()
  }
} finally {
  await broker.close()
  rmSync(folder, { recursive: true, force: true })
}
