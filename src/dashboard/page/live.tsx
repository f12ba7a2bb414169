/** The ticker: decisions as they come. */
import { useState } from 'preact/hooks'
import { meaningOf } from '../../observe/colours.ts'
import type { Said } from '../schemas.ts'
import { useLive } from './store.ts'
import {
  Badge,
  clusterHref,
  clusterName,
  count,
  exampleHref,
  Panel,
  Picture,
  reasonText,
} from './widgets.tsx'

export function Ticker({ most }: { most: number }) {
  const { ticker, left } = useLive()
  const [paused, setPaused] = useState<Said[] | undefined>(undefined)
  const shown = (paused ?? ticker).slice(0, most)
  return (
    <Panel title="Decisions as they come">
      <div class="bar">
        <button
          type="button"
          aria-pressed={paused !== undefined}
          onClick={() => setPaused(paused ? undefined : ticker)}
        >
          {paused === undefined ? 'pause' : 'go on'}
        </button>
        {left > 0 && (
          <span class="note">{count(left)} more came faster than they can be shown</span>
        )}
      </div>
      {shown.length === 0 && (
        <p class="note">No decision yet. They appear here as examples arrive.</p>
      )}
      <ol class="ticker">
        {shown.map(said => (
          <Line key={said.offset} said={said} />
        ))}
      </ol>
    </Panel>
  )
}

function Line({ said }: { said: Said }) {
  const { key, action, reason, cluster, question, id, lostTo, images } = said
  const isDuplicate = meaningOf(action, reason) === 'duplicate'
  return (
    <li class={meaningOf(action, reason)} data-key={key}>
      <span class="thumb">
        <Picture example={{ key, images }} side={96} />
      </span>
      <div>
        <a href={exampleHref(key)}>{question || id}</a>
        <p>
          <Badge action={action} reason={reason} /> {reasonText(reason)}
          {lostTo !== null && (
            <>
              {isDuplicate ? ' ' : ', lost to '}
              <a href={exampleHref(lostTo)}>{lostTo.replace(/@[0-9a-f]{16}$/, '')}</a>
            </>
          )}
          {' · '}
          <a href={clusterHref(cluster)}>{clusterName(cluster)}</a>
        </p>
      </div>
    </li>
  )
}
