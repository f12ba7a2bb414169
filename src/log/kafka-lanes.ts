/** The lanes of a consumer: found by place, held or let go, polled in turn. */
import { Lane } from './kafka-lane.ts'
import { type LogRecord, type Place, placeKey } from './log.ts'

export class Lanes {
  readonly #lanes = new Map<string, Lane>()
  #turn = 0

  at(place: Place): Lane | undefined {
    return this.#lanes.get(placeKey(place))
  }

  [Symbol.iterator](): Iterator<Lane> {
    return this.#lanes.values()
  }

  /** Made where it is not known: a topic may be given more partitions. */
  ensure({ topic, partition }: Place): Lane {
    let lane = this.at({ topic, partition })
    if (lane === undefined) {
      lane = new Lane(topic, partition)
      this.#lanes.set(placeKey(lane), lane)
    }
    return lane
  }

  held(): Place[] {
    return [...this].filter(lane => lane.isHeld).map(placeOf)
  }

  /**
   * From one lane as much as there is, then from the next: a batch has few partitions, so its commit
   * has few transactions, and every lane has its turn.
   */
  take(recordsMax: number, bytesMax: number): LogRecord[] {
    const records: LogRecord[] = []
    const lanes = [...this].filter(lane => lane.isDelivering && lane.waiting > 0)
    let bytes = 0
    for (let i = 0; i < lanes.length && records.length < recordsMax && bytes < bytesMax; i++) {
      const lane = lanes[(this.#turn + i) % lanes.length]!
      bytes += lane.take(recordsMax - records.length, bytesMax - bytes, records)
    }
    this.#turn++
    return records
  }
}

export function placeOf({ topic, partition }: Place): Place {
  return { topic, partition }
}
