/**
 * The process that reads the log for the dashboard and answers its API. It is a process of its own with
 * a low priority, so that neither its memory nor its time is the fold's. It follows the log while
 * somebody watches.
 */
import { constants, getPriority, setPriority } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import type { Config } from '../config.ts'
import { messageOf, XmasdError } from '../errors.ts'
import type { ExampleSource } from '../ingest/prepare.ts'
import { openLogToRead } from '../log/open.ts'
import { printable } from '../observe/text.ts'
import type { Cluster } from '../record.ts'
import { Answers } from './answers.ts'
import { Landscape } from './landscape.ts'
import { Model } from './model.ts'
import { paceOf } from './pace.ts'
import { Records, SIDES } from './records.ts'
import { type ApiAnswer, type Frame, failure, jsonAnswer } from './schemas.ts'

/** What the daemon sends. */
export type ToReader =
  | { kind: 'open'; config: Config; source: ExampleSource }
  | { kind: 'ask'; id: number; path: string; query: string; gzip: boolean }
  /** How many pages are open. */
  | { kind: 'watched'; pages: number }

/** What the reader sends. */
export type FromReader =
  | { kind: 'ready' }
  | { kind: 'answer'; id: number; answer: ApiAnswer }
  /** Decisions since the last frame, the newest of them whole; and how far the log is read. */
  | { kind: 'frame'; data: string }

const FRAME_DECISIONS_MAX = 24
const GZIP_BYTES_MIN = 1_400
const PICTURE_MAX_AGE = 3_600
/** From the first catching up on: before, somebody waits for a page. */
const NICER = 5

const compressed = promisify(gzip)

async function open(config: Config, source: ExampleSource): Promise<void> {
  const log = await openLogToRead(config.log)
  const model = new Model(log, config)
  const records = new Records(log, config.log.topics.examples, source, model)
  const answers = new Answers(log, config, model, records)
  const api = createApi(answers, new Landscape(model, answers), records, model)
  let pages = 0
  let stepping: Promise<boolean> | undefined
  const step = (most?: number): Promise<boolean> => {
    stepping ??= model.step(most).finally(() => {
      stepping = undefined
    })
    return stepping
  }
  process.on('message', (message: ToReader) => {
    if (message.kind === 'watched') pages = message.pages
    if (message.kind !== 'ask') return
    // Without an open page nothing follows the log: a question alone is answered from its end.
    const fresh = pages > 0 ? Promise.resolve() : catchUp(step)
    void fresh.then(() => answerTo(message, api)).catch(fail)
  })
  send({ kind: 'ready' })
  let shown = -1
  let sent = { version: -1, progress: -1, atMs: Number.NEGATIVE_INFINITY }
  let isLowered = false
  for (;;) {
    if (model.isCaughtUp && !isLowered) {
      isLowered = true
      lowerPriority()
    }
    const started = performance.now()
    if (pages > 0) await step(paceOf(model).records)
    const { version, progress } = model
    const isNews = version !== sent.version || progress !== sent.progress
    if (pages > 0 && isNews && started - sent.atMs >= paceOf(model).frameMs) {
      const fresh = model.isCaughtUp ? model.recent.filter(({ offset }) => offset > shown) : []
      await sendFrame(answers, model, fresh, shown)
      shown = fresh.at(-1)?.offset ?? shown
      sent = { version, progress, atMs: started }
    }
    await sleep(paceOf(model).restMs(performance.now() - started))
  }
}

function lowerPriority(): void {
  try {
    setPriority(Math.min(constants.priority.PRIORITY_LOW, getPriority() + NICER))
  } catch {
    // A system that refuses it leaves the reader the priority of the daemon.
  }
}

const CATCH_UP_MS_MAX = 5_000

async function catchUp(step: () => Promise<boolean>): Promise<void> {
  const started = performance.now()
  while ((await step()) && performance.now() - started < CATCH_UP_MS_MAX);
}

async function sendFrame(
  answers: Answers,
  model: Model,
  fresh: Model['recent'],
  shown: number,
): Promise<void> {
  const newest = fresh.slice(-FRAME_DECISIONS_MAX)
  const { progress, isCaughtUp, version } = model
  const left = shown < 0 ? 0 : fresh.length - newest.length
  const frame: Frame = {
    v: 1,
    decisions: await answers.shown(newest),
    left,
    progress,
    isCaughtUp,
    version,
  }
  send({ kind: 'frame', data: JSON.stringify(frame) })
}

type Api = (path: string, query: URLSearchParams) => Promise<ApiAnswer | object | undefined>

function createApi(answers: Answers, landscape: Landscape, records: Records, model: Model): Api {
  return async (path, query) => {
    const [, name, argument] = /^\/([a-z-]+)(?:\/(.*))?$/.exec(path) ?? []
    const from = numberIn(query, 'from', 0)
    const before = numberIn(query, 'before', Number.MAX_SAFE_INTEGER)
    const count = numberIn(query, 'count', 60)
    if (argument === undefined) {
      if (name === 'clusters') return answers.clusters()
      if (name === 'decisions') return answers.decisions(before, count)
      if (name === 'dead-letters') return answers.deadLetters(query.get('code'), before)
      if (name === 'map') return landscape.map(numberIn(query, 'after', -1))
      if (name === 'drift') return landscape.drift()
      if (name === 'shadow') return landscape.shadow()
      if (name === 'examples') return examplesOf(answers, query)
      return undefined
    }
    const wanted = decodeURIComponent(argument)
    if (name === 'examples') return answers.example(wanted)
    if (name === 'pictures') return pictureOf(records, model, wanted, query)
    const cluster = clusterIn(wanted)
    if (name === 'clusters' && cluster !== undefined) return answers.gallery(cluster, from, count)
    return undefined
  }
}

const SELECTED_MAX = 120

async function examplesOf(answers: Answers, query: URLSearchParams): Promise<object | undefined> {
  const text = query.get('q')?.trim().slice(0, 500) ?? ''
  if (text !== '') return answers.search(text)
  const keys = query.getAll('key').slice(0, SELECTED_MAX)
  if (keys.length > 0) return { v: 1, rows: await answers.rowsOf(keys) }
  const rows = (query.get('rows') ?? '').split(',').slice(0, SELECTED_MAX)
  if (!rows.every(row => /^\d{1,9}$/.test(row))) return undefined
  return { v: 1, rows: await answers.rows(rows.map(Number)) }
}

async function pictureOf(records: Records, model: Model, key: string, query: URLSearchParams) {
  const row = model.columns.rowOf(key)
  if (row < 0) return undefined
  const side = SIDES.find(one => one >= numberIn(query, 'side', 0)) ?? SIDES.at(-1)!
  const body = await records.picture(row, numberIn(query, 'n', 0), side)
  return { status: 200, type: 'image/webp', body, maxAge: PICTURE_MAX_AGE }
}

function numberIn(query: URLSearchParams, name: string, otherwise: number): number {
  const value = Number(query.get(name) ?? otherwise)
  return Number.isSafeInteger(value) && value >= 0 ? value : otherwise
}

function clusterIn(text: string): Cluster | undefined {
  if (text === 'text') return text
  return /^\d{1,9}$/.test(text) ? Number(text) : undefined
}

async function answerTo(ask: Extract<ToReader, { kind: 'ask' }>, api: Api): Promise<void> {
  const answer = await api(ask.path, new URLSearchParams(ask.query)).then(
    found => found ?? failure(404, 'NOT_FOUND', 'there is nothing of this name'),
    error => {
      const code = error instanceof XmasdError ? error.code : 'INTERNAL'
      return failure(error instanceof XmasdError ? 404 : 500, code, messageOf(error))
    },
  )
  send({ kind: 'answer', id: ask.id, answer: await encoded(answer, ask.gzip) })
}

async function encoded(found: ApiAnswer | object, mayGzip: boolean): Promise<ApiAnswer> {
  const answer = 'body' in found ? (found as ApiAnswer) : jsonAnswer(200, found)
  if (!mayGzip || answer.type !== 'application/json' || answer.body.length < GZIP_BYTES_MIN)
    return answer
  return { ...answer, body: await compressed(answer.body, { level: 1 }), isGzip: true }
}

function send(message: FromReader): void {
  process.send?.(message)
}

/** The daemon starts another one. */
function fail(error: unknown): void {
  process.stderr.write(`xmasd dashboard: ${printable(messageOf(error))}\n`)
  process.exit(1)
}

// The daemon is gone.
process.once('disconnect', () => process.exit(0))
process.once('message', (message: ToReader) => {
  if (message.kind !== 'open') return
  open(message.config, message.source).catch(fail)
})
