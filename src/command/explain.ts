/** `explain KEY`: why an example is kept or dropped, from the log alone. */
import { Command } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import { type Assigned, activeAssignments, decisionsOf, isOutside } from '../history/assignments.ts'
import { readBaseline, readSelectPosition, type SelectPosition } from '../history/bundle-epochs.ts'
import { because, type Explanation, earlierOf, isSteadier } from '../history/explanation.ts'
import type { Log } from '../log/log.ts'
import type { Cluster, Decision } from '../record.ts'
import { batchQuotas, budgetOf } from '../select/rule/quotas.ts'
import { orderOf, RANK_WORDS, type Rank } from '../select/rule/rank.ts'
import { print, withLog } from './helpers/options.ts'

type Options = { config?: string; json?: boolean }

export function command(): Command {
  return new Command('explain')
    .description('Explain a decision: trajectory, cluster, rank, quota, every decision so far.')
    .argument('<key>', "the example's key, or its id (the first example with that id)")
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action(async (key: string, options: Options) => {
      const config = loadConfig(options.config)
      const explanation = await withLog(config, log => explain(log, config, key))
      print(options, explanation, describe(explanation, config.select.rank))
    })
}

async function explain(log: Log, config: Config, wanted: string): Promise<Explanation> {
  const position = await readSelectPosition(log, config)
  const { outside, misaligned, decisions } = await readDecisions(log, config, wanted)
  const history = await readHistory(log, config, wanted, { outside, position })
  const { assignment, isFolded, isBaseline, sizes, steadier, baselineMisaligned } = history
  const isUnranked = outside.has(assignment.key) || !isFolded
  const total = [...sizes.values()].reduce(
    (sum, size) => sum + size,
    misaligned + baselineMisaligned,
  )
  const quotas = batchQuotas(
    [...sizes].map(([cluster, size]) => ({ cluster, size })),
    budgetOf(config.select)(total),
  )
  const ofKey = decisions.filter(decision => decision.key === assignment.key)
  const arm = ofKey.find(decision => decision.arm !== undefined)?.arm ?? null
  const last = ofKey.at(-1)?.action
  const found = {
    v: 1 as const,
    key: assignment.key,
    keptNow: last === 'keep' || last === 'restore',
    assignment,
    folded: isFolded,
    rank: isUnranked || assignment.instability === null ? null : steadier + 1,
    clusterSize: sizes.get(assignment.cluster) ?? 0,
    quota: quotas.find(({ cluster }) => cluster === assignment.cluster)?.taken ?? 0,
    arm,
    decisions: ofKey,
  }
  return { ...found, because: because(found, config.select, isBaseline) }
}

async function readDecisions(
  log: Log,
  config: Config,
  wanted: string,
): Promise<{ outside: Set<string>; misaligned: number; decisions: Decision[] }> {
  const outside = new Set<string>()
  let misaligned = 0
  const decisions: Decision[] = []
  for await (const { decision } of decisionsOf(log, config)) {
    if (decision.reason === 'misaligned') misaligned++
    if (isOutside(decision)) outside.add(decision.key)
    else if (decision.action === 'restore') outside.delete(decision.key)
    if (decision.key === wanted || decision.id === wanted) decisions.push(decision)
  }
  return { outside, misaligned, decisions }
}

type History = Assigned & {
  /** It is of the bundle's data, which count already. */
  isBaseline: boolean
  sizes: Map<Cluster, number>
  steadier: number
  baselineMisaligned: number
}

/** The assignment asked for, the clusters' sizes, and how many of its cluster are steadier. */
async function readHistory(
  log: Log,
  config: Config,
  wanted: string,
  { outside, position }: { outside: Set<string>; position: SelectPosition },
): Promise<History> {
  const { assignment, isFolded } = await findAssignment(log, config, wanted, position)
  const { clusters, members, misaligned } = await readBaseline(log, config, position)
  const sizes = new Map<Cluster, number>(clusters.map(({ cluster, size }) => [cluster, size]))
  const seen = new Set<string>()
  // The baseline precedes the stream.
  const { cluster, instability, baseline } = assignment
  const order = orderOf(config.select, assignment)
  let steadier = instability === null ? 0 : earlierOf(members, cluster, order, baseline === true)
  const isBaseline = members !== undefined && assignment.baseline === true
  let isBefore = !isBaseline
  for await (const { assignment: other, isFolded } of activeAssignments(log, config, position)) {
    if (!isFolded || outside.has(other.key) || seen.has(other.key)) continue
    seen.add(other.key)
    if (members !== undefined && other.baseline === true) continue
    sizes.set(other.cluster, (sizes.get(other.cluster) ?? 0) + 1)
    if (other.key === assignment.key) isBefore = false
    else if (other.cluster === assignment.cluster)
      steadier += isSteadier(config.select, other, assignment, isBefore)
  }
  return { assignment, isFolded, isBaseline, sizes, steadier, baselineMisaligned: misaligned }
}

async function findAssignment(
  log: Log,
  config: Config,
  wanted: string,
  position: SelectPosition,
): Promise<Assigned> {
  for await (const one of activeAssignments(log, config, position)) {
    if (one.assignment.key === wanted || one.assignment.id === wanted) return one
  }
  throw new XmasdError(
    'KEY_UNKNOWN',
    `no example with the key or id "${wanted}" has been assigned`,
    'keys are <id>@<16 hex digits>; see `xmasd tail dead-letters`, or wait for the backlog',
  )
}

function stateOf({ keptNow, decisions }: Explanation): string {
  return decisions.length === 0 ? 'not decided yet' : keptNow ? 'kept' : 'not kept'
}

function describe(explanation: Explanation, by: Rank): string[] {
  const { assignment, rank, clusterSize, quota, decisions } = explanation
  const { topic, partition, offset } = assignment.source
  const numbers = (values: number[]): string => values.map(x => x.toPrecision(5)).join(' ')
  return [
    `${explanation.key} is ${stateOf(explanation)}: ${explanation.because}`,
    `  from        ${topic}/${partition}@${offset}, bundle ${assignment.bundle}`,
    `  trajectory  ${assignment.trajectory === null ? 'none: text-only' : numbers(assignment.trajectory)}`,
    `  instability ${assignment.instability?.toPrecision(6) ?? 'none'}`,
    ...(assignment.gain === undefined
      ? []
      : [`  image gain  ${assignment.gain?.toPrecision(4) ?? 'none'}`]),
    `  cluster     ${assignment.cluster}: ${clusterSize} examples now, quota ${quota} by the batch rule` +
      (rank === null ? '' : `; this one is number ${rank} by ${RANK_WORDS[by]}`),
    ...(explanation.arm === 'random'
      ? ['  arm         random: decided at random, for comparison; it takes no part in quotas']
      : []),
    '  decisions, each with the quota at its time',
    ...decisions.map(
      ({ action, reason, quota: then, duplicateOf, distance, measure }) =>
        `    ${action.padEnd(8)} ${reason}${duplicateOf === undefined ? `, quota ${then}` : ` of ${duplicateOf}`}` +
        (distance === undefined ? '' : `, ${distance.toPrecision(3)} away by ${measure}`),
    ),
  ]
}
