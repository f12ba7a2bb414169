/** `explain KEY`: why an example is kept or dropped, from the log alone. */
import { Command } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { printable } from '../observe/printable.ts'
import { openLogToRead } from '../open-log.ts'
import type { Assignment, Cluster, Decision } from '../record.ts'
import { readBaseline } from '../report/baseline.ts'
import { type Assigned, assignmentsInForce, decisionsOf } from '../report/history.ts'
import { readStand, type Stand } from '../report/reigns.ts'
import { batchQuotas, budgetOf } from '../select/quotas.ts'

type Options = { config?: string; json?: boolean }

export type Explanation = {
  v: 1
  key: string
  keptNow: boolean
  assignment: Assignment
  /** The select role has come to it. */
  folded: boolean
  /** Place in its cluster, 1 is the steadiest; null where it joins none (a duplicate, the control arm, not folded), and for text. */
  rank: number | null
  /** Of those that count: the baseline's too, none of the control arm's. */
  clusterSize: number
  /** What its cluster gives by the batch rule over all that count. */
  quota: number
  /** Who decides it where there is a control arm: `random`, by lot; null where there is none. */
  arm: NonNullable<Decision['arm']> | null
  decisions: Decision[]
}

export function explainCommand(): Command {
  return new Command('explain')
    .description(
      'Why an example is kept or dropped: its trajectory, cluster, rank, quota, decisions.',
    )
    .argument('<key>', "the example's key, or an id (the first example that has it)")
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action(async (key: string, options: Options) => {
      const config = loadConfig(options.config)
      const log = await openLogToRead(config)
      try {
        const explanation = await explain(log, config, key)
        const text =
          options.json === true
            ? JSON.stringify(explanation)
            : describe(explanation).map(printable).join('\n')
        process.stdout.write(`${text}\n`)
      } finally {
        await log.close()
      }
    })
}

async function explain(log: Log, config: Config, wanted: string): Promise<Explanation> {
  const stand = await readStand(log, config)
  const { outside, decisions } = await readDecisions(log, config, wanted)
  const { assignment, isFolded, sizes, steadier } = await readHistory(log, config, wanted, {
    outside,
    stand,
  })
  const isOutside = outside.has(assignment.key) || !isFolded
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0)
  const quotas = batchQuotas(
    [...sizes].map(([cluster, size]) => ({ cluster, size })),
    budgetOf(config.select)(total),
  )
  const ofKey = decisions.filter(decision => decision.key === assignment.key)
  const arm = ofKey.find(decision => decision.arm !== undefined)?.arm ?? null
  const last = ofKey.at(-1)?.action
  return {
    v: 1,
    key: assignment.key,
    keptNow: last === 'keep' || last === 'restore',
    assignment,
    folded: isFolded,
    rank: isOutside || assignment.instability === null ? null : steadier + 1,
    clusterSize: sizes.get(assignment.cluster) ?? 0,
    quota: quotas.find(({ cluster }) => cluster === assignment.cluster)?.taken ?? 0,
    arm,
    decisions: ofKey,
  }
}

async function readDecisions(
  log: Log,
  config: Config,
  wanted: string,
): Promise<{ outside: Set<string>; decisions: Decision[] }> {
  const outside = new Set<string>()
  const decisions: Decision[] = []
  for await (const { decision } of decisionsOf(log, config)) {
    if (decision.duplicateOf !== undefined || decision.arm === 'random') outside.add(decision.key)
    if (decision.key === wanted || decision.id === wanted) decisions.push(decision)
  }
  return { outside, decisions }
}

type History = Assigned & { sizes: Map<Cluster, number>; steadier: number }

/** The wanted assignment, the clusters' sizes, and how many of its cluster are steadier. */
async function readHistory(
  log: Log,
  config: Config,
  wanted: string,
  { outside, stand }: { outside: Set<string>; stand: Stand },
): Promise<History> {
  const { assignment, isFolded } = await findAssignment(log, config, wanted, stand)
  const { clusters, members } = await readBaseline(log, config, stand)
  const sizes = new Map<Cluster, number>(clusters.map(({ cluster, size }) => [cluster, size]))
  const seen = new Set<string>()
  // The baseline came before all others.
  let steadier = 0
  members?.cluster.forEach((cluster, i) => {
    if (cluster === assignment.cluster && members.instability[i]! <= assignment.instability!) {
      steadier++
    }
  })
  let isBefore = true
  for await (const { assignment: other, isFolded } of assignmentsInForce(log, config, stand)) {
    if (!isFolded || outside.has(other.key) || seen.has(other.key)) continue
    seen.add(other.key)
    sizes.set(other.cluster, (sizes.get(other.cluster) ?? 0) + 1)
    if (other.key === assignment.key) isBefore = false
    else if (other.cluster === assignment.cluster)
      steadier += isSteadier(other, assignment, isBefore)
  }
  return { assignment, isFolded, sizes, steadier }
}

function isSteadier(other: Assignment, than: Assignment, isBefore: boolean): number {
  if (other.instability === null || than.instability === null) return 0
  if (other.instability === than.instability) return isBefore ? 1 : 0
  return other.instability < than.instability ? 1 : 0
}

async function findAssignment(
  log: Log,
  config: Config,
  wanted: string,
  stand: Stand,
): Promise<Assigned> {
  for await (const one of assignmentsInForce(log, config, stand)) {
    if (one.assignment.key === wanted || one.assignment.id === wanted) return one
  }
  throw new XmasdError(
    'KEY_UNKNOWN',
    `no example with the key or id "${wanted}" has been assigned`,
    'keys are <id>@<16 hex digits>; look into dead-letters if it was produced, or wait for the backlog',
  )
}

function verdictOn({ keptNow, folded, decisions }: Explanation): string {
  if (decisions.length > 0) return keptNow ? 'kept' : 'not kept'
  const why = folded ? 'it waits for the next settlement' : 'the select role has not come to it'
  return `not decided yet: ${why}`
}

function describe(explanation: Explanation): string[] {
  const { assignment, rank, clusterSize, quota, arm, decisions } = explanation
  const { topic, partition, offset } = assignment.source
  const numbers = (values: number[]): string => values.map(x => x.toPrecision(5)).join(' ')
  return [
    `${explanation.key} is ${verdictOn(explanation)}`,
    `  from        ${topic}/${partition}@${offset}, bundle ${assignment.bundle}`,
    `  trajectory  ${assignment.trajectory === null ? 'none: text-only' : numbers(assignment.trajectory)}`,
    `  instability ${assignment.instability?.toPrecision(6) ?? 'none'}`,
    `  cluster     ${assignment.cluster}: ${clusterSize} examples, gives ${quota}` +
      (rank === null ? '' : `; this one is number ${rank} by steadiness`),
    ...(arm === 'random'
      ? ['  arm         random: decided by lot, for comparison; it takes no part in quotas']
      : []),
    '  decisions',
    ...decisions.map(
      ({ action, reason, quota: then, duplicateOf, distance, measure }) =>
        `    ${action.padEnd(8)} ${reason}${duplicateOf === undefined ? `, quota ${then}` : ` of ${duplicateOf}`}` +
        (distance === undefined ? '' : `, ${distance.toPrecision(3)} away by ${measure}`),
    ),
  ]
}
