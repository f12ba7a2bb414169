/** Progress of long work on stderr: a bar with rate and ETA on a terminal, a line now and then elsewhere. */
import cliProgress from 'cli-progress'

export type Progress = {
  /** Sets how much is done, in the units of `total`, and what else to show. */
  update(done: number, note?: string): void
  stop(): void
}

const LINE_EVERY_MS = 5_000

/** `total` may be unknown (undefined): then only count and rate are shown. */
export function startProgress(label: string, total: number | undefined): Progress {
  const isTerminal = process.stderr.isTTY === true && process.env.TERM !== 'dumb'
  return isTerminal && total !== undefined ? bar(label, total) : lines(label, total)
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
    update: (done, note = '') => shown.update(done, { rate: rateSince(started, done), note }),
    stop: () => shown.stop(),
  }
}

function lines(label: string, total: number | undefined): Progress {
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
    update: (done, note) => {
      last = done
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
