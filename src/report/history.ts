/** What the log says of single examples, read for people: `explain`, `export`, `report`. */
import type { Config } from '../config.ts'
import type { Log, LogRecord } from '../log/log.ts'
import type { Assignment, Control, Decision } from '../record.ts'
import { ClustersInForce } from '../role/clusters-in-force.ts'
import type { Stand } from './reigns.ts'

const CONTROL_TEXT = '{"v":1,"control"'

/** Every assignment in log order, as it was written; controls are left out. */
export async function* assignmentsOf(log: Log, config: Config): AsyncGenerator<Assignment> {
  for await (const { assignment } of recordsOf(log, config)) yield assignment
}

/** Not `isFolded`: the select role has not come to it yet, and nothing is known of it but this. */
export type Assigned = { assignment: Assignment; isFolded: boolean }

/** The same with the clusters of the bundle that is in force where the select role stands. */
export async function* assignmentsInForce(
  log: Log,
  config: Config,
  { position, reigns }: Stand,
): AsyncGenerator<Assigned> {
  const clusters = new ClustersInForce(log, config.log.topics.bundles)
  const inForce = reigns.at(-1)?.bundle
  for await (const { record, assignment } of recordsOf(log, config)) {
    const bundle = inForce ?? assignment.bundle
    const isFolded = record.offset < position
    yield { assignment: await clusters.of(record, assignment, bundle), isFolded }
  }
}

async function* recordsOf(
  log: Log,
  config: Config,
): AsyncGenerator<{ record: LogRecord; assignment: Assignment }> {
  for await (const record of log.read(config.log.topics.assignments)) {
    const value = JSON.parse(Buffer.from(record.value!).toString()) as Assignment | Control
    if (!('control' in value)) yield { record, assignment: value }
  }
}

/** The same as JSON texts, in the form of a file of trajectories. */
export async function* assignmentTexts(log: Log, config: Config): AsyncGenerator<string> {
  for await (const { value } of log.read(config.log.topics.assignments)) {
    const text = Buffer.from(value!).toString()
    if (!text.startsWith(CONTROL_TEXT)) yield text
  }
}

/** Every decision in log order, with its offset. */
export async function* decisionsOf(
  log: Log,
  config: Config,
): AsyncGenerator<{ decision: Decision; offset: number }> {
  for await (const { value, offset } of log.read(config.log.topics.decisions)) {
    yield { decision: JSON.parse(Buffer.from(value!).toString()) as Decision, offset }
  }
}

/** The keys kept now, oldest first: the `subset` topic folded by key. */
export async function readSubset(log: Log, config: Config): Promise<Set<string>> {
  const keys = new Set<string>()
  for await (const record of log.read(config.log.topics.subset)) {
    if (record.key === null) continue
    keys.delete(record.key)
    if (record.value !== null) keys.add(record.key)
  }
  return keys
}
