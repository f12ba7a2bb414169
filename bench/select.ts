/**
 * The select role's work on a synthetic stream of assignments, through a real local log: poll, JSON
 * parse, fold, decisions and subset records, one commit with state a batch.
 *
 *   npm run bench:select -- [--examples N] [--clusters K] [--percent P] [--settle-every N] [--T N]
 *
 * Cluster sizes follow Zipf's law (exponent 1.1), 6 % are text-only, 5 % duplicates or redeliveries; the
 * seed is fixed. The first tenth is warm-up. The last line is one JSON object:
 * `assignmentsPerSecond` is parse + fold + building and serialising the outputs + writing the state, on
 * the main thread, which is what a core of the select role does; `endToEndPerSecond` adds the local log's
 * polls and durable commits; `bytesPerExample` is the memory that the fold holds for an example.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openLocalLog } from '../src/log/local.ts'
import type { Consumer, Log, LogRecord, OutRecord } from '../src/log/log.ts'
import { TOPICS } from '../src/record.ts'
import { decisionOutputs } from '../src/role/decision-outputs.ts'
import { positionsAfter } from '../src/role/outcome.ts'
import { POLL_RECORDS_MAX } from '../src/role/select-role.ts'
import { parseForFold } from '../src/select/parse.ts'
import { openSelectState, type SelectState } from '../src/select/state.ts'
import { fillAssignments } from './assignments.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '200000' },
    clusters: { type: 'string', default: '1000' },
    percent: { type: 'string', default: '20' },
    'settle-every': { type: 'string', default: '1' },
    T: { type: 'string', default: '8' },
  },
})
const EXAMPLES = Number(options.examples)
const CLUSTERS = Number(options.clusters)
const CHECKPOINTS = Number(options.T)
const SETTINGS = {
  policy: 'revisable',
  percent: Number(options.percent),
  settleEvery: Number(options['settle-every']),
} as const
const WARM_UP_SHARE = 0.1
/** As the role polls; a short run still has batches behind its warm-up. */
const BATCH_MAX = Math.min(POLL_RECORDS_MAX, Math.ceil(WARM_UP_SHARE * EXAMPLES))

async function fillLog(log: Log): Promise<void> {
  const topics = [TOPICS.assignments, TOPICS.decisions]
  await log.ensureTopics(topics.map(name => ({ name, partitions: 1 })))
  await log.ensureTopics([{ name: TOPICS.subset, partitions: 1, compacted: true }])
  await fillAssignments(log, {
    examples: EXAMPLES,
    clusters: CLUSTERS,
    checkpoints: CHECKPOINTS,
  })
}

type Counts = {
  folded: number
  decisions: number
  foldMs: number
  totalMs: number
  batchMs: number[]
}

/** What the role does with one batch; adds to `counts` unless it is warm-up. */
async function step(
  consumer: Consumer,
  state: SelectState,
  counts: Counts | undefined,
): Promise<number> {
  const started = performance.now()
  const records = await consumer.poll({ recordsMax: BATCH_MAX, waitMsMax: 100 })
  if (records.length === 0) return 0
  const foldStarted = performance.now()
  const outputs = records.flatMap(record => outputsFor(state, record))
  let foldMs = performance.now() - foldStarted
  const positions = positionsAfter(records)
  await consumer.commit({
    positions,
    outputs,
    state: writer => {
      const writeStarted = performance.now()
      state.write(writer)
      foldMs += performance.now() - writeStarted
    },
  })
  if (counts === undefined) return records.length
  counts.folded += records.length
  counts.decisions += outputs.filter(({ topic }) => topic === TOPICS.decisions).length
  counts.foldMs += foldMs
  counts.batchMs.push(foldMs / records.length)
  counts.totalMs += performance.now() - started
  return records.length
}

function outputsFor(state: SelectState, record: LogRecord): OutRecord[] {
  const { decisions } = state.fold(parseForFold(record.value!), record.offset)
  return decisions.flatMap(decision => decisionOutputs(decision, TOPICS))
}

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-'))
try {
  const log = await openLocalLog({ path: folder })
  const fillStarted = performance.now()
  await fillLog(log)
  const fillSeconds = (performance.now() - fillStarted) / 1000
  process.stdout.write(`${EXAMPLES} assignments appended in ${fillSeconds.toFixed(1)} s\n`)
  const consumer = await log.consume({ group: 'bench', topics: [TOPICS.assignments] })
  const state = openSelectState(consumer.state, SETTINGS)
  const counts: Counts = { folded: 0, decisions: 0, foldMs: 0, totalMs: 0, batchMs: [] }
  for (let done = 0; ; ) {
    const read = await step(consumer, state, done < WARM_UP_SHARE * EXAMPLES ? undefined : counts)
    done += read
    if (read === 0) break
  }
  const reopenStarted = performance.now()
  const reopened = openSelectState(consumer.state, SETTINGS)
  const reopenMs = performance.now() - reopenStarted
  if (reopened.kept !== state.kept) throw new Error(`${reopened.kept} kept, not ${state.kept}`)
  await consumer.close()
  await log.close()
  const sorted = counts.batchMs.sort((a, b) => a - b)
  const round = (value: number): number => Math.round(value * 1000) / 1000
  process.stdout.write(
    `${counts.folded} folded after the warm-up; a batch's rate: best ${Math.round(1000 / sorted[0]!)}/s, ` +
      `median ${Math.round(1000 / sorted[sorted.length >> 1]!)}/s\n` +
      `${state.kept} of ${state.examples} kept, ${state.duplicates} duplicates\n`,
  )
  const report = {
    assignmentsPerSecond: Math.round((1000 * counts.folded) / counts.foldMs),
    endToEndPerSecond: Math.round((1000 * counts.folded) / counts.totalMs),
    bytesPerExample: round(state.bytes / state.examples),
    decisionsPerAssignment: round(counts.decisions / counts.folded),
    reopenMs: Math.round(reopenMs),
    examples: EXAMPLES,
    clusters: CLUSTERS,
    ...SETTINGS,
    log: 'local',
  }
  process.stdout.write(`${JSON.stringify(report)}\n`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
