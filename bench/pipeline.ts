/**
 * Both roles on a real Kafka broker on this machine, with a proxy of negligible cost, beside kafkajs
 * alone on the same broker, and the ratios to that.
 *
 *   npm run bench:pipeline -- [--examples N] [--assignments N] [--text SHARE] [--T N]
 *
 * Each role is the built command in its own process. Examples are text-only (`--text`, default 0.5) or
 * have a picture of 8 x 8 pixels. The proxy has 8 channels and one layer on each side, untrained. The
 * first third of a run is warm-up, until five V8 heaps have reached their size. Rates and memory are
 * those of the rest.
 *
 * Resident memory is read four times a second. `rssDriftPercent` is the rise of the least-squares line
 * over all readings after the warm-up, so that the moments of garbage collection matter little. The
 * select role's memory grows with its history by design: the output also has the bytes an assignment
 * adds to the process' own memory (with its drift) and to the mapped pages of its state's file, which
 * the system takes back when it needs memory. The last line is one JSON object.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Kafka, logLevel } from 'kafkajs'
import sharp from 'sharp'
import { openBundle } from '../src/bundle/bundle.ts'
import { loadConfig } from '../src/config.ts'
import type { Log, OutRecord } from '../src/log/log.ts'
import { openLog, topicSpecs } from '../src/log/open.ts'
import { TOPICS } from '../src/record.ts'
import { saveCheckpoint } from '../src/train/checkpoint.ts'
import { configOf, initialParameters, SMALL_PROXY, TRAINING_TEMPLATE } from '../src/train/shape.ts'
import { succeed } from '../test/e2e/command.ts'
import { Broker } from '../test/kafka/broker.ts'
import { fillAssignments } from './assignments.ts'
import type { Memory } from './child.ts'
import { rateOf, type Sight, type Trend, trendOf, watchDaemon } from './watched.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '300000' },
    assignments: { type: 'string', default: '1000000' },
    text: { type: 'string', default: '0.5' },
    T: { type: 'string', default: '8' },
  },
})
const EXAMPLES = Number(options.examples)
const ASSIGNMENTS = Number(options.assignments)
const FILL_BATCH = 1_000
const PICTURES = 64
const WARM_UP = 1 / 3
const CLUSTERS = 1_000
/** Examples that the bundle is fitted to. */
const SAMPLE = 2_000

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

/** A proxy of negligible cost: its forward pass is not measured. */
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

/** Writes the proxy, its bundle and the configuration; returns the path of the configuration. */
async function makeSite(folder: string, address: string, images: string[]): Promise<string> {
  const at = (name: string): string => join(folder, name)
  makeProxy(at('proxy'))
  const sample = Array.from({ length: SAMPLE }, (_, i) => `${exampleValue(99 + 100 * i, images)}\n`)
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
  const fit = ['fit', '--trajectories', at('t.jsonl'), '--out', at('bundle')]
  await succeed([...fit, '--clusters', String(CLUSTERS)])
  const lines = [
    `log: { kind: kafka, brokers: ['${address}'], path: ./state, examplesPartitions: 4 }`,
    'images: { root: . }',
    'proxy: { path: ./proxy }',
    'bundle: ./bundle',
    'score: { batchExamplesMax: 512, batchesInFlightMax: 4 }',
    'http: { enabled: false }',
  ]
  writeFileSync(at('xmasd.yaml'), `${lines.join('\n')}\n`)
  return at('xmasd.yaml')
}

/** What follows the warm-up; everything if the run is too short for one. */
function warm(sights: readonly Sight[]): Sight[] {
  const end = sights.at(-1)!.done
  const later = sights.filter(({ done }) => done >= WARM_UP * end)
  return new Set(later.map(({ done }) => done)).size > 1 ? later : [...sights]
}

/** Memory at eleven points of the run, and its trend after the warm-up. */
function say(role: string, sights: readonly Sight[]): void {
  const megabytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(0)
  const step = (sights.length - 1) / 10
  const steps = Array.from({ length: 11 }, (_, i) => sights[Math.round(i * step)]!).map(
    ({ done, memory: { all, own, file } }) =>
      `${Math.round(done / 1_000)}k ${megabytes(all)} = ${megabytes(own)} + ${megabytes(file)}`,
  )
  process.stdout.write(`${role}, MB = own + of files: ${steps.join(', ')}\n`)
  for (const part of ['all', 'own', 'file'] as const) {
    const { bytesMean, bytesPerRecord, driftPercent } = trendOf(warm(sights), part)
    process.stdout.write(
      `${role}, ${part}: ${megabytes(bytesMean)} MB, ${bytesPerRecord.toFixed(1)} bytes a record, drift ${driftPercent.toFixed(1)} %\n`,
    )
  }
}

function tenths(value: number): number {
  return Math.round(10 * value) / 10
}

function ratio(rate: number, raw: number): number {
  return Math.round((1000 * rate) / raw) / 1000
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
  const site = await makeSite(folder, broker.address, images)
  const config = loadConfig(site, {})
  const log = await openLog(config.log)
  await log.ensureTopics(topicSpecs(config.log))
  await fillExamples(log, images)
  await log.close()
  const scored = await watchDaemon('score', site, EXAMPLES)
  say('score', scored)

  const selecting = await Broker.start({ isFast: true })
  try {
    const env = { XMASD_LOG_BROKERS: selecting.address, XMASD_LOG_PATH: join(folder, 'select') }
    const other = loadConfig(site, env)
    const filled = await openLog(other.log)
    await filled.ensureTopics([...topicSpecs(other.log), { name: 'raw', partitions: 1 }])
    const bundle = (await openBundle(other.bundle)).id
    const size = { examples: ASSIGNMENTS, clusters: CLUSTERS, checkpoints: Number(options.T) }
    await fillAssignments(filled, { ...size, bundle })
    await filled.close()
    const selected = await watchDaemon('select', site, ASSIGNMENTS, env)
    say('select', selected)
    const trend = trendOf(warm(scored), 'all')
    const of = (part: keyof Memory): Trend => trendOf(warm(selected), part)
    const rates = {
      examplesPerSecond: Math.round(rateOf(warm(scored))),
      assignmentsPerSecond: Math.round(rateOf(warm(selected))),
      rawConsumePerSecond: Math.round(await rawConsume(selecting)),
      rawTransactionalPerSecond: Math.round(await rawTransactional(selecting)),
    }
    const report = {
      ...rates,
      examplesToRawTransactional: ratio(rates.examplesPerSecond, rates.rawTransactionalPerSecond),
      assignmentsToRawConsume: ratio(rates.assignmentsPerSecond, rates.rawConsumePerSecond),
      assignmentsToRawTransactional: ratio(
        rates.assignmentsPerSecond,
        rates.rawTransactionalPerSecond,
      ),
      rssDriftPercent: tenths(trend.driftPercent),
      rssMegabytes: Math.round(trend.bytesMean / 2 ** 20),
      rssBytesPerExample: tenths(trend.bytesPerRecord),
      rssDriftPercentOfSelect: tenths(of('all').driftPercent),
      ownDriftPercentOfSelect: tenths(of('own').driftPercent),
      ownBytesPerAssignment: tenths(of('own').bytesPerRecord),
      fileBytesPerAssignment: tenths(of('file').bytesPerRecord),
    }
    process.stdout.write(`${JSON.stringify(report)}\n`)
  } finally {
    await selecting.close()
  }
} finally {
  await broker.close()
  rmSync(folder, { recursive: true, force: true })
}
