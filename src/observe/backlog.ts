/**
 * How long it takes to work off a backlog: the records behind, by the rate at which the group's
 * positions moved while it was behind. docs/metrics.md says what follows from that.
 */

/** What is looked at: positions and ends summed over partitions. */
export type Sight = {
  /** Milliseconds on a clock that never goes back. */
  atMs: number
  /** Records that the group has committed, ever. */
  committed: number
  /** Records that it has still to commit. */
  behind: number
  /** Seconds since the oldest of those was appended; 0 where none is known. */
  ageSeconds: number
}

export type BacklogMeter = {
  /** Seconds that the backlog takes, from this sight and those before. */
  see(sight: Sight): number
}

/** Moves of the positions between two sights at both of which the group was behind. */
type Move = { endedMs: number; seconds: number; records: number }

/**
 * Time in which there was nothing to do says nothing about the rate, so only moves from behind to
 * behind count, those of the last `windowMs`. Where they say nothing, or that nothing moved, it is the age of
 * the oldest record: never infinite, and growing by a second a second while nothing moves.
 */
export function createBacklogMeter({ windowMs = 300_000 } = {}): BacklogMeter {
  let moves: Move[] = []
  let last: Sight | undefined
  return {
    see: sight => {
      if (last !== undefined && last.behind > 0 && sight.behind > 0) {
        const seconds = (sight.atMs - last.atMs) / 1000
        const records = Math.max(0, sight.committed - last.committed)
        moves.push({ endedMs: sight.atMs, seconds, records })
      }
      moves = moves.filter(({ endedMs }) => sight.atMs - endedMs <= windowMs)
      last = sight
      if (sight.behind === 0) return 0
      const seconds = moves.reduce((sum, move) => sum + move.seconds, 0)
      const records = moves.reduce((sum, move) => sum + move.records, 0)
      return records === 0 ? sight.ageSeconds : (sight.behind * seconds) / records
    },
  }
}
