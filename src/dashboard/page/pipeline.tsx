/** The flow as a graph: stages, queues, and what passes between them. */
import type { ComponentChildren } from 'preact'
import type { Figures } from '../schemas.ts'
import { useLive } from './store.ts'
import { count, Panel, rate, seconds, Waiting } from './widgets.tsx'

export function Pipeline() {
  const { figures } = useLive()
  if (figures === undefined) return <Waiting problem={undefined} />
  const { topics, rates, backlog, workers, batchesInFlight, examples, decisions } = figures
  const dead = examples.dead_letter ?? 0
  const ingest = workers?.ingest
  const score = workers?.score
  return (
    <Panel
      title="Pipeline"
      note="From the examples to the subset. Counts are since this process started; rates are of the last seconds."
    >
      <ol class="flow">
        <Stage name="examples" place={topics.examples} href="#/search/">
          {backlogText(backlog.score)}
        </Stage>
        <Edge text={`${rate(rates.assigned + rates.deadLetters)}/s`} />
        <Stage name="ingest" place="fetch, decode, tokenise">
          {ingest === undefined
            ? 'in another process'
            : `${ingest.busy} busy, ${ingest.waiting} waiting`}
        </Stage>
        <Edge text={`${batchesInFlight} batches`} />
        <Stage name="score" place="the proxy at every checkpoint">
          {score === undefined
            ? 'in another process'
            : `${score.busy} busy, ${score.waiting} waiting`}
        </Stage>
        <Edge text={`${rate(rates.assigned)}/s`} />
        <Stage name="assignments" place={topics.assignments} href="#/map">
          {backlogText(backlog.select)}
        </Stage>
        <Edge text={`${rate(rates.decided)}/s`} />
        <Stage name="select" place={`policy ${figures.policy}`} href="#/clusters">
          {count(figures.history)} counted
        </Stage>
        <Edge text={`${rate(rates.decided)}/s`} />
        <Stage name="subset" place={topics.subset} href="#/export">
          {count(figures.kept)} kept of {count(figures.budget)}
        </Stage>
      </ol>
      <ol class="flow aside">
        <Stage name="dead letters" place={topics.deadLetters} href="#/dead-letters">
          {count(dead)} · {rate(rates.deadLetters)}/s
        </Stage>
        <Stage name="decisions" place={topics.decisions} href="#/">
          {Object.entries(decisions)
            .map(([action, number]) => `${action} ${count(number)}`)
            .join(' · ')}
        </Stage>
        <Stage name="caught" place="counted once">
          {count(examples.duplicate ?? 0)} duplicates · {count(examples.near_duplicate ?? 0)} near ·{' '}
          {count(examples.redelivered ?? 0)} redelivered
        </Stage>
      </ol>
    </Panel>
  )
}

function backlogText(backlog: Figures['backlog']['score']): string {
  if (backlog === null) return 'the log does not answer'
  if (backlog.records === 0) return 'nothing waits'
  return `${count(backlog.records)} wait, ${seconds(backlog.seconds)} of work`
}

type StageProps = {
  name: string
  place: string | undefined
  href?: string
  children: ComponentChildren
}

function Stage({ name, place, href, children }: StageProps) {
  return (
    <li class="stage">
      <b>{href === undefined ? name : <a href={href}>{name}</a>}</b>
      <code>{place}</code>
      <span>{children}</span>
    </li>
  )
}

function Edge({ text }: { text: string }) {
  return (
    <li class="edge">
      <span>{text}</span>
      <span aria-hidden="true" class="arrow" />
    </li>
  )
}
