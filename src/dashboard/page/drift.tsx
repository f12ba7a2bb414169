/** Drift from the data that the bundle was fitted to, examples unlike all others, the shadow bundle. */
import type { Drift as DriftDocument, Shadow as ShadowDocument } from '../schemas.ts'
import { useApi, useLive } from './store.ts'
import { Cards, clusterHref, clusterName, count, Panel, percent, Waiting } from './widgets.tsx'

const CLUSTERS = 30

export function Drift() {
  const { version } = useLive()
  const { value, problem } = useApi<DriftDocument>('drift', version, 2_000)
  if (value === undefined) return <Waiting problem={problem} />
  const { examples, stabilityIndex = 0, stabilityNoise = 0, beyondShare, clusters, far } = value
  const most = clusters.reduce((max, one) => Math.max(max, one.before, one.now), 0)
  const verdict = verdictOf(stabilityIndex, stabilityNoise)
  return (
    <>
      <Panel
        title="Drift"
        note="The newest examples against the data that the active bundle was fitted to."
      >
        <p class="facts">
          Population stability index <b>{stabilityIndex.toFixed(3)}</b> over {count(examples)}{' '}
          examples; chance alone gives {stabilityNoise.toFixed(3)}: <b>{verdict}</b>.{' '}
          {beyondShare !== undefined &&
            `Of those with a picture, ${percent(beyondShare)} lie beyond the 99 % radius of their cluster.`}
        </p>
      </Panel>
      <Farthest far={far} hasRadii={beyondShare !== undefined} />
      <Panel title="Clusters that differ most">
        <table>
          <thead>
            <tr>
              <th scope="col">cluster</th>
              <th scope="col">at the fit</th>
              <th scope="col">now</th>
              <th scope="col">share at the fit and now</th>
              <th scope="col">index</th>
            </tr>
          </thead>
          <tbody>
            {clusters.slice(0, CLUSTERS).map(({ cluster, before, now, index }) => (
              <tr key={cluster}>
                <th scope="row">
                  <a href={clusterHref(cluster)}>{clusterName(cluster)}</a>
                </th>
                <td>{percent(before)}</td>
                <td>{percent(now)}</td>
                <td aria-hidden="true">
                  <span class="split thin" style={{ width: `${(100 * before) / most}%` }}>
                    <span class="before" />
                  </span>
                  <span class="split thin" style={{ width: `${(100 * now) / most}%` }}>
                    <span class="now" />
                  </span>
                </td>
                <td>{index.toFixed(3)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Panel>
      <Shadow />
    </>
  )
}

function Farthest({ far, hasRadii }: { far: DriftDocument['far']; hasRadii: boolean }) {
  const [title, note] = hasRadii
    ? [
        'Never seen before',
        'The newest examples that lie beyond the radius of their cluster, in radii of it; the farthest first.',
      ]
    : [
        'Farthest from all that was seen',
        'The newest examples by the distance to their cluster. This bundle has no radii, which would say from where on they are new: `xmasd fit` makes one that has.',
      ]
  return (
    <Panel title={title} note={note}>
      {far.length === 0 && <p class="note">None lies beyond the radius of its cluster.</p>}
      <Cards of={far} note={farText} />
    </Panel>
  )
}

function farText({ times, distance }: DriftDocument['far'][number]): string {
  return times === null
    ? `distance ${Math.sqrt(distance ?? 0).toPrecision(2)}`
    : `${times.toFixed(1)} radii`
}

/** By the usual rule of thumb, above what chance gives. */
function verdictOf(index: number, noise: number): string {
  const above = index - noise
  if (above < 0.1) return 'no drift to speak of'
  return above < 0.25 ? 'some drift' : 'strong drift: fit a new bundle'
}

function Shadow() {
  const { version, figures } = useLive()
  const { value } = useApi<ShadowDocument>('shadow', version, 2_000)
  if (value === undefined || value.bundle === null) {
    return (
      <Panel title="Shadow">
        <p class="note">
          No shadow bundle is set: `xmasd bundle shadow DIR` tries one beside the active bundle.
        </p>
      </Panel>
    )
  }
  const { bundle, differing, decided, examples } = value
  return (
    <Panel title={`Shadow ${bundle}`}>
      <p class="facts">
        Of {count(decided)} examples that it has decided, <b>{count(differing)}</b> differ.
        {figures !== undefined && ` Subsets differ by ${percent(figures.shadowDifference)}.`}
      </p>
      <Cards of={examples} note={({ shadow }) => `shadow: ${shadow}`} />
    </Panel>
  )
}
