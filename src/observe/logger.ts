/** pino, one JSON line an event, to stderr: stdout is data. */
import { type Logger, pino } from 'pino'

export type { Logger }

/** `forward` takes the place of stderr, for a live view that prints logs above itself. */
export function createLogger(level: string, forward?: (line: string) => void): Logger {
  const destination =
    forward === undefined ? pino.destination({ dest: 2, sync: true }) : { write: forward }
  const options = {
    level,
    base: undefined,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  }
  return pino(options, destination)
}
