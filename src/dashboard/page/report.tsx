/** The first view of a report: what is kept, in figures and charts. */
import { useState } from 'preact/hooks'
import { SMALL_CLUSTER_SIZE_MAX } from '../../select/rule/quotas.ts'
import type { ExampleRow, Frozen } from '../schemas.ts'
import { Flow, Instability, Quotas, Trajectories } from './charts.tsx'
import {
  Cards,
  clusterHref,
  clusterName,
  count,
  FactRows,
  Figure,
  Legend,
  More,
  Panel,
  percent,
} from './widgets.tsx'

/** Clusters that are shown before somebody asks for more. */
const CLUSTERS = 12
const STEP = 4 * CLUSTERS

export function ReportHeader({ frozen }: { frozen: Frozen }) {
  const { counts, at } = frozen
  const { kept, examples, budget, bundles, percent: wanted } = counts
  return (
    <dl>
      <Figure name="kept of the budget" value={`${count(kept)} of ${count(budget)}`} id="kept">
        {percent(examples === 0 ? 0 : kept / examples)} of {count(examples)}, {wanted} % wanted
      </Figure>
      <Figure
        name="made"
        value={new Date(at).toISOString().slice(0, 16).replace('T', ' ')}
        id="made"
      >
        UTC, by xmasd {frozen.version}
      </Figure>
      <Figure name="active bundle" value={bundles.join(', ') || 'none'} id="bundle">
        policy {counts.policy}
      </Figure>
    </dl>
  )
}

export function Report({ frozen }: { frozen: Frozen }) {
  const { counts, charts, says } = frozen
  if (says !== null) {
    return (
      <Panel title="Nothing to show">
        <p>{says}</p>
      </Panel>
    )
  }
  return (
    <>
      <h1>What the subset looks like</h1>
      <Counts counts={counts} />
      <Panel title="Clusters against their quotas" note={quotaNote(counts)}>
        <Quotas clusters={counts.clusters} />
      </Panel>
      <Panel
        title="Instability of kept and dropped examples"
        note="Every counted example with a picture. Where the steadiest are kept first (`select.rank: instability`), kept ones are on the left."
      >
        <Instability of={charts.instability} />
      </Panel>
      <AllTrajectories frozen={frozen} />
      <Panel
        title="Decisions and their reasons"
        note="Shares along the stream. Steady bands are normal; a band that widens shows a change of the input or of its duplicates."
      >
        <Flow flow={charts.flow} />
      </Panel>
      <Ends frozen={frozen} />
    </>
  )
}

/** What holds for these clusters, and no more. */
function quotaNote({ clusters }: Frozen['counts']): string {
  const small = clusters.filter(({ size }) => size <= SMALL_CLUSTER_SIZE_MAX).length
  const capped = clusters.filter(({ size, quota }) => quota > 0 && quota < size).length
  const whole = clusters.filter(({ size, quota }) => quota === size).length
  const parts = [
    `${count(capped)} are cut to their quota`,
    `${count(whole)} are kept whole`,
    ...(small > 0
      ? [`${count(small)} of at most ${SMALL_CLUSTER_SIZE_MAX} examples give none`]
      : []),
  ]
  return `Of ${count(clusters.length)} clusters ${parts.join(', ')}. Green should follow the line.`
}

function Counts({ counts }: { counts: Frozen['counts'] }) {
  const { parts, clusters, duplicates, waiting, deadLetters } = counts
  const misplaced = clusters.reduce((sum, { kept, quota }) => sum + Math.max(0, kept - quota), 0)
  const letters = deadLetters.reduce((sum, row) => sum + row.count, 0)
  const of = ({ kept, examples }: { kept: number; examples: number }): string =>
    `${count(kept)} of ${count(examples)}`
  const rows: [string, string][] = [
    ['counted examples', count(counts.examples)],
    ...(parts.baseline.examples > 0
      ? ([
          ['kept of the stream', of(parts.stream)],
          ['kept of the baseline', of(parts.baseline)],
        ] as [string, string][])
      : []),
    ...(parts.control.examples > 0
      ? ([['kept of the random holdout', of(parts.control)]] as [string, string][])
      : []),
    ['clusters in use', count(clusters.length)],
    ['kept beyond the batch rule’s quotas', count(misplaced)],
    ['duplicates dropped', count(duplicates)],
    ...gainRows(counts),
    ...(waiting > 0 ? ([['assigned, not decided yet', count(waiting)]] as [string, string][]) : []),
    ['dead letters', letters === 0 ? 'none' : count(letters)],
  ]
  return (
    <dl class="facts counts">
      <FactRows rows={rows} />
    </dl>
  )
}

function gainRows({ gain, misaligned }: Frozen['counts']): [string, string][] {
  if (gain === null) return []
  const nats = (value: number | null): string => (value === null ? 'none' : value.toFixed(3))
  const rows: [string, string][] = [
    ['mean image gain of the kept, of all (nats)', `${nats(gain.keptMean)} of ${nats(gain.mean)}`],
    ['image gain below 0: the picture misleads', percent(gain.belowZero)],
  ]
  return misaligned === 0 ? rows : [...rows, ['misaligned, dropped', count(misaligned)]]
}

function AllTrajectories({ frozen }: { frozen: Frozen }) {
  const { trajectories, steps } = frozen.charts
  const [shown, setShown] = useState(CLUSTERS)
  return (
    <Panel
      title="Trajectories by cluster"
      note="The score at each checkpoint; each cluster has a scale of its own. Lines of one cluster should be similar; the kept ones are the flattest."
    >
      <Legend meanings={['keep', 'drop']} />
      <div class="multiples">
        {trajectories.slice(0, shown).map(one => (
          <figure key={one.cluster}>
            <figcaption>
              <a href={clusterHref(one.cluster)}>{clusterName(one.cluster)}</a>
            </figcaption>
            <Trajectories of={one} steps={steps} />
          </figure>
        ))}
      </div>
      <More shown={shown} step={STEP} of={trajectories.length} show={setShown} />
    </Panel>
  )
}

const ENDS = 4

/** The first that are kept and the last that are not, by rank, of each cluster. */
function Ends({ frozen }: { frozen: Frozen }) {
  const [shown, setShown] = useState(CLUSTERS / 2)
  const groups = new Map<ExampleRow['cluster'], ExampleRow[]>()
  for (const row of frozen.rows) groups.set(row.cluster, [...(groups.get(row.cluster) ?? []), row])
  const clusters = [...groups]
  return (
    <Panel
      title="Examples"
      note="Of each cluster the first that are kept and the last that are not, by rank, with their instability."
    >
      {clusters.slice(0, shown).map(([cluster, rows]) => {
        const counted = rows.filter(({ duplicateOf }) => duplicateOf === null)
        const kept = counted.filter(one => one.kept).slice(0, ENDS)
        const dropped = counted.filter(one => !one.kept).slice(-ENDS)
        return (
          <section key={cluster}>
            <h3>
              <a href={clusterHref(cluster)}>{clusterName(cluster)}</a>
            </h3>
            <Cards of={[...kept, ...dropped]} />
          </section>
        )
      })}
      <More shown={shown} step={STEP} of={clusters.length} show={setShown} />
    </Panel>
  )
}
