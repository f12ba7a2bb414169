/**
 * A process of its own that opens the state `bench:select` left behind, as a daemon that starts again does:
 * what it takes from the process' start on, and the memory that the state then holds. Prints one JSON object.
 *
 *   node .build/bench/select-restart.js FOLDER SETTINGS
 */
import { openLocalLog } from '../src/log/local.ts'
import { TOPICS } from '../src/record.ts'
import { openSelectState } from '../src/select/state.ts'

export type Restart = {
  /** From the process' start on. */
  restartMs: number
  /** All memory of the process, the pages of the state's file that the system may take back among it. */
  rssBytes: number
  /** Objects and arrays. */
  heapBytes: number
  kept: number
}

const [folder, settings] = process.argv.slice(2)
const log = await openLocalLog({ path: folder! })
const consumer = await log.consume({ group: 'bench', topics: [TOPICS.assignments] })
const { kept } = openSelectState(consumer.state, JSON.parse(settings!))
const restartMs = Math.round(performance.now())
const { rss, heapUsed, arrayBuffers } = process.memoryUsage()
const found: Restart = { restartMs, rssBytes: rss, heapBytes: heapUsed + arrayBuffers, kept }
process.stdout.write(`${JSON.stringify(found)}\n`)
await consumer.close()
await log.close()
