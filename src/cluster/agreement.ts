/** How far clusterings of the same points agree. */

/** The mean adjusted Rand index over all pairs of clusterings. */
export function meanAgreement(assignments: readonly ArrayLike<number>[]): number {
  const found = pairs(assignments).map(([a, b]) => adjustedRand(a, b))
  return found.reduce((sum, value) => sum + value, 0) / found.length
}

/**
 * The adjusted Rand index of two clusterings of the same points (Hubert and Arabie 1985): 1 where they are
 * equal up to the clusters' numbers, about 0 where they agree by chance.
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

export function pairs<Item>(items: readonly Item[]): [Item, Item][] {
  return items.flatMap((a, i) => items.slice(i + 1).map((b): [Item, Item] => [a, b]))
}
