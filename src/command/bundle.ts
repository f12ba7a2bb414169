/** `bundle`: list, activate, roll back and shadow cluster bundles while the daemon runs. */
import { Command, Option } from 'commander'
import { type Bundle, openBundle } from '../bundle/bundle.ts'
import {
  type ClusterMap,
  fetchBundle,
  publishBundle,
  publishedIds,
  publishMap,
} from '../bundle/publication.ts'
import { type Config, loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import { mapClusters } from '../history/assignments.ts'
import { readBundleEpochs } from '../history/bundle-epochs.ts'
import type { Log } from '../log/log.ts'
import type { Control } from '../record.ts'
import { checkHasSignature, checkProtects, checkSameScores } from '../role/bundle-checks.ts'
import { smallClustersWarning } from '../select/rule/quotas.ts'
import { configFlag, print, warn, withLog } from './helpers/options.ts'

type Options = { config?: string; json?: boolean; bundle?: string; to?: string; off?: boolean }

export function command(): Command {
  return new Command('bundle')
    .description('List, activate, roll back and shadow cluster bundles.')
    .addCommand(subcommand('list', 'List the bundles on the log and when each was active.', list))
    .addCommand(
      named(subcommand('swap', 'Activate another bundle from the end of the log on.', swap, WRITE)),
    )
    .addCommand(
      named(
        subcommand(
          'shadow',
          'Decide by a second bundle too, into the topic shadow.',
          shadow,
          WRITE,
        ),
      ).addOption(new Option('--off', 'end shadowing').conflicts(['bundle', 'to'])),
    )
    .addCommand(
      subcommand('rollback', 'Activate the bundle before the last swap.', rollback, WRITE),
    )
}

type Action = (log: Log, config: Config, options: Options) => Promise<void>

const WRITE = { write: true }

function subcommand(
  name: string,
  description: string,
  action: Action,
  mode: { write?: boolean } = {},
): Command {
  return new Command(name)
    .description(description)
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action((options: Options) => {
      const config = loadConfig(options.config)
      return withLog(config, log => action(log, config, options), mode)
    })
}

/** With the flags that name a bundle. */
function named(command: Command): Command {
  return command
    .option('--bundle <dir>', 'folder that `xmasd fit` wrote')
    .option('--to <id>', 'id of a bundle on the log, or its first digits')
}

async function list(log: Log, config: Config, options: Options): Promise<void> {
  const epochs = await readBundleEpochs(log, config)
  const published = [...(await publishedIds(log, config.log.topics.bundles))]
  const never = published.filter(id => epochs.every(({ bundle }) => bundle !== id))
  print(options, { published, reigns: epochs }, [
    ...(epochs.length === 0 ? ['no example has been assigned yet'] : []),
    ...epochs.map(({ bundle, offset }, i) => {
      return `${bundle}  from offset ${offset}${i === epochs.length - 1 ? '  active' : ''}`
    }),
    ...never.map(id => `${id}  published, never active`),
  ])
}

async function swap(log: Log, config: Config, options: Options): Promise<void> {
  await activate(log, config, options, await bundleNamed(log, config, options))
}

/** The bundle that the flags name. */
async function bundleNamed(log: Log, config: Config, { bundle, to }: Options): Promise<Bundle> {
  if ((bundle === undefined) === (to === undefined)) {
    throw new XmasdError(
      'CONFIG_INVALID',
      bundle === undefined
        ? 'no bundle is named'
        : `both --bundle ${bundle} and --to ${to} are given`,
      'give one of --bundle DIR and --to ID; `xmasd bundle list` shows the ids on the log',
    )
  }
  if (bundle !== undefined) return openBundle(bundle)
  const { bundles } = config.log.topics
  return fetchBundle(log, bundles, await wholeId(log, bundles, to!))
}

/** The one published id that begins with `prefix`; `prefix` where there is none. */
async function wholeId(log: Log, topic: string, prefix: string): Promise<string> {
  const ids = [...(await publishedIds(log, topic))].filter(id => id.startsWith(prefix))
  if (ids.length < 2) return ids[0] ?? prefix
  throw new XmasdError(
    'CONFIG_INVALID',
    `--to ${prefix} fits ${ids.length} bundles: ${ids.join(', ')}`,
    'give more digits of the id',
  )
}

async function shadow(log: Log, config: Config, options: Options): Promise<void> {
  const bundle = options.off === true ? null : await bundleNamed(log, config, options)
  if (bundle !== null) {
    const current = await activeBundle(log, config)
    checkSameScores(current, bundle)
    checkProtects(current, bundle)
    await checkHasSignature(log, config, bundle)
    await publishBundle(log, config.log.topics.bundles, bundle)
  }
  await appendControl(log, config, { v: 1, control: 'shadow', bundle: bundle?.id ?? null })
  print(options, { shadow: bundle?.id ?? null }, [
    bundle === null
      ? 'shadowing ends here: the active bundle decides alone'
      : `${bundle.id} shadows the active bundle from here on; its decisions go to ${config.log.topics.shadow}`,
  ])
}

async function appendControl(log: Log, config: Config, control: Control): Promise<void> {
  const value = Buffer.from(JSON.stringify(control))
  const topic = config.log.topics.assignments
  await log.append([{ topic, key: null, value, partition: 0 }])
}

async function rollback(log: Log, config: Config, options: Options): Promise<void> {
  const before = (await readBundleEpochs(log, config)).at(-2)
  if (before === undefined) {
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      'nothing to roll back: this log has no bundle swap',
      '`xmasd bundle list` shows which bundle was active when',
    )
  }
  const next = await fetchBundle(log, config.log.topics.bundles, before.bundle)
  await activate(log, config, options, next)
}

/** Publishes the bundle and the cluster map, then appends the swap, one record of `assignments`. */
async function activate(log: Log, config: Config, options: Options, next: Bundle): Promise<void> {
  const { bundles } = config.log.topics
  const current = await activeBundle(log, config)
  if (next.id === current.id) {
    const { offset } = (await readBundleEpochs(log, config)).at(-1)!
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      `bundle ${next.id} is already active, since offset ${offset} of ${config.log.topics.assignments}`,
      'name another bundle: `xmasd bundle list` shows those on the log',
    )
  }
  checkSameScores(current, next)
  checkProtects(current, next)
  await checkHasSignature(log, config, next)
  const small = smallClustersWarning(next.manifest.baseline.sizes)
  if (small !== undefined) warn(`bundle ${next.id}: ${small}`)
  const map = await mapClusters(log, config, current, next)
  await publishBundle(log, bundles, next)
  await publishMap(log, bundles, map)
  await appendControl(log, config, { v: 1, control: 'swap', bundle: next.id })
  report(options, map)
}

async function activeBundle(log: Log, config: Config): Promise<Bundle> {
  const active = (await readBundleEpochs(log, config)).at(-1)
  if (active !== undefined) return fetchBundle(log, config.log.topics.bundles, active.bundle)
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    'no example has been assigned yet, so no bundle is active',
    'set `bundle` in the configuration to the folder of the bundle and start the daemon',
  )
}

function report(options: Options, { from, to, clusters }: ClusterMap): void {
  const examples = clusters.reduce((sum, row) => sum + row.examples, 0)
  const total = clusters.reduce((sum, row) => sum + row.examples / row.share, 0)
  const stay = total === 0 ? 1 : examples / total
  print(options, { from, to, stay, clusters: clusters.length }, [
    `${to} is active from here on, in place of ${from}`,
    `  ${(100 * stay).toFixed(1)} % of the examples go where most of their cluster goes`,
    `to go back: xmasd bundle rollback${configFlag(options)}`,
  ])
}
