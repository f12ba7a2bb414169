/** `bundle`: which clusters are in force, and other ones put in their place while everything runs. */
import { Command, Option } from 'commander'
import { checkSameScores } from '../bundle-checks.ts'
import { type Bundle, openBundle } from '../cluster/bundle.ts'
import {
  type ClusterMap,
  fetchBundle,
  publishBundle,
  publishedIds,
  publishMap,
} from '../cluster/published.ts'
import { type Config, loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { openLog, openLogToRead, topicSpecs } from '../open-log.ts'
import type { Control } from '../record.ts'
import { mapClusters } from '../report/cluster-map.ts'
import { type Reign, readReigns } from '../report/reigns.ts'
import { configFlag } from './options.ts'

type Options = { config?: string; json?: boolean; bundle?: string; to?: string; off?: boolean }

export function bundleCommand(): Command {
  return new Command('bundle')
    .description('See which bundle is in force; put another one in its place, or go back.')
    .addCommand(
      subcommand('list', 'Bundles on the log, which one is in force, since when.', list, true),
    )
    .addCommand(
      subcommand('swap', 'Put another bundle in force, from here in the log on.', swap)
        .option('--bundle <dir>', 'folder that `xmasd fit` wrote')
        .option('--to <id>', 'a bundle that lies on the log already; its first digits will do'),
    )
    .addCommand(
      subcommand('shadow', 'Let another bundle decide beside it, into the topic `shadow`.', shadow)
        .option('--bundle <dir>', 'folder that `xmasd fit` wrote')
        .option('--to <id>', 'a bundle that lies on the log already; its first digits will do')
        .addOption(new Option('--off', 'end it').conflicts(['bundle', 'to'])),
    )
    .addCommand(subcommand('rollback', 'Put the bundle before the last swap in force.', rollback))
}

type Action = (log: Log, config: Config, options: Options) => Promise<void>

function subcommand(name: string, description: string, action: Action, readonly = false): Command {
  return new Command(name)
    .description(description)
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action(async (options: Options) => {
      const config = loadConfig(options.config)
      const log = readonly ? await openLogToRead(config) : await openLog(config)
      try {
        if (!readonly) await log.ensureTopics(topicSpecs(config))
        await action(log, config, options)
      } finally {
        await log.close()
      }
    })
}

async function list(log: Log, config: Config, options: Options): Promise<void> {
  const reigns = await readReigns(log, config)
  const published = [...(await publishedIds(log, config.log.topics.bundles))]
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ v: 1, published, reigns })}\n`)
    return
  }
  if (reigns.length === 0) process.stdout.write('no example has been assigned yet\n')
  for (const [i, { bundle, offset }] of reigns.entries()) {
    const now = i === reigns.length - 1 ? '  in force' : ''
    process.stdout.write(`${bundle}  from offset ${offset}${now}\n`)
  }
  for (const id of published.filter(id => reigns.every(({ bundle }) => bundle !== id))) {
    process.stdout.write(`${id}  published, never in force\n`)
  }
}

async function swap(log: Log, config: Config, options: Options): Promise<void> {
  await putInForce(log, config, options, await wanted(log, config, options))
}

/** The bundle that the flags name. */
async function wanted(log: Log, config: Config, { bundle: dir, to }: Options): Promise<Bundle> {
  if ((dir === undefined) === (to === undefined)) {
    throw new XmasdError(
      'CONFIG_INVALID',
      'it takes one of --bundle DIR and --to ID',
      '`xmasd bundle list` shows what lies on the log',
    )
  }
  if (dir !== undefined) return openBundle(dir)
  const { bundles } = config.log.topics
  return fetchBundle(log, bundles, await wholeId(log, bundles, to!))
}

/** The one published id that begins with `prefix`; itself where there is none. */
async function wholeId(log: Log, topic: string, prefix: string): Promise<string> {
  const ids = [...(await publishedIds(log, topic))].filter(id => id.startsWith(prefix))
  if (ids.length < 2) return ids[0] ?? prefix
  throw new XmasdError(
    'CONFIG_INVALID',
    `--to ${prefix} fits ${ids.length} bundles: ${ids.join(', ')}`,
    'give more of the id',
  )
}

async function shadow(log: Log, config: Config, options: Options): Promise<void> {
  const bundle = options.off === true ? null : await wanted(log, config, options)
  if (bundle !== null) {
    checkSameScores(await currentBundle(log, config), bundle)
    await publishBundle(log, config.log.topics.bundles, bundle)
  }
  await appendControl(log, config, { v: 1, control: 'shadow', bundle: bundle?.id ?? null })
  const document = { v: 1, shadow: bundle?.id ?? null }
  process.stdout.write(
    options.json === true
      ? `${JSON.stringify(document)}\n`
      : bundle === null
        ? 'no bundle decides beside the one in force from here on\n'
        : `${bundle.id} decides beside the one in force from here on, into ${config.log.topics.shadow}\n`,
  )
}

async function appendControl(log: Log, config: Config, control: Control): Promise<void> {
  const value = Buffer.from(JSON.stringify(control))
  const topic = config.log.topics.assignments
  await log.append([{ topic, key: null, value, partition: 0 }])
}

async function rollback(log: Log, config: Config, options: Options): Promise<void> {
  const before = (await readReigns(log, config)).at(-2)
  if (before === undefined) {
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      'there has been no swap that could be taken back',
      '`xmasd bundle list` shows what was in force when',
    )
  }
  const next = await fetchBundle(log, config.log.topics.bundles, before.bundle)
  await putInForce(log, config, options, next)
}

/** The swap itself is one record of `assignments`; bundle and cluster map are published before it. */
async function putInForce(log: Log, config: Config, options: Options, next: Bundle): Promise<void> {
  const { bundles } = config.log.topics
  const current = await currentBundle(log, config)
  if (next.id === current.id) {
    const { offset } = (await readReigns(log, config)).at(-1)!
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      `bundle ${next.id} is in force already, since offset ${offset} of ${config.log.topics.assignments}`,
      'name another one: `xmasd bundle list` shows those on the log',
    )
  }
  checkSameScores(current, next)
  const map = await mapClusters(log, config, current, next)
  await publishBundle(log, bundles, next)
  await publishMap(log, bundles, map)
  await appendControl(log, config, { v: 1, control: 'swap', bundle: next.id })
  report(options, map)
}

async function currentBundle(log: Log, config: Config): Promise<Bundle> {
  const current: Reign | undefined = (await readReigns(log, config)).at(-1)
  if (current !== undefined) return fetchBundle(log, config.log.topics.bundles, current.bundle)
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    'no example has been assigned yet: there is nothing to swap',
    'set `bundle` in the configuration to the folder of the one you want and start the daemon',
  )
}

function report(options: Options, map: ClusterMap): void {
  const examples = map.clusters.reduce((sum, row) => sum + row.examples, 0)
  const total = map.clusters.reduce((sum, row) => sum + row.examples / row.share, 0)
  const stay = total === 0 ? 1 : examples / total
  if (options.json === true) {
    const { from, to, clusters } = map
    process.stdout.write(`${JSON.stringify({ v: 1, from, to, stay, clusters: clusters.length })}\n`)
    return
  }
  process.stdout.write(
    `${map.to} is in force from here on, in place of ${map.from}\n` +
      `  ${(100 * stay).toFixed(1)} % of the examples go where most of their cluster goes\n` +
      `back again: xmasd bundle rollback${configFlag(options)}\n`,
  )
}
