/** The built daemon in its own process, observed from outside: its progress and its memory. */
import { createInterface } from 'node:readline'
import { start } from '../test/e2e/command.ts'
import { type Memory, memoryOf } from './child.ts'

export type Sight = { atMs: number; done: number; memory: Memory }

const LOOK_MS = 250

/**
 * Runs one role until it has committed `records` of its input, then ends it. Takes a reading at the
 * start, four a second, and one at the end; counts are those of its log lines. Throws unless it exits 0.
 */
export async function watchDaemon(
  role: 'score' | 'select',
  config: string,
  records: number,
  env: NodeJS.ProcessEnv = {},
): Promise<Sight[]> {
  const args = ['run', '--config', config, '--roles', role]
  const { child, ended } = start(args, { XMASD_LOGGING_LEVEL: 'info', ...env })
  const sights: Sight[] = []
  let done = 0
  const look = (): void => {
    sights.push({ atMs: performance.now(), done, memory: memoryOf(child.pid!) })
  }
  let timer: NodeJS.Timeout | undefined
  const isDone = new Promise<void>(resolve => {
    createInterface({ input: child.stderr! }).on('line', line => {
      if (!line.startsWith('{')) return // the message of an exit
      const { msg, assigned = 0, deadLetters = 0, assignments = 0 } = JSON.parse(line)
      if (msg === 'started') {
        look()
        timer = setInterval(look, LOOK_MS)
      } else if (msg === 'batch') done += assigned + deadLetters + assignments
      if (done >= records) resolve()
    })
  })
  await Promise.race([isDone, ended])
  clearInterval(timer)
  if (done >= records) look()
  child.kill('SIGTERM')
  const { code, signal, stderr } = await ended
  if (code !== 0 || done < records) {
    throw new Error(
      `${role}: ${done} of ${records}, exit ${code ?? signal}\n${stderr.slice(-3000)}`,
    )
  }
  return sights
}

/** Records a second. */
export function rateOf(sights: readonly Sight[]): number {
  const [first, last] = [sights[0]!, sights.at(-1)!]
  return (1000 * (last.done - first.done)) / (last.atMs - first.atMs)
}

export type Trend = {
  /** Of the least-squares line over the sights, from their first to their last record. */
  driftPercent: number
  bytesPerRecord: number
  bytesMean: number
}

/**
 * Where memory is going: the line of least squares through bytes over records done. All sights have their say, so a
 * collection of garbage early or late moves it little; a leak of b bytes a record shows as b.
 */
export function trendOf(sights: readonly Sight[], part: keyof Memory): Trend {
  const mean = (of: (sight: Sight) => number): number =>
    sights.reduce((sum, sight) => sum + of(sight), 0) / sights.length
  const middle = mean(({ done }) => done)
  const bytesMean = mean(({ memory }) => memory[part])
  const covariance = mean(({ done, memory }) => (done - middle) * (memory[part] - bytesMean))
  const bytesPerRecord = covariance / mean(({ done }) => (done - middle) ** 2)
  const [first, last] = [sights[0]!.done, sights.at(-1)!.done]
  const atFirst = bytesMean + bytesPerRecord * (first - middle)
  return {
    bytesMean,
    bytesPerRecord,
    driftPercent: (100 * bytesPerRecord * (last - first)) / atFirst,
  }
}
