/** One example: picture, conversation, trajectory against its cluster, decisions, duplicates, why. */
import { useEffect, useState } from 'preact/hooks'
import { meaningOf } from '../../observe/colours.ts'
import type { ExampleDocument, ExampleRow } from '../schemas.ts'
import { Chart, Feet, Rules } from './charts.tsx'
import { frozen } from './frozen.ts'
import { get, useApi, useLive } from './store.ts'
import {
  Badge,
  Cards,
  clusterHref,
  clusterName,
  count,
  FactRows,
  Panel,
  Picture,
  reasonText,
  Waiting,
} from './widgets.tsx'

export function Example({ wanted }: { wanted: string }) {
  const { version } = useLive()
  const path = `examples/${encodeURIComponent(wanted)}`
  const { value, problem } = useApi<ExampleDocument>(path, version, 1_000)
  if (value === undefined) return <Waiting problem={problem} />
  const { explanation, conversation, lostTo, duplicates } = value
  const { key, keptNow, because, decisions } = explanation
  const last = decisions.at(-1)
  const state = decisions.length === 0 ? 'not decided yet' : keptNow ? 'kept' : 'not kept'
  return (
    <>
      <h1 class="key">{key}</h1>
      <p class="because">
        {last !== undefined && <Badge action={last.action} reason={last.reason} />} It is{' '}
        <b>{state}</b>: {because}.
      </p>
      <div class="columns">
        <Panel title="Example">
          <Pictures example={key} images={conversation.images} />
          {conversation.missing !== undefined && <p class="note">{conversation.missing}</p>}
          {conversation.turns.map(({ role, text }, i) => (
            <p class={`turn ${role === 'user' ? 'question' : 'answer'}`} key={i}>
              {text}
            </p>
          ))}
        </Panel>
        <Panel
          title="Trajectory"
          note="The score at each checkpoint. Behind it, its cluster: dashed the median, the band from 10 % to 90 %."
        >
          <Trajectory document={value} />
          <Facts document={value} />
        </Panel>
      </div>
      <History document={value} />
      {lostTo !== null && <Pair title="Lost to" examples={[lostTo]} />}
      {duplicates.length > 0 && (
        <Pair title={`Duplicates of it: ${duplicates.length}`} examples={duplicates} />
      )}
    </>
  )
}

function Pictures({ example, images }: { example: string; images: number }) {
  return (
    <div class="pictures">
      {Array.from({ length: images }, (_, n) => (
        <Picture key={n} example={{ key: example, images }} n={n} side={640} />
      ))}
    </div>
  )
}

function Pair({ title, examples }: { title: string; examples: ExampleRow[] }) {
  return (
    <Panel title={title}>
      <Cards of={examples} />
    </Panel>
  )
}

function Facts({ document: { explanation } }: { document: ExampleDocument }) {
  const { assignment, rank, clusterSize, quota } = explanation
  const { topic, partition, offset } = assignment.source
  const rows: [string, string | number][] = [
    ['rank', rank === null ? 'none' : `${count(rank)} of ${count(clusterSize)}`],
    ['quota of its cluster', count(quota)],
    ['instability', assignment.instability?.toPrecision(6) ?? 'none: text only'],
    ['squared distance to the centroid', assignment.distance?.toPrecision(4) ?? 'none'],
    ['read from', `${topic}/${partition}@${offset}`],
    ['bundle', assignment.bundle],
  ]
  return (
    <dl class="facts">
      <div>
        <dt>cluster</dt>
        <dd>
          <a href={clusterHref(assignment.cluster)}>{clusterName(assignment.cluster)}</a>
        </dd>
      </div>
      <FactRows rows={rows} />
    </dl>
  )
}

function History({ document: { explanation } }: { document: ExampleDocument }) {
  return (
    <Panel title="Every decision it had">
      {explanation.decisions.length === 0 && <p class="note">None yet.</p>}
      <ol class="history">
        {explanation.decisions.map(
          ({ action, reason, quota, duplicateOf, distance, measure }, i) => (
            <li key={i} class={meaningOf(action, reason)}>
              <Badge action={action} reason={reason} /> {reasonText(reason)}
              {duplicateOf === undefined ? (
                `; quota then ${count(quota)}`
              ) : (
                <>
                  {' '}
                  <a href={`#/example/${encodeURIComponent(duplicateOf)}`}>{duplicateOf}</a>
                </>
              )}
              {distance !== undefined && `, ${distance.toPrecision(3)} away by ${measure}`}
            </li>
          ),
        )}
      </ol>
    </Panel>
  )
}

function Trajectory({ document: { explanation, band, steps } }: { document: ExampleDocument }) {
  const scores = explanation.assignment.trajectory
  if (scores === null) return <p class="note">A text-only example has no trajectory.</p>
  const all = [...scores, ...(band?.low ?? []), ...(band?.high ?? [])]
  const [low, high] = [Math.min(...all), Math.max(...all)]
  const span = high - low || 1
  const share = (t: number): number => t / Math.max(1, scores.length - 1)
  return (
    <Chart
      height={240}
      left={52}
      label={`scores ${scores.map(score => score.toPrecision(4)).join(', ')}`}
    >
      {frame => {
        const points = (values: number[]): string[] =>
          values.map((v, t) => `${frame.x(share(t))},${frame.y((v - low) / span)}`)
        const ticks = [0, 0.5, 1].map(at => ({ at, text: (low + at * span).toPrecision(3) }))
        const feet = scores.map((_, t) => ({ at: share(t), text: String(steps?.[t] ?? t + 1) }))
        return (
          <>
            <Rules frame={frame} ticks={ticks} />
            {band !== null && (
              <>
                <polygon
                  points={[...points(band.low), ...points(band.high).reverse()].join(' ')}
                  class="band"
                />
                <polyline points={points(band.middle).join(' ')} class="middle" />
              </>
            )}
            <g class={explanation.keptNow ? 'keep' : 'drop'}>
              <polyline points={points(scores).join(' ')} class="own" stroke-width="2.5" />
              {scores.map((score, t) => (
                <circle key={t} cx={frame.x(share(t))} cy={frame.y((score - low) / span)} r="3" />
              ))}
            </g>
            <Feet frame={frame} ticks={feet} />
          </>
        )
      }}
    </Chart>
  )
}

type Found = { rows: ExampleRow[]; searched: number; examples: number }

/** Examples by id, key or words of the question. */
export function Search({ text }: { text: string }) {
  const [found, setFound] = useState<{ text: string; value?: Found; problem?: string }>({
    text: '',
  })
  useEffect(() => {
    const stopping = new AbortController()
    get<Found>(`examples?q=${encodeURIComponent(text)}`, stopping.signal).then(
      value => setFound({ text, value }),
      error => stopping.signal.aborted || setFound({ text, problem: String(error.message) }),
    )
    return () => stopping.abort()
  }, [text])
  if (found.text !== text || found.value === undefined) {
    return <p class="note">{found.text === text ? found.problem : 'Searching …'}</p>
  }
  const { rows, searched, examples } = found.value
  const isCut = searched === 0 && rows.length > 0
  return (
    <Panel title={`Found ${rows.length}${isCut ? ' or more' : ''}`}>
      <p class="note">
        By id, key or words of the question: “{text}”.
        {isCut && ' These are the newest whose id begins with it.'}
        {searched > 0 &&
          searched < examples &&
          ` The newest ${count(searched)} of ${count(examples)} examples were searched.`}
      </p>
      {rows.length === 0 && frozen === undefined && (
        <p>
          No assigned example has it. A record that could not be used is among the{' '}
          <a href="#/dead-letters">dead letters</a>; an example that still waits is not found yet.
        </p>
      )}
      <Cards of={rows} note={({ id }) => id} />
    </Panel>
  )
}
