/** Which bundle was in force when. */
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import { groupsOf } from '../open-log.ts'
import type { Assignment, Control } from '../record.ts'

/** From `offset` of `assignments` on `bundle` is in force. The first one began with the log. */
export type Reign = { bundle: string; offset: number }

/** Where the select role stands: the offset that it has come to, and who was in force up to there. */
export type Stand = { position: number; reigns: Reign[] }

/** Longer records are assignments. */
const CONTROL_BYTES_MAX = 256

/**
 * Oldest first, neighbours of different bundles: a swap to what is in force begins nothing. Empty where nothing
 * has been assigned. Those that began before the offset `before`; the first one always. Looks at every record of
 * `assignments` up to there.
 */
export async function readReigns(
  log: Log,
  config: Config,
  before = Number.POSITIVE_INFINITY,
): Promise<Reign[]> {
  const reigns: Reign[] = []
  for await (const { value, offset } of log.read(config.log.topics.assignments)) {
    const isFirst = reigns.length === 0
    if (!isFirst && offset >= before) break
    if (value === null) continue
    if (!isFirst && value.length > CONTROL_BYTES_MAX) continue
    const record = JSON.parse(Buffer.from(value).toString()) as Assignment | Control
    if ('control' in record) {
      const isOther = record.control === 'swap' && record.bundle !== reigns.at(-1)?.bundle
      if (isOther) reigns.push({ bundle: record.bundle, offset })
    } else if (isFirst) reigns.push({ bundle: record.bundle, offset })
  }
  return reigns
}

/** To be read before anything that the select role decides: all of that is then of what it has come to, or later. */
export async function readStand(log: Log, config: Config): Promise<Stand> {
  const committed = await log.committed(groupsOf(config).select, config.log.topics.assignments)
  const position = committed[0] ?? 0
  return { position, reigns: await readReigns(log, config, position) }
}
