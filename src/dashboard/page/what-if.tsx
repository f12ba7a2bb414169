/** What if: a replay under another percent, policy or K; who would leave and who would come. */
import { useEffect, useRef, useState } from 'preact/hooks'
import type { ExampleRow, WhatIfResult } from '../schemas.ts'
import { Choice } from './clusters.tsx'
import { get, useLive } from './store.ts'
import { count, FactRows, Grid, Panel, percent } from './widgets.tsx'

type Run = { share?: number; result?: WhatIfResult; problem?: string }

type Asked = { percent: string; policy: string; clusters: string }

export function WhatIf() {
  const { figures } = useLive()
  const [asked, setAsked] = useState<Asked>({ percent: '', policy: '', clusters: '' })
  const [run, setRun] = useState<Run>({})
  const source = useRef<EventSource | undefined>(undefined)
  const stop = (): void => {
    source.current?.close()
    source.current = undefined
  }
  useEffect(() => stop, [])
  const start = (event: Event): void => {
    event.preventDefault()
    stop()
    setRun({ share: 0 })
    source.current = replay(asked, next => {
      setRun(next)
      if (next.share === undefined) stop()
    })
  }
  const isRunning = run.share !== undefined
  return (
    <>
      <Panel
        title="What if"
        note="The whole log is decided again under other settings, in a process of its own. An empty field stays as now. The daemon and its subset do not change."
      >
        <Form
          asked={asked}
          setAsked={setAsked}
          now={String(figures?.percent ?? '')}
          isRunning={isRunning}
          onSubmit={start}
          onCancel={() => {
            stop()
            setRun({})
          }}
        />
        {isRunning && (
          <progress max={1} value={run.share} aria-label="share of the log that is folded" />
        )}
        {run.problem !== undefined && <p class="problem">{run.problem}</p>}
      </Panel>
      {run.result !== undefined && <Result result={run.result} />}
    </>
  )
}

const POLICIES = {
  '': { name: 'as now' },
  revisable: { name: 'revisable' },
  final: { name: 'final' },
  naive: { name: 'naive' },
}

type FormProps = {
  asked: Asked
  setAsked: (asked: Asked) => void
  /** The percent of now. */
  now: string
  isRunning: boolean
  onSubmit: (event: Event) => void
  onCancel: () => void
}

function Form({ asked, setAsked, now, isRunning, onSubmit, onCancel }: FormProps) {
  const set = (name: keyof typeof asked) => (event: Event & { currentTarget: { value: string } }) =>
    setAsked({ ...asked, [name]: event.currentTarget.value })
  return (
    <form class="bar" onSubmit={onSubmit}>
      <label>
        percent{' '}
        <input
          type="number"
          min="0"
          max="100"
          step="any"
          placeholder={now}
          value={asked.percent}
          onInput={set('percent')}
        />
      </label>
      <Choice
        label="policy"
        value={asked.policy}
        of={POLICIES}
        choose={policy => setAsked({ ...asked, policy })}
      />
      <label>
        clusters{' '}
        <input
          type="number"
          min="1"
          placeholder="as now"
          value={asked.clusters}
          onInput={set('clusters')}
        />
      </label>
      <button type="submit" disabled={isRunning}>
        replay
      </button>
      {isRunning && (
        <button type="button" onClick={onCancel}>
          cancel
        </button>
      )}
    </form>
  )
}

function replay(asked: Asked, tell: (run: Run) => void): EventSource {
  const query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value !== ''))
  const source = new EventSource(`/api/v1/what-if?${query}`)
  source.addEventListener('progress', event => tell({ share: JSON.parse(event.data).share }))
  source.addEventListener('done', event => tell({ result: JSON.parse(event.data) }))
  source.addEventListener('failed', event => tell({ problem: JSON.parse(event.data).message }))
  source.addEventListener('error', () => {
    source.close()
    tell({ problem: 'the replay did not start: the values are not allowed, or another one runs' })
  })
  return source
}

function Result({ result }: { result: WhatIfResult }) {
  const { comparison, leaving, coming, policy } = result
  const { examples, kept, budget, today, clusters } = comparison
  const rows: [string, string][] = [
    [
      'kept then',
      `${count(kept)} of ${count(examples)} (${percent(kept / Math.max(1, examples))})`,
    ],
    ['budget then', count(budget)],
    ['kept now', count(today.kept)],
    ['in both', count(today.both)],
    ['would leave', count(today.onlyToday)],
    ['would come', count(today.onlyReplayed)],
    ['overlap', percent(today.jaccard)],
    ['clusters', count(clusters.used)],
    ['mean instability', comparison.meanInstability?.toPrecision(5) ?? 'none'],
  ]
  return (
    <>
      <Panel title={`Policy ${policy}${result.percent === null ? '' : ` at ${result.percent} %`}`}>
        <dl class="facts" data-result="what-if">
          <FactRows rows={rows} />
        </dl>
      </Panel>
      <Keys title="Would leave" keys={leaving} of={today.onlyToday} />
      <Keys title="Would come" keys={coming} of={today.onlyReplayed} />
    </>
  )
}

function Keys({ title, keys, of }: { title: string; keys: string[]; of: number }) {
  const load = async (from: number, length: number): Promise<ExampleRow[]> => {
    const query = keys.slice(from, from + length).map(key => `key=${encodeURIComponent(key)}`)
    return (await get<{ rows: ExampleRow[] }>(`examples?${query.join('&')}`)).rows
  }
  const more = keys.length < of ? `, the newest ${count(keys.length)} of them` : ''
  return (
    <Panel title={`${title}: ${count(of)}${more}`}>
      <Grid total={keys.length} load={load} name={`${title}/${keys[0]}/${keys.length}`} />
    </Panel>
  )
}
