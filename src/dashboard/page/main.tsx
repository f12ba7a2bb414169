/** The page: header, navigation, and one view by the address. */
import { render } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { COLOURS } from '../../observe/colours.ts'
import { Gallery, Wall } from './clusters.tsx'
import { Drift } from './drift.tsx'
import { Example, Search } from './example.tsx'
import { frozen } from './frozen.ts'
import { DeadLetters, Export } from './letters.tsx'
import { Ticker } from './live.tsx'
import { TrajectoryMap } from './map.tsx'
import { Pipeline } from './pipeline.tsx'
import { Report, ReportHeader } from './report.tsx'
import { connect, useLive, useRoute } from './store.ts'
import { WhatIf } from './what-if.tsx'
import { count, Figure, percent, rate, seconds } from './widgets.tsx'

/** What needs a daemon is not in a report. */
const LIVE_ONLY = ['/what-if', '/pipeline']
const VIEWS = (
  [
    ['/', frozen === undefined ? 'Live' : 'Report'],
    ['/clusters', 'Clusters'],
    ['/map', 'Map'],
    ['/what-if', 'What if'],
    ['/drift', 'New and drift'],
    ['/pipeline', 'Pipeline'],
    ['/dead-letters', 'Dead letters'],
    ['/export', 'Export'],
  ] as [href: string, name: string][]
).filter(([href]) => frozen === undefined || !LIVE_ONLY.includes(href))

function App() {
  const route = useRoute()
  useEffect(() => {
    scrollTo(0, 0)
    const view = VIEWS.find(([href]) => href === route)?.[1] ?? decoded(route.split('/')[2] ?? '')
    const isFirst = frozen !== undefined && route === '/'
    document.title = isFirst ? 'xmasd report' : `xmasd · ${view}`
  }, [route])
  return (
    <>
      <button type="button" class="skip" onClick={() => document.getElementById('main')?.focus()}>
        skip to the content
      </button>
      <Header />
      <nav aria-label="views">
        <ul>
          {VIEWS.map(([href, name]) => (
            <li key={href}>
              <a href={`#${href}`} aria-current={href === route ? 'page' : undefined}>
                {name}
              </a>
            </li>
          ))}
        </ul>
        <SearchField route={route} />
      </nav>
      <main id="main" tabIndex={-1}>
        <View route={route} />
      </main>
    </>
  )
}

function View({ route }: { route: string }) {
  const [, name, ...rest] = route.split('/')
  const argument = decoded(rest.join('/'))
  if (name === 'clusters') return <Wall />
  if (name === 'cluster') return <Gallery cluster={argument} key={argument} />
  if (name === 'example') return <Example wanted={argument} key={argument} />
  if (name === 'search') return <Search text={argument} />
  if (name === 'map') return <TrajectoryMap />
  if (name === 'what-if') return <WhatIf />
  if (name === 'drift') return <Drift />
  if (name === 'pipeline') return <Pipeline />
  if (name === 'dead-letters') return <DeadLetters />
  if (name === 'export') return <Export />
  if (frozen !== undefined) return <Report frozen={frozen} />
  return (
    <div class="live">
      <Ticker most={24} />
      <Wall />
    </div>
  )
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function Header() {
  const { figures, isConnected, isCaughtUp, progress } = useLive()
  if (frozen !== undefined) {
    return (
      <header>
        <p class="name">xmasd</p>
        <ReportHeader frozen={frozen} />
        <Theme />
      </header>
    )
  }
  if (figures === undefined) {
    return (
      <header>
        <p class="name">xmasd</p>
        <p role="status">{isConnected ? 'connected …' : 'connecting …'}</p>
      </header>
    )
  }
  const {
    kept,
    history,
    budget,
    examplesPerSecond,
    oldestSeconds,
    bundle,
    health,
    percent: wanted,
  } = figures
  const word = isConnected ? health.word : 'not connected'
  const reason = isConnected ? health.reason : 'the daemon does not answer: trying again'
  return (
    <header>
      <p class="name">xmasd</p>
      <dl>
        <Figure name="kept of the budget" value={`${count(kept)} of ${count(budget)}`} id="kept">
          {percent(history === 0 ? 0 : kept / history)} of {count(history)}
          {wanted === null ? '' : `, ${wanted} % wanted`}
          {kept === budget ? ': on budget' : ''}
        </Figure>
        <Figure name="examples a second" value={rate(examplesPerSecond)} id="rate">
          <Curve />
        </Figure>
        <Figure name="oldest waiting" value={seconds(oldestSeconds)} id="oldest">
          {isCaughtUp ? '' : `reading the log: ${percent(progress, 0)}`}
        </Figure>
        <Figure name="active bundle" value={bundle} id="bundle">
          {figures.shadow === null ? '' : `shadow ${figures.shadow}`}
        </Figure>
        <Figure name="health" value={word} id="health">
          {reason}
        </Figure>
      </dl>
      <Theme />
    </header>
  )
}

/** Examples a second over the last two minutes. */
function Curve() {
  const { rates } = useLive()
  const most = Math.max(1, ...rates.map(({ perSecond }) => perSecond))
  const points = rates.map(({ perSecond }, i) => `${i},${20 - (18 * perSecond) / most}`)
  return (
    <svg
      class="curve"
      viewBox={`0 0 ${Math.max(60, rates.length)} 20`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      <polyline points={points.join(' ')} />
    </svg>
  )
}

function SearchField({ route }: { route: string }) {
  const [, view, ...rest] = route.split('/')
  const [text, setText] = useState('')
  useEffect(() => {
    setText(view === 'search' ? decoded(rest.join('/')) : '')
  }, [route])
  useEffect(() => {
    const listener = (event: KeyboardEvent): void => {
      if (event.key !== '/' || isTypedInto(event.target)) return
      event.preventDefault()
      document.getElementById('search')?.focus()
    }
    addEventListener('keydown', listener)
    return () => removeEventListener('keydown', listener)
  }, [])
  const search = (event: Event): void => {
    event.preventDefault()
    if (text.trim() !== '') location.hash = `#/search/${encodeURIComponent(text.trim())}`
  }
  return (
    <search>
      <form onSubmit={search}>
        <input
          id="search"
          type="search"
          placeholder="id, key or words  ( / )"
          aria-label="search by id, key or words of the question"
          value={text}
          onInput={event => setText(event.currentTarget.value)}
        />
      </form>
    </search>
  )
}

/** Whether a key pressed there is meant for a field. */
function isTypedInto(target: EventTarget | null): boolean {
  return target instanceof Element && target.matches('input, select, textarea')
}

const THEME = 'xmasd-theme'

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? 'light')
  const other = theme === 'dark' ? 'light' : 'dark'
  const change = (): void => {
    localStorage.setItem(THEME, other)
    applyTheme(other)
    setTheme(other)
  }
  return (
    <button type="button" class="theme" onClick={change}>
      {other}
    </button>
  )
}

/** The meanings' colours come from their one table. */
function applyTheme(theme: 'light' | 'dark'): void {
  const { style, dataset } = document.documentElement
  dataset.theme = theme
  for (const [meaning, colour] of Object.entries(COLOURS))
    style.setProperty(`--${meaning}`, colour[theme])
}

const chosen = localStorage.getItem(THEME)
const prefersDark = matchMedia('(prefers-color-scheme: dark)').matches
applyTheme(chosen === 'dark' || (chosen === null && prefersDark) ? 'dark' : 'light')
if (frozen === undefined) connect()
const app = document.getElementById('app')!
app.textContent = ''
render(<App />, app)
