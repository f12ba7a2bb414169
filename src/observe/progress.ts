/** Progress of long work on stderr: a bar with rate and ETA on a terminal, a line every 5 s elsewhere. */
import cliProgress from 'cli-progress'

export type Progress = {
  /**
   * Sets how much is done, in units of `total`, and a note to show beside it. `share` of all, above 0
   * to 1, gives the total that was not known at the start.
   */
  update(done: number, note?: string, share?: number): void
  stop(): void
}

const LINE_EVERY_MS = 5_000

/** Without a `total` only count and rate are shown. 'by share': `update` tells it. */
export function startProgress(label: string, total: number | undefined | 'by share'): Progress {
  const isTerminal = process.stderr.isTTY === true && process.env.TERM !== 'dumb'
  const known = total === 'by share' ? undefined : total
  return isTerminal && total !== undefined ? bar(label, known ?? 0) : lines(label, known)
}

function totalOf(done: number, share: number): number {
  return Math.max(done, Math.round(done / Math.max(share, Number.EPSILON)))
}

function bar(label: string, total: number): Progress {
  const shown = new cliProgress.SingleBar({
    format: `${label} {bar} {value}/{total} · {rate}/s · ETA {eta_formatted} {note}`,
    barsize: 24,
    etaBuffer: 100,
    hideCursor: true,
    stream: process.stderr,
  })
  const started = performance.now()
  shown.start(total, 0, { rate: '-', note: '' })
  return {
    update: (done, note = '', share) => {
      if (share !== undefined) shown.setTotal(totalOf(done, share))
      shown.update(done, { rate: rateSince(started, done), note })
    },
    stop: () => shown.stop(),
  }
}

function lines(label: string, known: number | undefined): Progress {
  let total = known
  const started = performance.now()
  let shownAt = started
  let last = 0
  let shownNote = ''
  const print = (): void => {
    const eta =
      total === undefined || last === 0 ? '' : ` · ETA ${etaSeconds(started, last, total)} s`
    const of = total === undefined ? '' : `/${total}`
    process.stderr.write(
      `${label} ${last}${of} · ${rateSince(started, last)}/s${eta}${shownNote}\n`,
    )
  }
  return {
    update: (done, note, share) => {
      last = done
      if (share !== undefined) total = totalOf(done, share)
      shownNote = note === undefined ? '' : ` · ${note}`
      if (performance.now() - shownAt < LINE_EVERY_MS) return
      shownAt = performance.now()
      print()
    },
    stop: print,
  }
}

function rateSince(started: number, done: number): string {
  const rate = done / Math.max(1e-3, (performance.now() - started) / 1000)
  return rate >= 100 ? rate.toFixed(0) : rate.toFixed(1)
}

function etaSeconds(started: number, done: number, total: number): string {
  const seconds = (performance.now() - started) / 1000
  return ((seconds / done) * (total - done)).toFixed(0)
}

/** "about 40 s", "about 12 min", "about 3.5 h" */
export function aboutSeconds(seconds: number): string {
  if (seconds < 90) return `about ${Math.ceil(seconds)} s`
  if (seconds < 90 * 60) return `about ${Math.round(seconds / 60)} min`
  return `about ${(seconds / 3600).toFixed(1)} h`
}
