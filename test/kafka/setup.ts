/** What the broker's tests share: the broker of the run, and logs on it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type KafkaLogOptions, openKafkaLog } from '../../src/log/kafka/log.ts'
import type { Log } from '../../src/log/log.ts'

/** The broker that `run.ts` has started for all test files. */
export type SharedBroker = { plain: string; sasl: string; ca: string; otherCa: string }

export const SHARED_BROKER = 'TEST_KAFKA_BROKER'

export function sharedBroker(): SharedBroker {
  const text = process.env[SHARED_BROKER]
  if (text !== undefined) return JSON.parse(text) as SharedBroker
  throw new Error('no broker: run these tests with `npm run test:kafka [-- FILE…]`')
}

export const SESSION_MS_MAX = 6_000

export function kafkaOptions(
  address: string,
  statePath: string,
  more: Partial<KafkaLogOptions> = {},
): KafkaLogOptions {
  return {
    connection: {
      brokers: [address],
      clientId: 'xmasd',
      tls: undefined,
      sasl: undefined,
      requestMsMax: 30_000,
    },
    defaults: { replicationFactor: 1, minInsyncReplicas: 1, batchBytesMax: 1_000_000 },
    statePath,
    sessionMsMax: SESSION_MS_MAX,
    transactionMsMax: 30_000,
    handoverMsMax: 3_600_000,
    connectMsMax: 15_000,
    unreachableMsMax: 60_000,
    fetchBytesMax: 1 << 20,
    ...more,
  }
}

/** Opens logs with one folder of state on the broker of the run. */
export function logsOn(
  t: TestContext,
  address: string,
  more: Partial<KafkaLogOptions> = {},
): { open(): Promise<Log> } {
  const folder = mkdtempSync(join(tmpdir(), 'xmasd-test-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return { open: () => openKafkaLog(kafkaOptions(address, folder, more)) }
}
