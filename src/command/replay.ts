/** `replay`: the subset under other settings or clusters, compared with the current one. */
import { Command, Option } from 'commander'
import { openBundle } from '../bundle/bundle.ts'
import { SIGNATURES, type Signature } from '../bundle/signature.ts'
import { type Config, loadConfig, type Overrides } from '../config.ts'
import { type Comparison, whatIf } from '../history/what-if.ts'
import { startProgress } from '../observe/progress.ts'
import { partsText } from '../observe/segments.ts'
import { POLICIES, type PolicyName } from '../select/rule/policy.ts'
import { RANKS, type Rank } from '../select/rule/rank.ts'
import { fitWithProgress } from './fit.ts'
import {
  FLAGS,
  finiteNumber,
  inFlags,
  percent,
  positiveInteger,
  print,
  withLog,
} from './helpers/options.ts'
import { writeJsonArray } from './helpers/output.ts'

type Options = {
  config?: string
  policy?: PolicyName
  horizon?: number
  percent?: number
  budgetExamples?: number
  rank?: Rank
  gainMin?: number
  bundle?: string
  signature?: Signature
  clusters?: number
  out?: string
  json?: boolean
}

export function command(): Command {
  return new Command('replay')
    .description(
      'Fold the assignments again under other settings and compare the subset with the current one.',
    )
    .addOption(new Option('--policy <name>', 'default: as configured').choices(POLICIES))
    .option('--horizon <n>', 'select.horizonExamples (default: as configured)', positiveInteger)
    .option('--percent <p>', 'share of the examples to keep (default: as configured)', percent)
    .addOption(
      new Option('--budget-examples <n>', 'number of examples to keep, in place of a percent')
        .argParser(positiveInteger)
        .conflicts('percent'),
    )
    .addOption(new Option('--rank <what>', 'select.rank (default: as configured)').choices(RANKS))
    .option('--gain-min <nats>', 'select.gainMin (default: as configured)', finiteNumber)
    .option('--bundle <dir>', 'clusters of this bundle (default: the active one)')
    .addOption(
      new Option('--signature <name>', 'new clusters, fitted to this signature')
        .choices(SIGNATURES)
        .conflicts('bundle'),
    )
    .option('--clusters <k>', 'their number (default: as in the active bundle)', positiveInteger)
    .option('--out <file>', 'write the keys that would be kept, a JSON array')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action(async (options: Options, command: Command) => {
      if (options.clusters !== undefined && options.signature === undefined) {
        command.error(
          "error: '--clusters <k>' fits new clusters: give '--signature <name>' with it",
        )
      }
      const overrides = overridesOf(options)
      await inFlags(overrides, () => replayed(options, overrides))
    })
}

/** Only what is given. --percent replaces a configured number. */
function overridesOf(options: Options): Overrides {
  const { policy, percent, horizon, budgetExamples, rank, gainMin } = options
  return {
    ...(policy === undefined ? {} : { 'select.policy': policy }),
    ...(rank === undefined ? {} : { 'select.rank': rank }),
    ...(gainMin === undefined ? {} : { 'select.gainMin': gainMin }),
    ...(horizon === undefined ? {} : { 'select.horizonExamples': horizon }),
    ...(percent === undefined ? {} : { 'select.percent': percent, 'select.budgetExamples': null }),
    ...(budgetExamples === undefined ? {} : { 'select.budgetExamples': budgetExamples }),
  }
}

async function replayed(options: Options, overrides: Overrides): Promise<void> {
  const config = loadConfig(options.config, process.env, overrides, FLAGS)
  const { policy, percent, budgetExamples = null } = config.select
  const given = options.bundle === undefined ? undefined : await openBundle(options.bundle)
  const { signature, clusters } = options
  const { found, comparison } = await withLog(config, async log => {
    const progress = startProgress('replay', (await log.ends(config.log.topics.assignments))[0])
    const onProgress = (offset: number): void => progress.update(offset)
    const wanted = { bundle: given, signature, clusters }
    const result = await whatIf(log, config, wanted, { onProgress, fit: fitWithProgress })
    progress.stop()
    return result
  })
  if (options.out !== undefined) {
    const keys = found.kept.map(({ key }) => JSON.stringify(key))
    await writeJsonArray(options.out, keys)
  }
  const asked = { percent: budgetExamples === null ? percent : null, budgetExamples }
  print(options, { policy, ...asked, ...comparison }, describe(config, comparison))
}

function describe({ select }: Config, found: Comparison): string[] {
  const { today, clusters } = found
  const { largest } = clusters
  const percent = select.budgetExamples === undefined ? `${select.percent} %, ` : ''
  return [
    partsText(found.parts, `; policy ${select.policy}, ${percent}budget ${found.budget}`),
    `  clusters   ${clusters.used}${largest === null ? '' : `; the largest, ${largest.cluster}, gives ${largest.quota} of ${largest.size}`}; balance ${found.balance.toFixed(4)}`,
    `  steadiness mean instability ${found.meanInstability?.toPrecision(5) ?? 'none'}`,
    `  duplicates ${found.duplicates}`,
    `  today      ${today.kept} kept; ${today.both} in both, ${today.onlyToday} would leave, ${today.onlyReplayed} would come; overlap ${(100 * today.jaccard).toFixed(1)} %`,
  ]
}
