/** What commands share: parsers of flags, an open log, what they print. */
import { InvalidArgumentError, Option } from 'commander'
import type { Config, Flags, Overrides } from '../../config.ts'
import { ROLES, type Role } from '../../daemon/gauges.ts'
import { XmasdError } from '../../errors.ts'
import type { Log } from '../../log/log.ts'
import { openLog, openLogToRead, topicSpecs } from '../../log/open.ts'
import { printable, printableJson, shellWord } from '../../observe/text.ts'

/** What `--data` takes. */
export const DATA_HELP =
  '.json, .jsonl, .parquet, .tar, plain or .gz or .zst; patterns; - for standard input (docs/data.md)'

/** The `--config` flag for a printed command that runs under the same configuration. */
export function configFlag({ config }: { config?: string }): string {
  return config === undefined ? '' : ` --config ${shellWord(config)}`
}

/** `--roles`; the default is both. */
export function rolesOption(): Option {
  return new Option('--roles <list>', 'score, select or both')
    .argParser(parseRoles)
    .default([...ROLES])
}

function parseRoles(text: string): Role[] {
  const roles = text.split(',').map(role => role.trim())
  const known = roles.filter((role): role is Role => (ROLES as readonly string[]).includes(role))
  if (known.length === roles.length && known.length > 0) return known
  throw new InvalidArgumentError(
    `"${text}": give ${ROLES.join(', ')} or both, separated by a comma`,
  )
}

export function integer(text: string): number {
  const value = Number(text)
  if (/^-?\d+$/.test(text) && Number.isSafeInteger(value)) return value
  throw new InvalidArgumentError('It must be an integer.')
}

export const natural = integerFrom(0)
export const positiveInteger = integerFrom(1)

function integerFrom(least: number): (text: string) => number {
  return text => {
    const value = integer(text)
    if (value >= least) return value
    throw new InvalidArgumentError(`It must be at least ${least}.`)
  }
}

export const positiveNumber = numberWhere(value => value > 0, ' above 0, such as 0.002')
export const percent = numberWhere(value => value >= 0 && value <= 100, ' in 0..100')
export const finiteNumber = numberWhere(() => true, '')

function numberWhere(holds: (value: number) => boolean, which: string): (text: string) => number {
  return text => {
    const value = Number(text)
    if (text.trim() !== '' && Number.isFinite(value) && holds(value)) return value
    throw new InvalidArgumentError(`It must be a number${which}.`)
  }
}

/** Flags that stand for configuration keys, in all commands. */
export const FLAGS: Flags = {
  'images.root': '--images',
  'proxy.path': '--proxy',
  'proxy.base': '--base',
  'proxy.metric': '--metric',
  'proxy.gain': '--gain',
  'proxy.mode': '--mode',
  'proxy.template': '--template',
  'proxy.imagePixels': '--image-pixels',
  'proxy.engine': '--engine',
  'proxy.precision': '--precision',
  'proxy.device': '--device',
  'proxy.workers': '--workers',
  'proxy.threads': '--threads',
  'select.policy': '--policy',
  'select.percent': '--percent',
  'select.budgetExamples': '--budget-examples',
  'select.horizonExamples': '--horizon',
  'select.rank': '--rank',
  'select.gainMin': '--gain-min',
}

/**
 * Runs `use`. In its errors the keys that `overrides` names are called by their flags: the reader of a
 * message knows `--images`, not `images.root`.
 */
export async function inFlags<T>(overrides: Overrides, use: () => Promise<T>): Promise<T> {
  try {
    return await use()
  } catch (error) {
    if (!(error instanceof XmasdError)) throw error
    const { code, message, hint, retryable, cause } = error
    const say = flagNames(overrides)
    throw new XmasdError(code, say(message), say(hint), { retryable, cause })
  }
}

/** Replaces the keys that `overrides` names by their flags. */
export function flagNames(overrides: Overrides): (text: string) => string {
  return text =>
    text.replaceAll(/\b[a-z]+(?:\.[a-zA-Z]+)+\b/g, key =>
      key in overrides ? (FLAGS[key] ?? key) : key,
    )
}

/** The configuration with `--images`, where that is given, in place of images.root. */
export function imagesOverride({ images }: { images?: string }): Overrides {
  return images === undefined ? {} : { 'images.root': images }
}

/**
 * Opens the log that `config` names for `use`, and closes it. Read-only unless `write` is set: then
 * missing topics are made first. Throws LOG_UNAVAILABLE, TOPIC_MISSING; what `use` throws.
 */
export async function withLog<T>(
  config: Pick<Config, 'log'>,
  use: (log: Log) => Promise<T>,
  { write = false } = {},
): Promise<T> {
  const log = write ? await openLog(config.log) : await openLogToRead(config.log)
  try {
    if (write) await log.ensureTopics(topicSpecs(config.log))
    return await use(log)
  } finally {
    await log.close()
  }
}

/**
 * Reports on stdout: one JSON document with `v: 1` where `--json` is set, else `lines` of text.
 */
export function print(
  { json }: { json?: boolean },
  document: object,
  lines: readonly string[],
): void {
  if (json === true) printJson({ v: 1, ...document })
  else process.stdout.write(lines.map(line => `${printable(line)}\n`).join(''))
}

/** One JSON document on a line of stdout; on a terminal without characters that act on it. */
export function printJson(document: object): void {
  const text = JSON.stringify(document)
  process.stdout.write(`${process.stdout.isTTY ? printableJson(text) : text}\n`)
}

/** A line on stderr. */
export function warn(line: string): void {
  process.stderr.write(`xmasd: ${printable(line)}\n`)
}

/** Warns of what data files hold, and counts the records that are left out of them. */
export class FileNotes {
  leftOut = 0

  readonly add = (note: string, leftOut = 0): void => {
    this.leftOut += leftOut
    warn(note)
  }

  /** ", 10 left out of the files"; '' for none. */
  said(): string {
    return this.leftOut === 0 ? '' : `, ${this.leftOut} left out of the files`
  }
}
