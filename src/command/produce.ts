/** `produce`: data files -> the `examples` topic; scored examples -> `assignments`. */
import { existsSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { Command, Option } from 'commander'
import { type Bundle, openBundle } from '../bundle/bundle.ts'
import { type Config, loadConfig } from '../config.ts'
import { daemonOn } from '../daemon/local-folder.ts'
import { XmasdError } from '../errors.ts'
import { checkScoredFile, removeAssigned, scoredExamples } from '../history/scored-file.ts'
import { readExamples } from '../ingest/data/read.ts'
import { parsedOr, withField } from '../ingest/form/bytes.ts'
import { idIn } from '../ingest/form/decode.ts'
import { isNothing, isObject, type Json } from '../ingest/form/json.ts'
import { isScoredLine, SCORED_HINT } from '../ingest/form/turns.ts'
import type { Log, OutRecord } from '../log/log.ts'
import { logPlace } from '../log/open.ts'
import { startProgress } from '../observe/progress.ts'
import { checkBundleContinues } from '../role/bundle-checks.ts'
import { chunks } from './export.ts'
import {
  configFlag,
  DATA_HELP,
  FileNotes,
  positiveInteger,
  print,
  withLog,
} from './helpers/options.ts'

const BATCH_RECORDS = 500
const BATCH_BYTES_MAX = 8 * 1024 * 1024

type Options = { images?: string; config?: string; limit?: number; json?: boolean }
type Given = Options & { data?: string[]; trajectories?: string }

export function command(): Command {
  return new Command('produce')
    .description('Append the examples of data files to the examples topic.')
    .option('--data <files...>', DATA_HELP)
    .addOption(
      new Option(
        '--trajectories <file>',
        'JSON lines that `xmasd score` wrote: they go to the assignments topic and are not scored again',
      ).conflicts(['data', 'images', 'limit']),
    )
    .option('--images <dir>', 'folder that the image paths are relative to (default: images.root)')
    .option('--config <file>', 'configuration file')
    .option('--limit <n>', 'stop after n examples', positiveInteger)
    .option('--json', 'one JSON document on stdout')
    .action(async ({ data, trajectories, ...options }: Given, command: Command) => {
      if (trajectories !== undefined) return produceScored({ ...options, trajectories })
      if (data !== undefined) return produce({ ...options, data })
      command.error("error: give '--data <file>' or '--trajectories <file>'")
    })
}

async function produce(options: Options & { data: string[] }): Promise<void> {
  const config = loadConfig(options.config)
  const prefix = imagePrefix(config, options.images)
  const notes = new FileNotes()
  const send = (log: Log): Promise<number> =>
    produceFile(log, config, { ...options, notes }, prefix)
  const produced = await withLog(config, send, { write: true })
  if (produced === 0) {
    const hint = 'give a file in a form of docs/data.md'
    throw new XmasdError(
      'DATA_INVALID',
      `${options.data.join(', ')} holds no examples${notes.said()}`,
      hint,
    )
  }
  const topic = config.log.topics.examples
  print(options, { produced, leftOut: notes.leftOut, topic }, [
    `${produced} examples appended to ${topic} in ${logPlace(config.log)}${notes.said()}`,
    ...nextSteps(config, options),
  ])
}

/** A second daemon is never advised. On a broker one usually runs already. */
function nextSteps({ log }: Config, options: Options): string[] {
  if (log.kind === 'kafka') return []
  const pid = daemonOn(log.path)
  return pid === undefined
    ? [`next: xmasd run${configFlag(options)} --until-idle`]
    : [`the daemon with process id ${pid} reads them`]
}

async function produceScored(options: Options & { trajectories: string }): Promise<void> {
  const config = loadConfig(options.config)
  const { trajectories: file } = options
  const bundle = await openBundle(config.bundle)
  const counts = await withLog(
    config,
    async log => {
      await checkScoredFile(log, config, file, bundle)
      await checkBundleContinues(log, config, bundle)
      return appendScored(log, config, file, bundle)
    },
    { write: true },
  )
  const topic = config.log.topics.assignments
  const { produced, known, failed } = counts
  print(options, { ...counts, topic }, [
    `${produced} scored examples appended to ${topic} in ${logPlace(config.log)}`,
    `  left out  ${known} that it holds already, ${failed} failed`,
    ...nextSteps(config, options),
  ])
}

/** Reads the file twice: nothing is appended where a line is broken. */
async function appendScored(log: Log, config: Config, file: string, bundle: Bundle) {
  const counts = { produced: 0, known: 0, failed: 0 }
  const keys = new Set<string>()
  for await (const { key } of scoredExamples(file, bundle, () => counts.failed++)) keys.add(key)
  const all = keys.size
  await removeAssigned(log, config, keys)
  const progress = startProgress('produced', keys.size)
  counts.known = all - keys.size
  const topic = config.log.topics.assignments
  const records = async function* (): AsyncGenerator<OutRecord> {
    for await (const one of scoredExamples(file, bundle)) {
      if (!keys.delete(one.key)) continue
      yield { topic, key: one.key, value: Buffer.from(JSON.stringify(one)), partition: 0 }
    }
  }
  for await (const batch of chunks(records(), BATCH_RECORDS)) {
    await log.append(batch)
    counts.produced += batch.length
    progress.update(counts.produced)
  }
  progress.stop()
  return counts
}

/** What makes image paths relative to `images.root` when it goes in front of them; '' for nothing. */
function imagePrefix(config: Config, images: string | undefined): string {
  if (images === undefined) return ''
  const prefix = relative(config.images.root, resolve(images))
  if (prefix.startsWith('..')) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `--images ${images} lies outside images.root, ${config.images.root}`,
      `the daemon reads images below images.root only: set images.root to ${resolve(images)} or above`,
    )
  }
  return prefix
}

async function produceFile(
  log: Log,
  config: Config,
  options: Options & { data: string[]; notes: FileNotes },
  prefix: string,
): Promise<number> {
  const { data, limit, notes } = options
  const progress = startProgress('produced', limit ?? 'by share')
  let share: number | undefined
  const onShare = (read: number): void => {
    if (limit === undefined) share = read
  }
  let produced = 0
  let batch: OutRecord[] = []
  let bytes = 0
  const flush = async (): Promise<void> => {
    await log.append(batch)
    produced += batch.length
    batch = []
    bytes = 0
    progress.update(produced, undefined, share)
  }
  for await (const raw of readExamples(data, limit, notes.add, onShare)) {
    if (produced === 0 && batch.length === 0) checkNotScored(raw, data)
    const value = prefix === '' ? raw : withImagePrefix(raw, prefix, config)
    batch.push({
      topic: config.log.topics.examples,
      key: idIn(raw, config.data.fields) ?? null,
      value,
    })
    bytes += value.length
    if (batch.length >= BATCH_RECORDS || bytes >= BATCH_BYTES_MAX) await flush()
  }
  if (batch.length > 0) await flush()
  progress.stop()
  return produced
}

/** Throws DATA_INVALID for what `score` wrote: without turns every line would be a dead letter. */
function checkNotScored(first: Uint8Array, data: readonly string[]): void {
  const record = parsedOr(Buffer.from(first).toString())
  if (!isObject(record) || !isScoredLine(record)) return
  throw new XmasdError(
    'DATA_INVALID',
    `${data.join(', ')} holds scores and no conversations`,
    SCORED_HINT,
  )
}

const PICTURE_FIELDS: readonly string[] = ['image', 'images']
const TURN_FIELDS: readonly string[] = [
  'messages',
  'conversations',
  'prompt',
  'completion',
  'chosen',
]

type Move = (path: string) => string

/** The example with its image paths moved; all other bytes pass untouched. */
function withImagePrefix(value: Uint8Array, prefix: string, { images, data }: Config): Uint8Array {
  const record = parsedOr(Buffer.from(value).toString())
  if (!isObject(record)) return value
  const { columns } = data.fields
  const pictures = [...PICTURE_FIELDS, columns.images ?? 'images']
  const turns = [...TURN_FIELDS, columns.messages ?? 'messages']
  const move: Move = path => movedPath(path, prefix, images.root)
  let moved = value
  for (const name of new Set([...pictures, ...turns])) {
    const moveIn = pictures.includes(name) ? movedPicture : movedTurn
    const json = changed(record[name], field => moveIn(field, move))
    if (json !== undefined) moved = withField(moved, name, json)
  }
  return moved
}

/** The JSON of a field where `change` changes it. Undefined where it is nested too deep for JSON, too. */
function changed(field: unknown, change: (field: unknown) => unknown): string | undefined {
  try {
    const json = JSON.stringify(change(field))
    return json === JSON.stringify(field) ? undefined : json
  } catch {
    return undefined
  }
}

/** A path, `{"path"}` or `{"url"}` without bytes, or a list of them. */
function movedPicture(picture: unknown, move: Move): unknown {
  if (typeof picture === 'string') return move(picture)
  if (Array.isArray(picture)) return picture.map(one => movedPicture(one, move))
  if (!isObject(picture) || !isNothing(picture.bytes)) return picture
  return withMoved(picture, ['path', 'url'], move)
}

/** A turn, or a list of them, whose content has parts. */
function movedTurn(turn: unknown, move: Move): unknown {
  if (Array.isArray(turn)) return turn.map(one => movedTurn(one, move))
  if (!isObject(turn)) return turn
  const { content } = turn
  if (!Array.isArray(content)) return turn
  const parts = content.map(part =>
    isObject(part) && part.type !== 'text'
      ? withMoved(part, ['image', 'image_url', 'url', 'path', 'value'], move)
      : part,
  )
  return { ...turn, content: parts }
}

function withMoved(fields: Json, names: readonly string[], move: Move): Json {
  const named = names.filter(name => fields[name] !== undefined)
  const moved = named.map(name => [name, movedPicture(fields[name], move)])
  return { ...fields, ...Object.fromEntries(moved) }
}

/** Paths that begin with the folder already are left as they are, and so are URLs. */
function movedPath(image: string, prefix: string, root: string): string {
  if (image === '' || /^[a-z][a-z0-9+.-]+:/i.test(image)) return image
  const moved = join(prefix, image)
  const isThere = !existsSync(join(root, moved)) && existsSync(join(root, image))
  return isThere ? image : moved
}
