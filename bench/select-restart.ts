/**
 * Opens the state that `bench:select` wrote, as a daemon that restarts does. Prints one JSON object: the
 * time since the process started, and the memory that the state holds.
 *
 *   node .build/bench/select-restart.js FOLDER SETTINGS
 */
import { openLocalLog } from '../src/log/local/log.ts'
import { TOPICS } from '../src/record.ts'
import { SelectState } from '../src/select/state.ts'
import { arrayBytes } from './child.ts'

export type Restart = {
  /** From the process' start on. */
  restartMs: number
  /** All memory of the process, the pages of the state's file that the system may take back among it. */
  rssBytes: number
  /** Objects and arrays. */
  heapBytes: number
  /** The arrays of the state's columns. */
  arrayBytes: number
  kept: number
}

const [folder, settings] = process.argv.slice(2)
const log = await openLocalLog({ path: folder! })
const consumer = await log.consume({ group: 'bench', topics: [TOPICS.assignments] })
let state: SelectState | undefined = new SelectState(consumer.state, JSON.parse(settings!))
const restartMs = Math.round(performance.now())
const { rss, heapUsed, arrayBuffers } = process.memoryUsage()
const all = arrayBytes()
const { kept } = state
state = undefined
const own = all - arrayBytes()
const heapBytes = heapUsed + arrayBuffers
const found: Restart = { restartMs, rssBytes: rss, heapBytes, arrayBytes: own, kept }
process.stdout.write(`${JSON.stringify(found)}\n`)
await consumer.close()
await log.close()
