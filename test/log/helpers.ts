/** What the tests of the log share. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import type { TestContext } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import type { Consumer, Log, LogRecord, OutRecord, Position } from '../../src/log/log.ts'

export type MakeLog = (t: TestContext) => Promise<{ open(): Promise<Log> }>

/** A new log with one topic. */
export type Scene = (
  t: TestContext,
  partitions?: number,
) => Promise<{ open(): Promise<Log>; log: Log; topic: string }>

export function unique(word: string): string {
  return `${word}-${randomUUID().slice(0, 8)}`
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

export function text(value: Uint8Array | null | undefined): string | null {
  return value == null ? null : Buffer.from(value).toString()
}

/** Polls until `count` records have come; fails after `waitMsMax`. */
export async function pollCount(
  consumer: Consumer,
  count: number,
  options: { recordsMax?: number; waitMsMax?: number } = {},
): Promise<LogRecord[]> {
  const { recordsMax = count, waitMsMax = 20_000 } = options
  const records: LogRecord[] = []
  const deadline = performance.now() + waitMsMax
  while (records.length < count && performance.now() < deadline) {
    const max = Math.min(recordsMax, count - records.length)
    records.push(...(await consumer.poll({ recordsMax: max, waitMsMax: 200 })))
  }
  assert.equal(records.length, count, `${records.length} of ${count} records came`)
  return records
}

/** The positions after these records. */
export function after(records: readonly LogRecord[]): Position[] {
  const positions = new Map<string, Position>()
  for (const { topic, partition, offset } of records) {
    positions.set(`${topic}/${partition}`, { topic, partition, offset: offset + 1 })
  }
  return [...positions.values()]
}

export async function readAll(log: Log, topic: string): Promise<LogRecord[]> {
  const records: LogRecord[] = []
  for (const partition of (await log.ends(topic)).keys()) {
    for await (const record of log.read(topic, { partition })) records.push(record)
  }
  return records
}

export function numbered(topic: string, count: number, from = 0): OutRecord[] {
  return Array.from({ length: count }, (_, i) => {
    return { topic, key: `k${from + i}`, value: bytes(String(from + i)) }
  })
}

export function isCode(code: string): (error: unknown) => boolean {
  return error => error instanceof XmasdError && error.code === code
}

/** One step of a member that copies records to `out`. */
export async function step(consumer: Consumer, out: string, recordsMax = 25): Promise<number> {
  const records = await consumer.poll({ recordsMax, waitMsMax: 100 })
  if (records.length === 0) return 0
  const outputs = records.map(({ key, value }) => ({ topic: out, key, value }))
  try {
    await consumer.commit({ positions: after(records), outputs })
    return records.length
  } catch (error) {
    if (!isCode('LOG_FENCED')(error)) throw error
    await consumer.rewind()
    return 0
  }
}
