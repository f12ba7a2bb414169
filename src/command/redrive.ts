/** `redrive`: dead letters -> the `examples` topic again, each at most once. */
import { Command, InvalidArgumentError } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { ERROR_CODES, EXAMPLE_CODES } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { startProgress } from '../observe/progress.ts'
import { planRedrive, type RedriveFilter, type RedrivePlan, redrive } from '../role/redrive.ts'
import { positiveInteger, print, withLog } from './helpers/options.ts'

const TRIES = 3
const RATE = 100

type Options = {
  code?: string
  key?: string
  since?: number
  limit?: number
  tries: number
  rate: number
  dryRun?: boolean
  config?: string
  json?: boolean
}

export function command(): Command {
  return new Command('redrive')
    .description('Send dead letters back to the examples topic, each at most once.')
    .option('--code <code>', 'only those with this error code (docs/errors.md)', errorCode)
    .option('--key <key>', 'only the record with this key')
    .option('--since <time>', 'only later ones: an ISO date, or an age such as 90m, 6h, 7d', time)
    .option('--limit <n>', 'at most n of them', positiveInteger)
    .option('--tries <n>', 'how often one record is sent again', positiveInteger, TRIES)
    .option('--rate <n>', 'records a second', positiveInteger, RATE)
    .option('--dry-run', 'only say what it would do')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action(run)
}

function errorCode(text: string): string {
  if ((ERROR_CODES as readonly string[]).includes(text)) return text
  throw new InvalidArgumentError(`Dead letters have one of ${EXAMPLE_CODES.join(', ')}.`)
}

const UNITS_MS: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Milliseconds since the epoch. */
function time(text: string): number {
  const [, count, unit] = /^(\d+)([smhd])$/.exec(text) ?? []
  const at = unit === undefined ? Date.parse(text) : Date.now() - Number(count) * UNITS_MS[unit]!
  if (Number.isFinite(at)) return at
  throw new InvalidArgumentError('It must be an ISO date, or an age such as 90m, 6h, 7d.')
}

async function run(options: Options): Promise<void> {
  const config = loadConfig(options.config)
  const { code, key, since, limit, tries } = options
  const filter: RedriveFilter = { code, key, since, limit, triesMax: tries }
  if (options.dryRun === true) {
    const plan = await withLog(config, log => planRedrive(log, config, filter))
    print(options, { ...plan, sent: 0 }, described(plan, config, options))
    return
  }
  await withLog(config, log => send(log, config, filter, options), { write: true })
}

async function send(
  log: Log,
  config: Config,
  filter: RedriveFilter,
  options: Options,
): Promise<void> {
  let plan: RedrivePlan | undefined
  let progress: ReturnType<typeof startProgress> | undefined
  const sent = await redrive(log, config, {
    filter,
    rate: options.rate,
    onPlan: found => {
      plan ??= found
      progress?.stop()
      if (options.json !== true) print(options, {}, described(found, config, options))
      progress = startProgress('redriven', count(found))
    },
    onSent: letters => progress?.update(letters),
  })
  progress?.stop()
  const { topics } = config.log
  print(options, { ...plan, sent }, [`${sent} redriven to ${topics.examples}`])
}

function count({ wanted }: RedrivePlan): number {
  return Object.values(wanted).reduce((sum, letters) => sum + letters, 0)
}

function described(plan: RedrivePlan, config: Config, { tries, rate }: Options): string[] {
  const { letters, wanted, left } = plan
  const why: Record<keyof typeof left, string> = {
    redriven: 'redriven before',
    otherwise: 'not asked for',
    tries: `redriven ${tries} times already (--tries)`,
    unsound: 'without the whole record: cut, or a batch that cannot be decoded',
    limit: 'beyond --limit',
  }
  const stay = Object.entries(left).filter(([, letters]) => letters > 0)
  return [
    `${letters} dead letters in ${config.log.topics.deadLetters}, ${count(plan)} to redrive at ${rate}/s`,
    ...Object.entries(wanted)
      .sort(([, a], [, b]) => b - a)
      .map(([code, letters]) => `  ${letters} ${code}`),
    ...stay.map(([name, letters]) => `  ${letters} stay: ${why[name as keyof typeof left]}`),
  ]
}
