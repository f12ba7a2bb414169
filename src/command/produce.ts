/** `produce`: LLaVA .json/.jsonl -> the `examples` topic. */
import { join, relative, resolve } from 'node:path'
import { Command } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import { countExamples, readExamples } from '../ingest/data.ts'
import type { Log, OutRecord } from '../log/log.ts'
import { startProgress } from '../observe/progress.ts'
import { logPlace, openLog, topicSpecs } from '../open-log.ts'
import { configFlag, positiveInteger } from './options.ts'

const BATCH_RECORDS = 500
const BATCH_BYTES_MAX = 8 * 1024 * 1024

type Options = { data: string; images?: string; config?: string; limit?: number; json?: boolean }

export function produceCommand(): Command {
  return new Command('produce')
    .description('Append the examples of a LLaVA .json or .jsonl file to the examples topic.')
    .requiredOption('--data <file>', 'LLaVA .json (an array) or .jsonl')
    .option(
      '--images <dir>',
      "folder that the image paths are relative to (default: the config's images.root)",
    )
    .option('--config <file>', 'configuration file')
    .option('--limit <n>', 'stop after that many examples', positiveInteger)
    .option('--json', 'report as one JSON document on stdout')
    .action(produce)
}

async function produce(options: Options): Promise<void> {
  const config = loadConfig(options.config)
  const prefix = imagePrefix(config, options.images)
  const log = await openLog(config)
  try {
    await log.ensureTopics(topicSpecs(config))
    const produced = await produceFile(log, config, options, prefix)
    if (produced === 0) {
      const hint = 'give a LLaVA .json or .jsonl file'
      throw new XmasdError('DATA_INVALID', `${options.data} holds no examples`, hint)
    }
    report(options, config, produced)
  } finally {
    await log.close()
  }
}

/** What goes in front of image paths so that they are relative to `images.root`; '' for nothing. */
function imagePrefix(config: Config, images: string | undefined): string {
  if (images === undefined) return ''
  const prefix = relative(config.images.root, resolve(images))
  if (prefix.startsWith('..')) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `--images ${images} lies outside images.root, ${config.images.root}`,
      `the daemon reads images below images.root alone: set it to ${resolve(images)} or above`,
    )
  }
  return prefix
}

async function produceFile(
  log: Log,
  config: Config,
  options: Options,
  prefix: string,
): Promise<number> {
  const { data, limit } = options
  const progress = startProgress('produced', await countExamples(data, limit))
  let produced = 0
  let batch: OutRecord[] = []
  let bytes = 0
  const flush = async (): Promise<void> => {
    await log.append(batch)
    produced += batch.length
    batch = []
    bytes = 0
    progress.update(produced)
  }
  for await (const raw of readExamples(data, limit)) {
    const value = prefix === '' ? raw : withImagePrefix(raw, prefix)
    batch.push({ topic: config.log.topics.examples, key: idOf(raw), value })
    bytes += value.length
    if (batch.length >= BATCH_RECORDS || bytes >= BATCH_BYTES_MAX) await flush()
  }
  if (batch.length > 0) await flush()
  progress.stop()
  return produced
}

/** The record's key is the example's id, so that one id stays in one partition; null where there is none. */
export function idOf(value: Uint8Array): string | null {
  const id = parseLoosely(value)?.id
  return typeof id === 'string' || typeof id === 'number' ? String(id) : null
}

function withImagePrefix(value: Uint8Array, prefix: string): Uint8Array {
  const example = parseLoosely(value)
  const image = example?.image
  const moved = Array.isArray(image)
    ? image.map(one => movedPath(one, prefix))
    : movedPath(image, prefix)
  try {
    const isMoved = JSON.stringify(moved) !== JSON.stringify(image)
    return isMoved ? Buffer.from(JSON.stringify({ ...example, image: moved })) : value
  } catch {
    return value // nested too deep to be written again
  }
}

function movedPath(image: unknown, prefix: string): unknown {
  const isPath = typeof image === 'string' && image !== '' && !/^(data|https?):/i.test(image)
  return isPath ? join(prefix, image) : image
}

/** Broken examples are sent as they are: the daemon gives each its dead letter. */
function parseLoosely(value: Uint8Array): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(value))
    return typeof parsed === 'object' && parsed !== null
      ? (parsed as Record<string, unknown>)
      : undefined
  } catch {
    return undefined
  }
}

function report(options: Options, config: Config, produced: number): void {
  const { topics } = config.log
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ v: 1, produced, topic: topics.examples })}\n`)
    return
  }
  process.stdout.write(
    `${produced} examples appended to ${topics.examples} in ${logPlace(config)}\n`,
  )
  // On a broker daemons are up as a rule, and a second one would be one too many.
  if (config.log.kind === 'kafka') return
  process.stdout.write(`next: xmasd run${configFlag(options)} --until-idle\n`)
}
