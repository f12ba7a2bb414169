/** The subset under other settings or clusters, and how it differs from the current one. */
import { type Bundle, openBundle, similarityModelOf } from '../bundle/bundle.ts'
import { ClusterIndex } from '../bundle/hnsw.ts'
import { fetchBundle, PublishedBundles } from '../bundle/publication.ts'
import { type Signature, signatureOf } from '../bundle/signature.ts'
import { type Clustering, fitClusters } from '../cluster/fit.ts'
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import type { Points } from '../math/vectors.ts'
import { type Parts, policyPart } from '../observe/segments.ts'
import type { Cluster } from '../record.ts'
import { checkGains, checkHasSignature, checkSameScores } from '../role/bundle-checks.ts'
import { NearDuplicates } from '../select/dedup/near-duplicates.ts'
import { protectionOf } from '../select/dedup/protected.ts'
import { type Budget, balanceOf, batchQuotas, budgetOf } from '../select/rule/quotas.ts'
import { readSubset } from './assignments.ts'
import { type BundleEpoch, readBundleEpochs } from './bundle-epochs.ts'
import { type Replayed, type ReplayOptions, replay } from './replay.ts'
import { historyOf, readAssigned } from './trajectories.ts'

/** The clusters to fold into: of a bundle, or fitted anew by `signature`; default: the active bundle's. */
export type WantedClusters = {
  bundle?: Bundle | undefined
  signature?: Signature | undefined
  /** K of new clusters; default: as in the active bundle. */
  clusters?: number | undefined
}

/** K-means over points; `fitClusters`, or the same with a progress bar. */
type Fit = (
  points: Points,
  options: { signature: Signature; clusters: number; seed: number },
) => Clustering

export type WhatIfHooks = { onProgress: (offset: number) => void; fit?: Fit }

/** Folds the log under the settings of `config` and compares the result with the current subset. */
export async function whatIf(
  log: Log,
  config: Config,
  wanted: WantedClusters,
  { onProgress, fit = fitClusters }: WhatIfHooks,
): Promise<{ found: Replayed; today: Set<string>; comparison: Comparison }> {
  const epochs = await readBundleEpochs(log, config)
  const clusters = await clustersOf(log, config, epochs, { ...wanted, fit })
  const found = await replay(log, {
    topic: config.log.topics.assignments,
    // A subset does not depend on earlier settlements.
    settings: { ...config.select, settleEvery: Number.MAX_SAFE_INTEGER },
    ...clusters,
    near: await nearDuplicatesOf(log, config, epochs[0]),
    onProgress,
  })
  const today = await readSubset(log, config)
  return { found, today, comparison: compare(found, today, config.select) }
}

/** With the radii of the log's first bundle, as the select role has them. */
async function nearDuplicatesOf(
  log: Log,
  config: Config,
  first: BundleEpoch | undefined,
): Promise<NearDuplicates | undefined> {
  const { enabled, exemplarsMax } = config.select.nearDuplicates
  if (!enabled || first === undefined) return undefined
  const near = new NearDuplicates({ exemplarsMax })
  near.learn(
    similarityModelOf((await fetchBundle(log, config.log.topics.bundles, first.bundle)).manifest),
  )
  return near
}

type Clusters = Pick<ReplayOptions, 'reassign' | 'beginning' | 'findProtected'>

async function clustersOf(
  log: Log,
  config: Config,
  epochs: readonly BundleEpoch[],
  { bundle: given, signature, clusters: wantedCount, fit }: WantedClusters & { fit: Fit },
): Promise<Clusters> {
  const { bundles } = config.log.topics
  const active = epochs.at(-1)?.bundle
  const current = active === undefined ? undefined : await fetchBundle(log, bundles, active)
  if (current !== undefined) checkGains(current, config.select)
  if (signature !== undefined) {
    const base = current ?? (await openBundle(config.bundle))
    const clusters = wantedCount ?? base.manifest.clusters
    return fittedHere(log, config, signature, { clusters, base, fit })
  }
  const clusters = new PublishedBundles(log, bundles)
  if (given !== undefined) {
    if (current !== undefined) checkSameScores(current, given)
    await checkHasSignature(log, config, given)
    clusters.add(given)
  }
  const bundle = given ?? current
  const id = bundle?.id
  // As after a swap, where another bundle has been active.
  const isFirst = epochs.every(({ bundle }) => bundle === id)
  return {
    reassign: value => (id === undefined ? value : clusters.reassign(value, id)),
    beginning: first => clusters.beginning(id ?? first.bundle, { isFirst }),
    findProtected: bundle && protectionOf(bundle),
  }
}

/** K-means over the whole history, as `fit` with seed 0; `base` says what is protected. */
async function fittedHere(
  log: Log,
  config: Config,
  signature: Signature,
  { clusters, base, fit }: { clusters: number; base: Bundle; fit: Fit },
): Promise<Clusters> {
  const source = await readAssigned(log, config, { signatures: [signature] })
  const findProtected = protectionOf(base)
  const points = historyOf(source, signature, findProtected).signatures.get(signature)!
  const { centroids, standardisation } = fit(points, { signature, clusters, seed: 0 })
  const index = new ClusterIndex(centroids)
  const raw = signatureOf({ signature, standardisation })
  return {
    reassign: value =>
      value.cluster === 'text'
        ? value
        : value.reassigned({ ...value, cluster: index.nearest(raw(value)).cluster }),
    beginning: () => ({ clusters: centroids.count, textOnly: 0, members: undefined }),
    findProtected,
  }
}

export type Comparison = {
  /** N and its kept examples: baseline included, random holdout not. */
  examples: number
  kept: number
  budget: number
  parts: Parts
  duplicates: number
  /** Of the kept examples with a trajectory. */
  meanInstability: number | null
  balance: number
  clusters: { used: number; largest: { cluster: Cluster; size: number; quota: number } | null }
  /** Compared with the current subset, random holdout included. */
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
