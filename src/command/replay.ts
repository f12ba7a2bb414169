/** `replay`: what would have been kept under other settings or clusters, and what would change. */
import { Command, Option } from 'commander'
import { checkSameScores } from '../bundle-checks.ts'
import { openBundle } from '../cluster/bundle.ts'
import { buildIndex } from '../cluster/hnsw.ts'
import { fetchBundle } from '../cluster/published.ts'
import { SIGNATURES, type Signature, signatureOf } from '../cluster/signature.ts'
import { type Config, loadConfig } from '../config.ts'
import type { Log } from '../log/log.ts'
import { balanceOf } from '../observe/balance.ts'
import { type Parts, partsText, policyPart } from '../observe/parts.ts'
import { startProgress } from '../observe/progress.ts'
import { openLogToRead } from '../open-log.ts'
import type { Assignment, Cluster } from '../record.ts'
import { readSubset } from '../report/history.ts'
import { type Reign, readReigns } from '../report/reigns.ts'
import { type Replayed, type ReplayOptions, replay } from '../report/replay.ts'
import { ClustersInForce, fetchNearness } from '../role/clusters-in-force.ts'
import { NearDuplicates } from '../select/near-duplicates.ts'
import { POLICIES, type PolicyName } from '../select/policy.ts'
import { type Budget, batchQuotas, budgetOf } from '../select/quotas.ts'
import { fitWithProgress } from './fit.ts'
import { historyOf, readAssigned } from './fit-source.ts'
import { writeJsonArray } from './json-array.ts'
import { percent, positiveInteger } from './options.ts'

type Options = {
  config?: string
  policy?: PolicyName
  horizon?: number
  percent?: number
  budgetExamples?: number
  bundle?: string
  signature?: Signature
  clusters?: number
  out?: string
  json?: boolean
}

export function replayCommand(): Command {
  return new Command('replay')
    .description('Fold the assignments again under other settings: what would have been kept?')
    .addOption(
      new Option('--policy <name>', 'how decisions are made (default: as configured)').choices(
        POLICIES,
      ),
    )
    .option(
      '--horizon <examples>',
      'select.horizonExamples of final decisions (default: as configured)',
      positiveInteger,
    )
    .option('--percent <p>', 'share of the examples to keep (default: as configured)', percent)
    .addOption(
      new Option('--budget-examples <n>', 'a number of examples to keep, in place of the percent')
        .argParser(positiveInteger)
        .conflicts('percent'),
    )
    .option('--bundle <dir>', 'clusters of this bundle (default: of the one in force)')
    .addOption(
      new Option('--signature <name>', 'new clusters, fitted to this signature here and now')
        .choices(SIGNATURES)
        .conflicts('bundle'),
    )
    .option('--clusters <k>', 'how many, with --signature (default: as in force)', positiveInteger)
    .option('--out <file>', 'write the keys that would be kept, a JSON array')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action(async (options: Options, command: Command) => {
      if (options.clusters !== undefined && options.signature === undefined) {
        command.error("error: '--clusters <k>' fits new ones: give '--signature <name>' with it")
      }
      await replayed(options)
    })
}

async function replayed(options: Options): Promise<void> {
  const config = loadConfig(options.config, process.env, {
    'select.policy': options.policy,
    'select.percent': options.percent,
    'select.horizonExamples': options.horizon,
    // A percent is asked for in place of the number that is configured.
    'select.budgetExamples': options.percent === undefined ? options.budgetExamples : null,
  })
  const log = await openLogToRead(config)
  try {
    const topic = config.log.topics.assignments
    const { policy, percent, budgetExamples = null } = config.select
    const reigns = await readReigns(log, config)
    const clusters = await clustersOf(log, config, reigns, options)
    const progress = startProgress('replay', (await log.ends(topic))[0])
    const found = await replay(log, {
      topic,
      // A subset does not depend on when it was settled before.
      settings: { ...config.select, settleEvery: Number.MAX_SAFE_INTEGER },
      ...clusters,
      near: await nearDuplicatesOf(log, config, reigns[0]),
      onProgress: offset => progress.update(offset),
    })
    progress.stop()
    if (options.out !== undefined) {
      await writeJsonArray(
        options.out,
        found.kept.map(({ key }) => JSON.stringify(key)),
      )
    }
    const comparison = compare(found, await readSubset(log, config), config.select)
    const asked = { percent: budgetExamples === null ? percent : null, budgetExamples }
    process.stdout.write(
      options.json === true
        ? `${JSON.stringify({ v: 1, policy, ...asked, ...comparison })}\n`
        : describe(config, comparison),
    )
  } finally {
    await log.close()
  }
}

/** As the select role finds them: by what the first bundle has learned. */
async function nearDuplicatesOf(
  log: Log,
  config: Config,
  first: Reign | undefined,
): Promise<NearDuplicates | undefined> {
  const { enabled, exemplarsMax } = config.select.nearDuplicates
  if (!enabled || first === undefined) return undefined
  const near = new NearDuplicates({ exemplarsMax })
  near.learn(await fetchNearness(log, config.log.topics.bundles, first.bundle))
  return near
}

type Clusters = Pick<ReplayOptions, 'seen' | 'beginning'>

async function clustersOf(
  log: Log,
  config: Config,
  reigns: readonly Reign[],
  options: Options,
): Promise<Clusters> {
  const inForce = reigns.at(-1)?.bundle
  if (options.signature !== undefined) {
    const wanted = options.clusters ?? (await clustersOfBundle(log, config, inForce))
    return fittedHere(log, config, options.signature, wanted)
  }
  const clusters = new ClustersInForce(log, config.log.topics.bundles)
  const given = options.bundle === undefined ? undefined : await openBundle(options.bundle)
  if (given !== undefined) {
    if (inForce !== undefined) {
      checkSameScores(await fetchBundle(log, config.log.topics.bundles, inForce), given)
    }
    clusters.add(given)
  }
  const id = given?.id ?? inForce
  // As after a swap, where another one has been in force.
  const isFirst = reigns.every(({ bundle }) => bundle === id)
  return {
    seen: (record, value) => (id === undefined ? value : clusters.of(record, value, id)),
    beginning: first => clusters.beginning(id ?? first.bundle, { isFirst }),
  }
}

/** K-means over the whole history, as `fit` does it with seed 0. */
async function fittedHere(
  log: Log,
  config: Config,
  signature: Signature,
  wanted: number,
): Promise<Clusters> {
  const source = await readAssigned(log, config, { signatures: [signature] })
  const points = historyOf(source, signature).signatures.get(signature)!
  const { centroids, standardisation } = fitWithProgress(points, {
    signature,
    clusters: wanted,
    seed: 0,
  })
  const index = buildIndex(centroids)
  const raw = signatureOf({ signature, standardisation })
  return {
    seen: (record, value) =>
      value.cluster === 'text'
        ? value
        : { ...value, cluster: index.nearest(raw(wholeOf(record.value!))).cluster },
    beginning: () => ({ clusters: centroids.count, textOnly: 0, members: undefined }),
  }
}

async function clustersOfBundle(
  log: Log,
  config: Config,
  inForce: string | undefined,
): Promise<number> {
  if (inForce === undefined) return (await openBundle(config.bundle)).manifest.clusters
  return (await fetchBundle(log, config.log.topics.bundles, inForce)).manifest.clusters
}

function wholeOf(value: Uint8Array): Assignment {
  return JSON.parse(Buffer.from(value).toString()) as Assignment
}

type Comparison = {
  /** N, and how many of them are kept: the baseline's too, none of the control arm's. */
  examples: number
  kept: number
  budget: number
  parts: Parts
  duplicates: number
  /** Of the kept ones that have one. */
  meanInstability: number | null
  balance: number
  clusters: { used: number; largest: { cluster: Cluster; size: number; quota: number } | null }
  /** Against what is kept now of what came, the control arm's too. */
  today: { kept: number; both: number; onlyToday: number; onlyReplayed: number; jaccard: number }
}

function compare(found: Replayed, today: Set<string>, select: Budget): Comparison {
  const { parts, duplicates, kept, clusters } = found
  const both = kept.reduce((sum, { key }) => sum + (today.has(key) ? 1 : 0), 0)
  const either = kept.length + today.size - both
  const steady = kept.filter(({ instability }) => !Number.isNaN(instability))
  const counted = policyPart(parts)
  const budget = budgetOf(select)(counted.examples)
  const ideal = batchQuotas(clusters, budget)
  const quotaOf = new Map(clusters.map(({ cluster, quota }) => [cluster, quota]))
  return {
    ...counted,
    budget,
    parts,
    duplicates,
    meanInstability:
      steady.length === 0
        ? null
        : steady.reduce((sum, { instability }) => sum + instability, 0) / steady.length,
    balance: balanceOf(
      ideal.map(({ cluster }) => quotaOf.get(cluster)!),
      ideal.map(({ taken }) => taken),
    ),
    clusters: {
      used: clusters.length,
      largest: clusters.reduce<Comparison['clusters']['largest']>(
        (most, one) => (one.size > (most?.size ?? 0) ? one : most),
        null,
      ),
    },
    today: {
      kept: today.size,
      both,
      onlyToday: today.size - both,
      onlyReplayed: kept.length - both,
      jaccard: either === 0 ? 1 : both / either,
    },
  }
}

function describe({ select }: Config, found: Comparison): string {
  const { today, clusters } = found
  const { largest } = clusters
  const percent = select.budgetExamples === undefined ? `${select.percent} %, ` : ''
  return (
    `${partsText(found.parts, `; policy ${select.policy}, ${percent}budget ${found.budget}`)}\n` +
    `  clusters   ${clusters.used}${largest === null ? '' : `; the largest, ${largest.cluster}, gives ${largest.quota} of ${largest.size}`}; balance ${found.balance.toFixed(4)}\n` +
    `  steadiness mean instability ${found.meanInstability?.toPrecision(5) ?? 'none'}\n` +
    `  duplicates ${found.duplicates}\n` +
    `  today      ${today.kept} kept; ${today.both} in both, ${today.onlyToday} would leave, ${today.onlyReplayed} would come; overlap ${(100 * today.jaccard).toFixed(1)} %\n`
  )
}
