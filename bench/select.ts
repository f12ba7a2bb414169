/**
 * The select role's work on a synthetic stream of assignments: poll, JSON parse, fold, decisions and
 * subset records, one commit with state a batch.
 *
 *   npm run bench:select -- [--examples N] [--clusters K] [--percent P] [--policy NAME]
 *                           [--settle-every N] [--T N] [--log local|none]
 *
 * Cluster sizes follow Zipf's law (exponent 1.1), 6% are text-only, 5% duplicates or redeliveries; the
 * seed is fixed. The first tenth is warm-up. `--log none` is for more examples than a disk holds: it
 * makes assignments batch by batch, outside the measured time, and discards outputs; the state is
 * durable. The last line is one JSON object:
 *
 * - `assignmentsPerSecond`: parsing, folding, building and serialising outputs, writing the state, on
 *   the main thread; `slowestTenthPerSecond`: the same over the slowest tenth of the stream
 * - `endToEndPerSecond`: with the log's polls and durable commits
 * - `bytesPerExample`: memory of the fold, opened again; `diskBytesPerExample`: of the state (with
 *   `--log none`)
 * - `restartMs`, `restartRssMb`, `restartHeapMb`: a new process until the state is open
 *   (`select-restart.ts`), all its memory and that of its objects; `peakRssMb`: of this process
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { openLocalLog } from '../src/log/local/log.ts'
import type { Commit, Consumer, Log, LogRecord, OutRecord } from '../src/log/log.ts'
import { type Assignment, readAssignment, TOPICS } from '../src/record.ts'
import { decisionOutputs, positionsAfter } from '../src/role/outcome.ts'
import { POLL_RECORDS_MAX } from '../src/role/select-role.ts'
import type { PolicyName } from '../src/select/rule/policy.ts'
import { SelectState } from '../src/select/state.ts'
import { assignments, fillAssignments } from './assignments.ts'
import type { Restart } from './select-restart.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '200000' },
    clusters: { type: 'string', default: '1000' },
    percent: { type: 'string', default: '20' },
    'settle-every': { type: 'string', default: '1' },
    T: { type: 'string', default: '8' },
    policy: { type: 'string', default: 'revisable' },
    log: { type: 'string', default: 'local' },
  },
})
const EXAMPLES = Number(options.examples)
const CLUSTERS = Number(options.clusters)
const CHECKPOINTS = Number(options.T)
const SETTINGS = {
  policy: options.policy as PolicyName,
  percent: Number(options.percent),
  settleEvery: Number(options['settle-every']),
  horizonExamples: EXAMPLES,
}
const WARM_UP_SHARE = 0.1
/** As the role polls; a short run still has batches after its warm-up. */
const BATCH_MAX = Math.min(POLL_RECORDS_MAX, Math.ceil(WARM_UP_SHARE * EXAMPLES))

const SIZE = { examples: EXAMPLES, clusters: CLUSTERS, checkpoints: CHECKPOINTS }
const TENTHS = 10
const RESTART = fileURLToPath(new URL('select-restart.js', import.meta.url))

/** Supplies batches, and takes what is committed of them. */
type Source = {
  poll(): Promise<LogRecord[]> | LogRecord[]
  commit(records: LogRecord[], outputs: OutRecord[], state: Commit['state']): Promise<void>
}

async function fromLog(log: Log, consumer: Consumer): Promise<Source> {
  await log.ensureTopics([{ name: TOPICS.decisions, partitions: 1 }])
  await log.ensureTopics([{ name: TOPICS.subset, partitions: 1, compacted: true }])
  const started = performance.now()
  await fillAssignments(log, SIZE)
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  process.stdout.write(`${EXAMPLES} assignments appended in ${seconds} s\n`)
  return {
    poll: () => consumer.poll({ recordsMax: BATCH_MAX, waitMsMax: 100 }),
    commit: (records, outputs, state) =>
      consumer.commit({ positions: positionsAfter(records), outputs, state }),
  }
}

function fromNowhere(consumer: Consumer): Source {
  const made = assignments(SIZE)
  let offset = 0
  const record = (assignment: Assignment): LogRecord => ({
    topic: TOPICS.assignments,
    partition: 0,
    offset: offset++,
    key: assignment.key,
    value: Buffer.from(JSON.stringify(assignment)),
    headers: {},
    timestamp: 0,
  })
  return {
    poll: () => {
      const batch: LogRecord[] = []
      while (batch.length < BATCH_MAX) {
        const { value, done } = made.next()
        if (done === true) break
        batch.push(record(value))
      }
      return batch
    },
    commit: (_records, _outputs, state) => consumer.commit({ positions: [], outputs: [], state }),
  }
}

type Counts = {
  folded: number
  decisions: number
  foldMs: number
  totalMs: number
  batchMs: number[]
}

/** The role's work on one batch; adds to `counts` after the warm-up. */
async function step(
  source: Source,
  state: SelectState,
  counts: Counts | undefined,
): Promise<number> {
  let started = performance.now()
  const records = await source.poll()
  if (options.log === 'none') started = performance.now()
  if (records.length === 0) return 0
  const foldStarted = performance.now()
  const outputs = records.flatMap(record => outputsFor(state, record))
  let foldMs = performance.now() - foldStarted
  await source.commit(records, outputs, writer => {
    const writeStarted = performance.now()
    state.write(writer)
    foldMs += performance.now() - writeStarted
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
  const { decisions } = state.fold(readAssignment(record), record.offset)
  return decisions.flatMap(decision => decisionOutputs(decision, TOPICS))
}

/** The rate over the slowest of ten parts of the stream. */
function slowestTenth(batchMs: readonly number[]): number {
  const length = Math.ceil(batchMs.length / TENTHS)
  const means = Array.from({ length: Math.ceil(batchMs.length / length) }, (_, tenth) => {
    const part = batchMs.slice(tenth * length, (tenth + 1) * length)
    return part.reduce((a, b) => a + b, 0) / part.length
  })
  return Math.round(1000 / Math.max(...means))
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6)
}

function bytesIn(folder: string): number {
  return readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0)
}

async function measure(folder: string): Promise<void> {
  const log = await openLocalLog({ path: folder })
  await log.ensureTopics([{ name: TOPICS.assignments, partitions: 1 }])
  const consumer = await log.consume({ group: 'bench', topics: [TOPICS.assignments] })
  const source = options.log === 'none' ? fromNowhere(consumer) : await fromLog(log, consumer)
  const state = new SelectState(consumer.state, SETTINGS)
  const counts: Counts = { folded: 0, decisions: 0, foldMs: 0, totalMs: 0, batchMs: [] }
  for (let done = 0; ; ) {
    const read = await step(source, state, done < WARM_UP_SHARE * EXAMPLES ? undefined : counts)
    done += read
    if (read === 0) break
  }
  await consumer.close()
  await log.close()
  const { kept, examples, duplicates } = state
  const restart = restarted(folder)
  if (restart.kept !== kept) throw new Error(`${restart.kept} kept, not ${kept}`)
  report({ ...counts, ...restart, examples, duplicates, diskBytes: bytesIn(folder) })
}

function restarted(folder: string): Restart {
  const args = [RESTART, folder, JSON.stringify(SETTINGS)]
  return JSON.parse(execFileSync(process.execPath, args).toString())
}

type Measured = Counts & Restart & { examples: number; duplicates: number; diskBytes: number }

function report(found: Measured): void {
  const { folded, foldMs, batchMs, examples } = found
  const slowest = slowestTenth(batchMs)
  const sorted = batchMs.sort((a, b) => a - b)
  const round = (value: number): number => Math.round(value * 1000) / 1000
  process.stdout.write(
    `${folded} folded after the warm-up; a batch's rate: best ${Math.round(1000 / sorted[0]!)}/s, ` +
      `median ${Math.round(1000 / sorted[sorted.length >> 1]!)}/s\n` +
      `${found.kept} of ${examples} kept, ${found.duplicates} duplicates\n`,
  )
  const document = {
    assignmentsPerSecond: Math.round((1000 * folded) / foldMs),
    slowestTenthPerSecond: slowest,
    endToEndPerSecond: Math.round((1000 * folded) / found.totalMs),
    bytesPerExample: round(found.arrayBytes / examples),
    ...(options.log === 'none' && { diskBytesPerExample: round(found.diskBytes / examples) }),
    decisionsPerAssignment: round(found.decisions / folded),
    restartMs: found.restartMs,
    restartRssMb: megabytes(found.rssBytes),
    restartHeapMb: megabytes(found.heapBytes),
    peakRssMb: megabytes(1024 * process.resourceUsage().maxRSS),
    examples: EXAMPLES,
    clusters: CLUSTERS,
    ...SETTINGS,
    log: options.log,
  }
  process.stdout.write(`${JSON.stringify(document)}\n`)
}

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-'))
try {
  await measure(folder)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
