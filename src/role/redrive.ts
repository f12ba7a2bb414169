/**
 * Redrive: dead letters go back to `examples`, each at most once.
 *
 * One commit appends some letters' bytes to `examples` and a mark to `dead-letters` that lists their
 * offsets. What has a mark is never sent again. The mark lies behind its letters, so that it is kept at
 * least as long as they are. The position of the redrive's group is only a fence: each commit moves it by
 * one record, so of two processes that plan from the same position one is refused and plans again.
 *
 *   claim ─► see the last mark ─► plan ─► poll one record ─► commit {examples, mark, position} ─┐
 *     ▲                                       ▲                                                 │
 *     └── LOG_FENCED, or the partition moved  └──────────────── pace ◄──────────────────────────┘
 */
import { setTimeout } from 'node:timers/promises'
import { z } from 'zod'
import type { Config } from '../config.ts'
import { XmasdError } from '../errors.ts'
import {
  type Consumer,
  type Log,
  type LogRecord,
  type OutRecord,
  refusedPlaces,
} from '../log/log.ts'
import { isRedriveMark, REDRIVE_MARK } from '../record.ts'
import { positionsAfter, restoredHeaders } from './outcome.ts'

/** Which letters to send; a field that is absent lets all pass. */
export type RedriveFilter = {
  code?: string | undefined
  /** The key of the record. */
  key?: string | undefined
  /** Milliseconds since the epoch. */
  since?: number | undefined
  limit?: number | undefined
  /** How often one record is redriven. */
  triesMax: number
}

/** Why letters stay, with their counts, and by code those that go. */
export type RedrivePlan = {
  letters: number
  wanted: Record<string, number>
  left: Record<LeftBehind, number>
}

export const LEFT_BEHIND = ['redriven', 'otherwise', 'tries', 'unsound', 'limit'] as const
type LeftBehind = (typeof LEFT_BEHIND)[number]

type Planned = RedrivePlan & { offsets: Set<number> }

/** The value of a mark. `position`: that of the group, which the same commit set. */
const Mark = z.strictObject({
  v: z.literal(1),
  redriven: z.array(z.int().min(0)),
  position: z.int().min(0),
})

/** Letters and bytes of one commit. */
const CHUNK_LETTERS = 100
const CHUNK_BYTES = 8 << 20
const CLAIM_WAIT_MS = 100
/** How long the mark of a commit may take to become visible. */
const MARK_MS_MAX = 10_000
const POLL_MS_MAX = 10_000

export type RedriveOptions = {
  filter: RedriveFilter
  /** Letters a second. */
  rate: number
  /** Told before the first letter is sent, and again where another process redrives meanwhile. */
  onPlan: (plan: RedrivePlan) => void
  onSent: (sent: number) => void
}

/** The consumer group of redrives. */
export function redriveGroup({ score }: Pick<Config, 'score'>): string {
  return `${score.group}-redrive`
}

/** What `redrive` would do now. Reads `dead-letters` once. */
export async function planRedrive(
  log: Log,
  config: Config,
  filter: RedriveFilter,
): Promise<RedrivePlan> {
  const { offsets: _, ...planned } = await plan(log, config, filter)
  return planned
}

/**
 * Sends what `filter` lets pass, and returns how many letters it sent. Throws LOG_IN_USE where
 * another process redrives; STATE_INVALID where the group's position was moved by hand.
 */
export async function redrive(log: Log, config: Config, options: RedriveOptions): Promise<number> {
  const topic = config.log.topics.deadLetters
  const group = redriveGroup(config)
  const consumer = await log.consume({ group, topics: [topic], isStateless: true })
  let sent = 0
  try {
    for (;;) {
      const limit = options.filter.limit
      const filter =
        limit === undefined ? options.filter : { ...options.filter, limit: limit - sent }
      const position = await claimed(consumer, config)
      await seeMark(log, topic, { group, position })
      const { epoch } = consumer
      const planned = await plan(log, config, filter)
      options.onPlan(planned)
      const onSent = (letters: number): void => {
        sent += letters
        options.onSent(sent)
      }
      if (await send(log, config, { ...options, consumer, epoch, planned, onSent })) return sent
    }
  } finally {
    await consumer.close()
  }
}

/** The committed position, once this process has the partition. */
async function claimed(consumer: Consumer, config: Config): Promise<number> {
  const sessionMs = config.log.kind === 'kafka' ? config.log.sessionMsMax : 0
  const deadline = performance.now() + 2 * sessionMs + MARK_MS_MAX
  for (;;) {
    await consumer.rewind()
    const [position] = await consumer.positions()
    if (position !== undefined) return position.offset
    if (performance.now() > deadline) {
      throw new XmasdError(
        'LOG_IN_USE',
        `another process redrives from ${config.log.topics.deadLetters}`,
        'let it finish, then run this again: it sends only what is left',
      )
    }
    await setTimeout(CLAIM_WAIT_MS)
  }
}

/**
 * Waits for the mark of the commit that set the position. On Kafka a transaction moves a position a moment
 * before its records can be read.
 */
async function seeMark(
  log: Log,
  topic: string,
  { group, position }: { group: string; position: number },
): Promise<void> {
  const deadline = performance.now() + (log.kind === 'local' ? 0 : MARK_MS_MAX)
  while (position > 0) {
    for await (const record of log.read(topic, { from: position })) {
      if (isRedriveMark(record) && markOf(record).position === position) return
    }
    if ((await oldest(log, topic)) > position) return
    if (performance.now() > deadline) {
      throw new XmasdError(
        'STATE_INVALID',
        `group ${group} is at ${position} of ${topic}, where no redrive has left it`,
        `remove the group ${group}: the marks in ${topic} say what was redriven`,
      )
    }
    await setTimeout(CLAIM_WAIT_MS)
  }
}

/** The offset of the oldest record that is kept; infinite where there is none. */
async function oldest(log: Log, topic: string): Promise<number> {
  for await (const { offset } of log.read(topic)) return offset
  return Number.POSITIVE_INFINITY
}

function markOf({ topic, partition, offset, value }: LogRecord): z.infer<typeof Mark> {
  try {
    return Mark.parse(JSON.parse(Buffer.from(value!).toString()))
  } catch (error) {
    throw new XmasdError(
      'RECORD_INVALID',
      `${topic}/${partition}@${offset} has the header ${REDRIVE_MARK} and is no mark of a redrive`,
      'Only xmasd may write to this topic: find out which other producer does.',
      { cause: error },
    )
  }
}

async function plan(log: Log, config: Config, filter: RedriveFilter): Promise<Planned> {
  const fates = new Map<number, LeftBehind | { code: string }>()
  for await (const record of log.read(config.log.topics.deadLetters)) {
    if (!isRedriveMark(record)) {
      fates.set(record.offset, fateOf(record, filter))
      continue
    }
    for (const offset of markOf(record).redriven) {
      if (fates.has(offset)) fates.set(offset, 'redriven')
    }
  }
  const planned: Planned = {
    letters: fates.size,
    wanted: {},
    left: { redriven: 0, otherwise: 0, tries: 0, unsound: 0, limit: 0 },
    offsets: new Set(),
  }
  const { limit = Number.POSITIVE_INFINITY } = filter
  for (const [offset, fate] of fates) {
    if (typeof fate === 'string') planned.left[fate]++
    else if (planned.offsets.size >= limit) planned.left.limit++
    else {
      planned.offsets.add(offset)
      planned.wanted[fate.code] = (planned.wanted[fate.code] ?? 0) + 1
    }
  }
  return planned
}

/** Of a letter that has no mark. */
function fateOf(record: LogRecord, filter: RedriveFilter): LeftBehind | { code: string } {
  const { code = 'unknown', cut } = record.headers
  const { key = record.key, since = 0 } = filter
  if ((filter.code ?? code) !== code || key !== record.key || record.timestamp < since) {
    return 'otherwise'
  }
  if (cut !== undefined || code === 'BATCH_UNREADABLE') return 'unsound'
  return triesOf(record) >= filter.triesMax ? 'tries' : { code }
}

function triesOf({ headers }: LogRecord): number {
  return Number.parseInt(headers.tries ?? '0', 10) || 0
}

type Sending = RedriveOptions & { consumer: Consumer; epoch: number; planned: Planned }

/** False where another process has redriven meanwhile: the plan is out of date. */
async function send(log: Log, config: Config, sending: Sending): Promise<boolean> {
  const { planned, rate } = sending
  if (planned.offsets.size === 0) return true
  const started = performance.now()
  let sent = 0
  for await (const letters of chunksOf(log, config, planned.offsets, rate)) {
    await setTimeout(Math.max(0, started + (1000 * sent) / rate - performance.now()))
    if (!(await sendChunk(config, sending, letters))) return false
    sent += letters.length
    sending.onSent(letters.length)
  }
  return true
}

async function* chunksOf(
  log: Log,
  config: Config,
  offsets: ReadonlySet<number>,
  rate: number,
): AsyncGenerator<LogRecord[]> {
  const lettersMax = Math.max(1, Math.min(CHUNK_LETTERS, Math.floor(rate)))
  let letters: LogRecord[] = []
  let bytes = 0
  const [from = 0] = offsets
  for await (const record of log.read(config.log.topics.deadLetters, { from })) {
    if (!offsets.has(record.offset)) continue
    letters.push(record)
    bytes += record.value?.length ?? 0
    if (letters.length < lettersMax && bytes < CHUNK_BYTES) continue
    yield letters
    letters = []
    bytes = 0
  }
  if (letters.length > 0) yield letters
}

async function sendChunk(
  config: Config,
  { consumer, epoch }: Sending,
  letters: readonly LogRecord[],
): Promise<boolean> {
  const moved = await consumer.poll({ recordsMax: 1, waitMsMax: POLL_MS_MAX })
  if (consumer.epoch !== epoch || moved.length === 0) return false
  const positions = positionsAfter(moved)
  const outputs = letters.map(letter => redriven(letter, config.log.topics.examples))
  const mark: z.infer<typeof Mark> = {
    v: 1,
    redriven: letters.map(({ offset }) => offset),
    position: positions[0]!.offset,
  }
  outputs.push({
    topic: config.log.topics.deadLetters,
    key: null,
    value: Buffer.from(JSON.stringify(mark)),
    partition: 0,
    headers: { [REDRIVE_MARK]: String(letters.length) },
  })
  try {
    await consumer.commit({ positions, outputs })
    return true
  } catch (error) {
    if (refusedPlaces(error) === undefined) throw error
    return false
  }
}

/** The letter's bytes and headers as they came, with their first place and the count of redrives. */
function redriven(letter: LogRecord, topic: string): OutRecord {
  const { key, value } = letter
  const origin = letter.headers.origin ?? letter.headers.source
  const { headers, rawHeaders } = restoredHeaders(letter)
  const tries = String(triesOf(letter) + 1)
  const own = { ...(origin === undefined ? {} : { origin }), tries }
  return { topic, key, value, headers: { ...headers, ...own }, rawHeaders }
}
