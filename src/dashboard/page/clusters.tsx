/** The wall of clusters, and the gallery of one: kept, the cut-off line, dropped, in rank order. */
import { useEffect, useState } from 'preact/hooks'
import { SMALL_CLUSTER_SIZE_MAX } from '../../select/rule/quotas.ts'
import type { Clusters, ExampleRow, Gallery as GalleryDocument } from '../schemas.ts'
import { Trajectories } from './charts.tsx'
import { frozen, heldRanks } from './frozen.ts'
import { get, useApi, useLive } from './store.ts'
import {
  clusterHref,
  clusterName,
  count,
  Legend,
  More,
  numbered,
  Panel,
  Picture,
  percent,
  Rows,
  Waiting,
} from './widgets.tsx'

type Tile = Clusters['clusters'][number]

const ORDERS = {
  size: { name: 'largest first', by: (one: Tile) => -one.size },
  redundant: {
    name: 'most redundant first',
    by: (one: Tile) =>
      -redundancyOf(one) * (one.size + one.duplicates > SMALL_CLUSTER_SIZE_MAX ? 1 : 0),
  },
  duplicates: { name: 'most duplicates first', by: (one: Tile) => -one.duplicates },
  kept: { name: 'most kept first', by: (one: Tile) => -one.kept },
  off: { name: 'farthest from quota first', by: (one: Tile) => -Math.abs(one.kept - one.quota) },
  small: { name: 'smallest first', by: (one: Tile) => one.size },
}
type Order = keyof typeof ORDERS

const FILTERS = {
  all: { name: 'all', holds: () => true },
  capped: {
    name: 'larger than their quota',
    holds: (one: Tile) => one.quota > 0 && one.quota < one.size,
  },
  whole: { name: 'within their quota', holds: (one: Tile) => one.quota === one.size },
  none: { name: 'quota 0', holds: (one: Tile) => one.quota === 0 },
}
type Filter = keyof typeof FILTERS

/** Tiles that are drawn before somebody asks for more. */
const TILES = 240

/** The share of a cluster's examples, duplicates included, that the subset does without. */
export function redundancyOf({
  size,
  kept,
  duplicates,
}: Pick<Tile, 'size' | 'kept' | 'duplicates'>): number {
  const all = size + duplicates
  return all === 0 ? 0 : (all - kept) / all
}

/** What was chosen last: it stays while clusters are opened and left again. */
let chosen: { order: Order; filter: Filter } = { order: 'size', filter: 'all' }

export function Wall() {
  const { version } = useLive()
  const { value, problem } = useApi<Clusters>('clusters', version)
  const [{ order, filter }, setChoice] = useState(chosen)
  const [shown, setShown] = useState(TILES)
  const choose = (change: Partial<typeof chosen>): void => {
    chosen = { ...chosen, ...change }
    setChoice(chosen)
  }
  if (value === undefined) return <Waiting problem={problem} />
  const tiles = value.clusters.filter(FILTERS[filter].holds)
  tiles.sort((a, b) => ORDERS[order].by(a) - ORDERS[order].by(b))
  const largest = value.clusters.reduce((most, { size }) => Math.max(most, size), 1)
  return (
    <Panel title={`${count(value.clusters.length)} clusters`}>
      <div class="bar">
        <Choice
          label="order"
          value={order}
          of={ORDERS}
          choose={name => choose({ order: name as Order })}
        />
        <Choice
          label="show"
          value={filter}
          of={FILTERS}
          choose={name => choose({ filter: name as Filter })}
        />
        <Legend meanings={['keep', 'drop', 'duplicate']} />
      </div>
      {!value.isCaughtUp && <p class="note">Reading the log: {percent(value.progress, 0)}</p>}
      {tiles.length === 0 && <p class="note">No cluster has examples yet.</p>}
      <ul class="wall">
        {tiles.slice(0, shown).map(tile => (
          <TileView key={tile.cluster} tile={tile} largest={largest} />
        ))}
      </ul>
      <More shown={shown} step={4 * TILES} of={tiles.length} show={setShown} />
    </Panel>
  )
}

type ChoiceProps = {
  label: string
  value: string
  of: Record<string, { name: string }>
  choose: (name: string) => void
}

export function Choice({ label, value, of, choose }: ChoiceProps) {
  return (
    <label>
      {label}{' '}
      <select value={value} onChange={event => choose(event.currentTarget.value)}>
        {Object.entries(of).map(([name, one]) => (
          <option key={name} value={name}>
            {one.name}
          </option>
        ))}
      </select>
    </label>
  )
}

function TileView({ tile, largest }: { tile: Tile; largest: number }) {
  const { cluster, size, kept, quota, duplicates, cover } = tile
  const all = size + duplicates
  const width = (part: number): string => `${(100 * part) / Math.max(1, all)}%`
  const length = `${Math.max(6, 100 * Math.sqrt(all / Math.max(largest, all)))}%`
  return (
    <li class="tile" data-cluster={cluster}>
      <a href={clusterHref(cluster)}>
        {cover !== null && (
          <Picture example={{ key: cover, images: cluster === 'text' ? 0 : 1 }} side={96} />
        )}
        <b>{clusterName(cluster)}</b>
        <span class="sizes">
          <span class="kept">{count(kept)}</span> of {count(size)}
        </span>
        <span class="split" style={{ width: length }} aria-hidden="true">
          <span class="keep" style={{ width: width(kept) }} />
          <span class="drop" style={{ width: width(size - kept) }} />
          <span class="duplicate" style={{ width: width(duplicates) }} />
        </span>
        <span class="note">
          {quota > 0 || size > SMALL_CLUSTER_SIZE_MAX
            ? `${percent(redundancyOf(tile), 0)} redundant`
            : 'too small to give any'}
        </span>
        <span class="note">
          quota {count(quota)}
          {duplicates > 0 ? `, ${numbered(duplicates, 'duplicate')}` : ''}
        </span>
      </a>
    </li>
  )
}

export function Gallery({ cluster }: { cluster: string }) {
  const { version } = useLive()
  const path = `clusters/${encodeURIComponent(cluster)}`
  const { value, problem } = useApi<GalleryDocument>(`${path}?count=1`, version)
  // Galleries that follow a fast stream card by card cannot be read: every three seconds is enough.
  const [settled, setSettled] = useState(version)
  useEffect(() => {
    const timer = setTimeout(() => setSettled(version), 3_000)
    return () => clearTimeout(timer)
  }, [version])
  if (value === undefined) return <Waiting problem={problem} />
  const { size, kept, quota, duplicates, counted, total, cut } = value
  const load = async (from: number, length: number): Promise<ExampleRow[]> =>
    (await get<GalleryDocument>(`${path}?from=${from}&count=${length}`)).rows
  const section = (kind: string, from: number, to: number) => ({
    ...{ name: `${cluster}/${kind}`, from, to, load, version: settled },
    held: heldRanks(cluster, from, to),
  })
  const name = clusterName(value.cluster)
  return (
    <>
      <p>
        <a href="#/clusters">← all clusters</a>
      </p>
      <h1>{name}</h1>
      <p class="facts">
        <b>{count(kept)}</b> kept of <b>{count(size)}</b> · quota <b>{count(quota)}</b> ·{' '}
        {numbered(duplicates, 'duplicate')} · {percent(redundancyOf(value))} redundant
      </p>
      <p class="note">{orderText(value)}</p>
      <Lines cluster={value.cluster} />
      <Rows title={`Above the line: ${count(cut)}`} {...section('above', 0, cut)} />
      <p class="cut">
        <span>cut-off line: quota {count(quota)}</span>
      </p>
      <Rows title={`Below the line: ${count(counted - cut)}`} {...section('below', cut, counted)} />
      {total > counted && (
        <Rows
          title={`Without a rank: duplicates, misaligned, random holdout, baseline: ${count(total - counted)}`}
          {...section('others', counted, total)}
        />
      )}
    </>
  )
}

const FIRST = {
  instability: 'the steadiest first',
  gain: 'the highest image gain first',
  both: 'the lowest instability / exp(image gain) first',
  random: 'at random',
} as const

const SUBSET = {
  revisable: 'After each settlement the subset holds those above the line.',
  final:
    'Each was kept or dropped on arrival, for good: the subset can hold others than those above the line.',
  naive:
    'Each was kept or dropped on arrival by a random draw: the subset can hold others than those above the line.',
} as const

/** What the cut-off line says under the policy. */
function orderText({ cluster, policy, rank }: GalleryDocument): string {
  const order = cluster === 'text' ? 'in the order of their ids' : FIRST[rank]
  return `Ranked ${order}; the line is the quota of the batch rule. ${SUBSET[policy]} Redundant: the share of examples and duplicates that is not kept.`
}

/** In a report: its trajectories. */
function Lines({ cluster }: { cluster: GalleryDocument['cluster'] }) {
  const found = frozen?.charts.trajectories.find(one => one.cluster === cluster)
  if (found === undefined) return null
  return (
    <Panel title="Trajectories">
      <Trajectories of={found} steps={frozen?.charts.steps ?? null} />
    </Panel>
  )
}
