/**
 * Arms of a study: ways to select a subset. A name is a base, which groups the examples, and modifiers,
 * which filter or rank them: `spectrum+dedup`. All arms take the same number of examples, by the batch
 * rule over their groups.
 */
import { SIGNATURES, type Signature } from '../bundle/signature.ts'
import { fitClusters, usualClusters } from '../cluster/fit.ts'
import { learnSimilarity } from '../cluster/learn-similarity.ts'
import { comparedAt, type Trajectories } from '../cluster/trajectories.ts'
import { XmasdError } from '../errors.ts'
import { permutation, seededRandom, seedOf } from '../math/random.ts'
import { rowsOf } from '../math/vectors.ts'
import type { Cluster } from '../record.ts'
import { countOnce } from '../select/dedup/duplicates.ts'
import { flagNearDuplicates } from '../select/dedup/near-duplicates.ts'
import { budgetRule, type Ranked, selectBatch } from '../select/rule/quotas.ts'
import { isMisaligned, orderOf } from '../select/rule/rank.ts'
import { type Labels, NO_SOURCE } from './data.ts'

/** A pass over the pool with the proxy. */
export const SIGNALS = ['reference', 'paper', 'loss'] as const
export type Signal = (typeof SIGNALS)[number]

type Base = {
  says: string
  /** What is clustered; absent: no proxy is needed. */
  clusters?: { signal: Signal; signature: Signature }
}

const BASES: Record<string, Base> = {
  full: { says: 'every example' },
  random: { says: 'at random' },
  length: { says: 'balanced over the length of the text' },
  source: { says: 'balanced over the labels in `source`' },
  ...Object.fromEntries(
    SIGNATURES.map(signature => [
      signature,
      {
        says:
          signature === 'sum'
            ? "the paper's rule, as its code runs"
            : `its clusters by ${signature}`,
        clusters: { signal: 'reference', signature },
      } satisfies Base,
    ]),
  ),
  'sum-paper': {
    says: "the paper's rule, attention as its text has it",
    clusters: { signal: 'paper', signature: 'sum' },
  },
  loss: {
    says: 'loss trajectories in place of attention (S2L)',
    clusters: { signal: 'loss', signature: 'sum' },
  },
}

const MODIFIERS: Record<string, string> = {
  dedup: 'without near-duplicates',
  aligned: 'without negative image gain',
  gain: 'ranked by image gain',
  both: 'ranked by instability and image gain',
  random: 'ranked at random',
  clean: 'without examples labelled in `fault`',
}

export type Arm = { name: string; base: string; modifiers: ReadonlySet<string> }

/** What all other arms are compared with: always run. */
export const CONTROLS: readonly string[] = ['full', 'random']

/** Default arms. Those that read labels are for data that have them. */
export const ARMS = [
  ...CONTROLS,
  'random+dedup',
  'length',
  ...Object.keys(BASES).filter(name => BASES[name]!.clusters !== undefined),
]

/** Throws CONFIG_INVALID. */
export function parseArm(name: string): Arm {
  const [base = '', ...modifiers] = name.split('+')
  const unknown = [base, ...modifiers].find((part, i) => !(part in (i === 0 ? BASES : MODIFIERS)))
  if (unknown === undefined) return { name, base, modifiers: new Set(modifiers) }
  throw new XmasdError(
    'CONFIG_INVALID',
    `there is no arm ${name}: ${unknown} is not known`,
    `An arm is one of ${Object.keys(BASES).join(', ')}, then any of ${Object.keys(MODIFIERS)
      .map(one => `+${one}`)
      .join(', ')}.`,
  )
}

/** Bases and modifiers, each with what it means, a line each. */
export function armsHelp(): string {
  const lines = [
    ...Object.entries(BASES).map(([name, { says }]) => [name, says]),
    ...Object.entries(MODIFIERS).map(([name, says]) => [`+${name}`, says]),
  ]
  return lines.map(([name, says]) => `  ${name!.padEnd(12)}${says}`).join('\n')
}

/** In words. */
export function describeArm({ base, modifiers }: Arm): string {
  return [BASES[base]!.says, ...[...modifiers].map(one => MODIFIERS[one]!)].join(', ')
}

/** The passes that an arm needs. */
export function signalsOf(arm: Arm): Signal[] {
  const { clusters } = BASES[arm.base]!
  const needsReference = arm.modifiers.has('dedup') || readsGain(arm)
  return SIGNALS.filter(
    signal => signal === clusters?.signal || (needsReference && signal === 'reference'),
  )
}

/** Does the arm read image gains, which the reference pass then measures. */
export function readsGain({ modifiers }: Arm): boolean {
  return ['aligned', 'gain', 'both'].some(name => modifiers.has(name))
}

/** The pool of a seed: row i of `labels` and of every pass is example i. */
export type Pool = {
  labels: readonly Labels[]
  passes: ReadonlyMap<Signal, Trajectories>
  clusters: number | undefined
  seed: number
}

/**
 * Indices into the pool, n = floor(percent * N / 100) of them or fewer where the groups of an arm hold
 * fewer. The same pool, arm and percent give the same.
 */
export function selectArm(pool: Pool, arm: Arm, percent: number): number[] {
  const { labels, seed } = pool
  const all = labels.map((_, i) => i)
  if (arm.base === 'full') return all
  const isTaken = arm.modifiers.has('clean') ? labels.map(({ fault }) => fault === undefined) : []
  const gain = readsGain(arm) ? pool.passes.get('reference')!.gain : []
  const ranking = { gainMin: arm.modifiers.has('aligned') ? 0 : undefined }
  const clean = all.filter(i => (isTaken[i] ?? true) && !isMisaligned(ranking, { gain: gain[i] }))
  const counted = arm.modifiers.has('dedup') ? withoutCopies(pool, clean) : clean
  const budget = Math.min(budgetRule(percent)(labels.length), counted.length)
  const ranked = rank(pool, arm, counted, seededRandom(seedOf(seed, `draw ${arm.base}`)))
  const share = (100 * (budget + 0.5)) / Math.max(1, ranked.length)
  const { selected } = selectBatch(ranked, Math.min(100, share))
  return selected.slice(0, budget).map(i => counted[i]!)
}

function rank(
  pool: Pool,
  { base, modifiers }: Arm,
  counted: readonly number[],
  random: () => number,
): Ranked[] {
  const { clusters } = BASES[base]!
  const read = clusters && pool.passes.get(clusters.signal)!
  const order = permutation(random, counted.length)
  const clusterOf = clusters && clustersOf(pool, read!, clusters.signature, counted)
  const group = groupsOf(base, pool)
  const rank = (['gain', 'both'] as const).find(name => modifiers.has(name))
  const reference = pool.passes.get('reference')
  const gain = rank && reference!.gain
  const measured = modifiers.has('random') ? undefined : rank === 'both' ? reference : read
  return counted.map((index, i) => {
    const instability = measured?.instability[index] ?? order[i]!
    return {
      cluster: clusterOf ? (clusterOf.get(index) ?? 'text') : group(index),
      instability: orderOf({ rank }, { instability, gain: gain?.[index] }),
      id: read?.ids[index] ?? String(index),
    }
  })
}

/** Lengths within a ninth of each other are one group. */
const LENGTH_STEPS = 6

/** The group of an example, where nothing is clustered. */
function groupsOf(base: string, { labels }: Pool): (index: number) => Cluster {
  if (base === 'length') {
    return index => Math.round(LENGTH_STEPS * Math.log2(Math.max(1, labels[index]!.length)))
  }
  if (base !== 'source') return () => 0
  const sources = [...new Set(labels.map(({ source }) => source))].sort()
  const numbers = new Map(sources.map((source, i) => [source, i]))
  return index => numbers.get(labels[index]!.source)!
}

/** The k-means cluster of each of `counted` that has a picture. */
function clustersOf(
  { clusters, seed }: Pool,
  read: Trajectories,
  signature: Signature,
  counted: readonly number[],
): Map<number, number> {
  const scored = counted.filter(index => read.rows[index]! >= 0)
  const values = read.signatures.get(signature)
  if (scored.length === 0) return new Map()
  if (values === undefined) {
    throw new XmasdError(
      'DATA_INVALID',
      `the scores of seed ${seed} lack ${signature}`,
      'They are of an earlier release: remove the folder of the seed in --out.',
    )
  }
  const points = rowsOf(
    values,
    scored.map(index => read.rows[index]!),
  )
  const wanted = clusters ?? usualClusters(scored.length)
  const { assignment } = fitClusters(points, { signature, clusters: wanted, seed })
  return new Map(scored.map((index, i) => [index, assignment[i]!]))
}

/** Radii as `fit` learns them by default. */
const NEAR_SHARE = 0.01

/** Each of `indices` that is no copy and no near-duplicate of an earlier one, as `select` finds them. */
function withoutCopies({ passes, seed }: Pool, indices: readonly number[]): number[] {
  const read = passes.get('reference')!
  const ids = indices.map(index => read.ids[index]!)
  const keys = indices.map(index => read.keys[index]!)
  const once = countOnce(ids, keys).counted.map(i => indices[i]!)
  const scored = once.filter(index => read.rows[index]! >= 0)
  const compared = scored.map(index => read.compared[index]!)
  const rows = scored.map(index => read.rows[index]!)
  const trajectories = rowsOf(read.points, rows)
  const model = learnSimilarity({ trajectories, compared }, { share: NEAR_SHARE, seed })
  const examples = once.map(index => comparedAt(read, index))
  const isNear = [...flagNearDuplicates(examples, model, { exemplarsMax: examples.length })]
  return once.filter((_, i) => !isNear[i])
}

/** Throws CONFIG_INVALID where an arm reads labels that the pool does not have. */
export function checkLabels(arms: readonly Arm[], labels: readonly Labels[]): void {
  const has = {
    source: labels.some(({ source }) => source !== NO_SOURCE),
    clean: labels.some(({ fault }) => fault !== undefined),
  }
  for (const { name, base, modifiers } of arms) {
    const lacks = base === 'source' && !has.source ? 'source' : undefined
    const field = lacks ?? (modifiers.has('clean') && !has.clean ? 'fault' : undefined)
    if (field === undefined) continue
    throw new XmasdError(
      'CONFIG_INVALID',
      `arm ${name} needs the field ${field}, which no example of the pool has`,
      `Leave the arm out of --arms, or give each record "${field}".`,
    )
  }
}
