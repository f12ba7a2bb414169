/**
 * How clusterings of the same examples differ: between signatures, and of one signature between seeds.
 */
import { fitClusters } from './fit.ts'
import type { Points } from './kmeans.ts'
import type { Signature } from './signature.ts'

export type Comparison = {
  seeds: number[]
  signatures: {
    signature: Signature
    /** Of the first seed. */
    sizes: number[]
    /** Mean adjusted Rand index of every two seeds. */
    stability: number
  }[]
  /** Adjusted Rand index of every two signatures, of the first seed. */
  agreement: { a: Signature; b: Signature; adjustedRand: number }[]
}

/** Clusters the same rows in every signature with every seed. */
export function compareSignatures(
  signatures: ReadonlyMap<Signature, Points>,
  options: { clusters: number; seeds: readonly number[]; onFitted?: (done: number) => void },
): Comparison {
  const { clusters, seeds, onFitted } = options
  let done = 0
  const fitted = [...signatures].map(([signature, points]) => ({
    signature,
    runs: seeds.map(seed => {
      const run = fitClusters(points, { signature, clusters, seed })
      onFitted?.(++done)
      return run
    }),
  }))
  return {
    seeds: [...seeds],
    signatures: fitted.map(({ signature, runs }) => ({
      signature,
      sizes: runs[0]!.sizes,
      stability: mean(pairs(runs).map(([a, b]) => adjustedRand(a.assignment, b.assignment))),
    })),
    agreement: pairs(fitted).map(([a, b]) => ({
      a: a.signature,
      b: b.signature,
      adjustedRand: adjustedRand(a.runs[0]!.assignment, b.runs[0]!.assignment),
    })),
  }
}

/**
 * The adjusted Rand index of two clusterings of the same points (Hubert and Arabie 1985): 1 where they
 * are the same but for the clusters' numbers, about 0 where they agree as chance would have it.
 */
export function adjustedRand(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new RangeError(`${a.length} points and ${b.length}`)
  const [cells, rows, columns] = [new Map(), new Map(), new Map()] as Map<number | string, number>[]
  for (let i = 0; i < a.length; i++) {
    increment(cells!, `${a[i]} ${b[i]}`)
    increment(rows!, a[i]!)
    increment(columns!, b[i]!)
  }
  const [both, inA, inB] = [cells!, rows!, columns!].map(pairsWithin) as [number, number, number]
  const expected = (inA * inB) / choose2(a.length)
  const most = (inA + inB) / 2
  return most === expected ? 1 : (both - expected) / (most - expected)
}

function increment<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function pairsWithin(counts: ReadonlyMap<unknown, number>): number {
  let sum = 0
  for (const count of counts.values()) sum += choose2(count)
  return sum
}

function choose2(n: number): number {
  return (n * (n - 1)) / 2
}

function pairs<Item>(items: readonly Item[]): [Item, Item][] {
  return items.flatMap((a, i) => items.slice(i + 1).map((b): [Item, Item] => [a, b]))
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
