/** What the end-to-end tests on Kafka share: a site of its own topics and groups, its members, and what has to be true afterwards. */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { loadConfig } from '../../src/config.ts'
import { messageOf } from '../../src/errors.ts'
import { Brokers } from '../../src/kafka/link/brokers.ts'
import type { Log, LogRecord } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import type { Assignment, Control, Decision, Source } from '../../src/record.ts'
import { selectBatch } from '../../src/select/rule/quotas.ts'
import { type Ended, makeSite, type Site, start } from '../e2e/command.ts'
import { unique } from '../log/helpers.ts'
import { Subset } from '../select/stream.ts'
import { kafkaOptions, SESSION_MS_MAX } from './setup.ts'

export type KafkaSite = Site & {
  config: string
  /** The topics' names by what they are for. */
  topics: Record<'examples' | 'assignments' | 'decisions' | 'subset' | 'deadLetters', string>
  groups: { score: string; select: string }
  open(): Promise<Log>
}

const TOPICS = [
  'examples',
  'assignments',
  'decisions',
  'subset',
  'deadLetters',
  'bundles',
  'shadow',
]

/** `more`: further top-level keys; `log`: further keys of `log`, as YAML flow entries. */
export function kafkaSite(
  t: TestContext,
  address: string,
  options: { partitions?: number; log?: string[]; more?: string[] } = {},
): KafkaSite {
  const name = unique('e2e')
  const topics = Object.fromEntries(TOPICS.map(topic => [topic, `${name}-${topic}`]))
  const groups = { score: `${name}-score`, select: `${name}-select` }
  const log = [
    'kind: kafka',
    `brokers: ['${address}']`,
    'path: ./state',
    `examplesPartitions: ${options.partitions ?? 1}`,
    `sessionMsMax: ${SESSION_MS_MAX}`,
    `topics: ${JSON.stringify(topics)}`,
    ...(options.log ?? []),
  ]
  const site = makeSite(
    t,
    [
      `log: { ${[...new Map(log.map(entry => [entry.split(':')[0], entry])).values()].join(', ')} }`,
      `score: { group: ${groups.score}, batchExamplesMax: 32 }`,
      `select: { group: ${groups.select}, percent: ${PERCENT} }`,
      ...(options.more ?? []),
    ].join('\n'),
  )
  const open = (): Promise<Log> => openLog(loadConfig(site.config, {}).log)
  return { ...site, topics: topics as KafkaSite['topics'], groups, open }
}

export const PERCENT = 20

/** A process of the daemon. Its counters are in `summary` once it has ended orderly. */
export class Member {
  readonly role: 'score' | 'select'
  readonly #started: ReturnType<typeof start>
  #stderr = ''

  constructor(site: Site, role: 'score' | 'select', env: NodeJS.ProcessEnv = {}) {
    this.role = role
    this.#started = start(['run', '--config', site.config, '--roles', role, '--json'], {
      XMASD_LOGGING_LEVEL: 'info',
      ...env,
    })
    this.#started.child.stderr!.on('data', (part: string) => {
      this.#stderr += part
    })
  }

  get pid(): number {
    return this.#started.child.pid!
  }

  get isRunning(): boolean {
    return this.#started.child.exitCode === null && this.#started.child.signalCode === null
  }

  get isStarted(): boolean {
    return this.isRunning && this.#stderr.includes('"started"')
  }

  get ended(): Promise<Ended> {
    return this.#started.ended
  }

  /** Resolves when `text` has come on stderr; fails after `msMax`. */
  async said(text: string, msMax = 60_000): Promise<void> {
    await until(`${this.role} says ${text}`, msMax, () => {
      assert.ok(this.isRunning || this.#stderr.includes(text), this.#stderr.slice(-3000))
      return this.#stderr.includes(text)
    }).catch(error => {
      throw new Error(`${messageOf(error)}\n${this.#stderr.slice(-3000)}`)
    })
  }

  /** Commits of its that were refused. */
  get fences(): number {
    return this.#stderr.split('another member of group').length - 1
  }

  /** What it has logged with this message. */
  logged(message: string): Record<string, number>[] {
    const lines = this.#stderr.split('\n').filter(line => line.includes(`"msg":"${message}"`))
    return lines.map(line => JSON.parse(line))
  }

  signal(signal: NodeJS.Signals): void {
    this.#started.child.kill(signal)
  }

  /** SIGTERM; fails unless it exits with 0. */
  async stop(): Promise<{ history: number; subset: number }> {
    this.signal('SIGTERM')
    const { code, stdout, stderr } = await this.ended
    assert.equal(code, 0, `${this.role} ended with ${code}\n${stderr.slice(-3000)}`)
    return JSON.parse(stdout)
  }
}

export async function until(
  what: string,
  msMax: number,
  isTrue: () => Promise<boolean> | boolean,
): Promise<void> {
  const deadline = performance.now() + msMax
  while (!(await isTrue())) {
    assert.ok(performance.now() < deadline, `${what}: not within ${msMax} ms`)
    await setTimeout(100)
  }
}

/** Nothing is left to read for either role. */
export async function isDone(log: Log, { topics, groups }: KafkaSite): Promise<boolean> {
  for (const [group, topic] of [
    [groups.score, topics.examples],
    [groups.select, topics.assignments],
  ] as const) {
    if ((await log.lag(group, topic)).some(({ behind }) => behind > 0)) return false
  }
  return true
}

export async function readTopic(log: Log, topic: string): Promise<LogRecord[]> {
  const records: LogRecord[] = []
  for (const partition of (await log.ends(topic)).keys()) {
    for await (const record of log.read(topic, { partition })) records.push(record)
  }
  return records
}

export function json<T>({ value }: LogRecord): T {
  return JSON.parse(Buffer.from(value!).toString()) as T
}

/**
 * Read committed: every example has exactly one outcome, the decisions are a legal story told once, and the
 * subset that they make, the compacted topic, and the batch rule over the assignments are one.
 */
export async function assertExactlyOnce(
  log: Log,
  { topics }: KafkaSite,
): Promise<{ assigned: number; deadLetters: number; kept: number }> {
  const [examples, assigned, dead] = await Promise.all(
    [topics.examples, topics.assignments, topics.deadLetters].map(topic => readTopic(log, topic)),
  )
  const assignments = assigned!
    .map(json<Assignment | Control>)
    .flatMap(one => ('control' in one ? [] : [one]))
  const placeOf = ({ partition, offset }: Pick<Source, 'partition' | 'offset'>): string =>
    `${partition}@${offset}`
  const outcomes = [
    ...assignments.map(({ source }) => placeOf(source)),
    ...dead!.map(({ headers }) => placeOf(JSON.parse(headers.source!) as Source)),
  ]
  assert.deepEqual([...outcomes].sort(), examples!.map(placeOf).sort())
  const told = new Subset()
  for (const record of await readTopic(log, topics.decisions)) told.apply([json<Decision>(record)])
  const folded = new Set<string>()
  for (const { key, value } of await readTopic(log, topics.subset)) {
    if (value === null) folded.delete(key!)
    else folded.add(key!)
  }
  const expected = keptByRule(assignments)
  assert.deepEqual([...told.kept].sort(), expected)
  assert.deepEqual([...folded].sort(), expected)
  assert.equal(told.decided.size, new Set(assignments.map(({ key }) => key)).size)
  return { assigned: assignments.length, deadLetters: dead!.length, kept: expected.length }
}

/** The batch rule over the first assignment of every content. */
function keptByRule(assignments: readonly Assignment[]): string[] {
  const seen = new Set<string>()
  const distinct = assignments.filter(({ content }) => {
    if (seen.has(content)) return false
    seen.add(content)
    return true
  })
  const { selected } = selectBatch(distinct, PERCENT)
  return selected.map(i => distinct[i]!.key).sort()
}

/** Connections of a test's own, for what it asks the brokers itself. */
export async function connected(t: TestContext, address: string): Promise<Brokers> {
  const { connection } = kafkaOptions(address, '')
  const brokers = new Brokers({ ...connection, logger: undefined })
  t.after(() => brokers.close())
  await brokers.connect()
  return brokers
}
