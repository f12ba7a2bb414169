/**
 * How signatures compare on one history, and which of them to take: are their clusters stable between seeds,
 * are they more than clusters of one size, and are they large enough to give anything.
 */
import type { Signature } from '../bundle/signature.ts'
import type { Points } from '../math/vectors.ts'
import type { Size } from '../record.ts'
import { adjustedRand, meanAgreement, pairs } from './agreement.ts'
import { fitClusters } from './fit.ts'
import { learnSignature, type Share } from './joint.ts'
import { DEPENDENCE_MAX, type ExplainedSize, explainedSize, SIZE_NAMES } from './size-dependence.ts'

export type Compared = {
  signature: Signature
  /** Of the clustering with the first seed. */
  sizes: number[]
  /** Mean adjusted Rand index over all pairs of seeds. */
  stability: number
  /** The size that the clusters explain most of; null where it is not known. */
  explained: ExplainedSize | null
  /** Of `joint`: the weights that were tried, the chosen one first. */
  shares?: Share[] | undefined
}

export type Comparison = {
  seeds: number[]
  signatures: Compared[]
  /** Adjusted Rand index of all pairs of signatures, with the first seed. */
  agreement: { a: Signature; b: Signature; adjustedRand: number }[]
}

export type CompareOptions = {
  clusters: number
  seeds: readonly number[]
  /** One a row; undefined where they are not known. */
  sizes?: readonly Size[] | undefined
  onFitted?: (done: number) => void
}

/** Clusters the same rows in every signature with every seed. */
export function compareSignatures(
  signatures: ReadonlyMap<Signature, Points>,
  { clusters, seeds, sizes, onFitted }: CompareOptions,
): Comparison {
  let done = 0
  const fitted = [...signatures].map(([signature, points]) => {
    const learned = learnSignature(points, { signature, clusters, seed: seeds[0]! })
    const runs = seeds.map(seed => {
      const run = fitClusters(points, { signature, clusters, seed, learned })
      onFitted?.(++done)
      return run
    })
    return { signature, shares: learned.shares, runs, assignment: runs[0]!.assignment }
  })
  return {
    seeds: [...seeds],
    signatures: fitted.map(({ signature, shares, runs, assignment }) => ({
      signature,
      sizes: runs[0]!.sizes,
      stability: meanAgreement(runs.map(run => run.assignment)),
      explained: sizes === undefined ? null : explainedSize(sizes, assignment),
      ...(shares && { shares }),
    })),
    agreement: pairs(fitted).map(([a, b]) => ({
      a: a.signature,
      b: b.signature,
      adjustedRand: adjustedRand(a.assignment, b.assignment),
    })),
  }
}

/* The verdict. */

/** Stabilities this close count as equal: the first signature of them, the plainest, is taken. */
const EQUAL_STABILITY = 0.02
/** Of a size's variance; what a rank correlation of `DEPENDENCE_MAX` explains. */
const EXPLAINED_MAX = DEPENDENCE_MAX ** 2
/** Below it, clusters of two seeds have little in common. */
const STABILITY_MIN = 0.2

export type Verdict = {
  /** The most stable one of those that the fewest objections are raised to. */
  take: Signature
  /** A sentence each: why it, and what speaks against it and against the others. */
  reasons: string[]
}

/** `compared` is not empty. `isSmall`: do too many examples lie in clusters too small to give any. */
export function judgeSignatures(
  compared: readonly Compared[],
  isSmall: (sizes: readonly number[]) => boolean,
): Verdict {
  const judged = compared.map(one => ({ ...one, objections: objectionsOf(one, isSmall) }))
  const fewest = Math.min(...judged.map(({ objections }) => objections.length))
  const candidates = judged.filter(({ objections }) => objections.length === fewest)
  const most = Math.max(...candidates.map(({ stability }) => stability))
  const taken = candidates.find(({ stability }) => stability >= most - EQUAL_STABILITY)!
  const stable = taken.stability.toFixed(2)
  const why =
    taken.stability < most
      ? `its clusters are about as stable between seeds as any (${stable}, ${most.toFixed(2)}), and it is the simplest of these`
      : `its clusters are the most stable between seeds (${stable})`
  const against = judged.flatMap(one => {
    if (one === taken) return one.objections.map(objection => `but ${objection}`)
    const rank = one.stability > taken.stability ? 'hardly more stable' : 'less stable'
    const lost = [...(candidates.includes(one) ? [rank] : []), ...one.objections]
    return `not ${one.signature} (${one.stability.toFixed(2)}): ${lost.join('; ')}`
  })
  return { take: taken.signature, reasons: [why, ...against] }
}

function objectionsOf(
  { stability, explained, sizes }: Compared,
  isSmall: (sizes: readonly number[]) => boolean,
): string[] {
  const found: string[] = []
  if (explained !== null && explained.share > EXPLAINED_MAX) {
    const name = SIZE_NAMES[explained.size]
    found.push(`its clusters mostly follow ${name} (${explained.share.toFixed(2)})`)
  }
  if (isSmall(sizes)) found.push('many of its clusters are too small to give any')
  if (stability < STABILITY_MIN) {
    found.push('other seeds give other clusters: fewer of them, --clusters, may be more stable')
  }
  return found
}
