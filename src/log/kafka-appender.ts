/** Appends without a position: under an id that is ours alone, one transaction after the other. */
import { randomUUID } from 'node:crypto'
import type { Cluster } from './kafka-cluster.ts'
import type { Patience } from './kafka-retry.ts'
import { claimSettled, type Ledger } from './kafka-settle.ts'
import type { KafkaTopic } from './kafka-topics.ts'
import { type Claim, type Output, transact, type Written } from './kafka-transactions.ts'

export type AppenderOptions = {
  cluster: Cluster
  clientId: string
  patience: Patience
  transactionMsMax: number
  /** Tries again what may be tried again. */
  trying: <T>(attempt: () => Promise<T>) => Promise<T>
  /** All that may be written to. */
  topics: () => readonly KafkaTopic[]
  onWritten: (written: readonly Written[]) => void
}

/** One that breaks off keeps readers of the topic waiting no longer than this. */
const MS_MAX = 15_000

export class Appender {
  readonly #options: AppenderOptions
  readonly #ledger: Ledger
  readonly #timeoutMs: number
  readonly #abort = new AbortController()
  #appending: Promise<unknown> = Promise.resolve()
  #claim: Claim | undefined

  constructor(options: AppenderOptions) {
    this.#options = options
    const transactionalId = `${options.clientId}-append-${randomUUID()}`
    this.#ledger = { transactionalId, moves: undefined, isCommitted: undefined }
    this.#timeoutMs = Math.min(options.transactionMsMax, MS_MAX)
    options.cluster.onBreak = () => this.#doubt()
  }

  append(outputs: readonly Output[]): Promise<void> {
    const mine = this.#appending.then(() => this.#options.trying(() => this.#transact(outputs)))
    this.#appending = mine.catch(() => {})
    return mine
  }

  /** What broke off is settled by a new claim and sent again. */
  async #transact(outputs: readonly Output[]): Promise<void> {
    const { cluster, onWritten } = this.#options
    const claim = await this.#claimed()
    try {
      onWritten(await transact(cluster, claim, outputs, undefined, this.#timeoutMs))
    } catch (error) {
      this.#claim = undefined
      throw error
    }
  }

  async #claimed(): Promise<Claim> {
    const { cluster, topics } = this.#options
    const patience = { ...this.#options.patience, signal: this.#abort.signal }
    this.#claim ??= await claimSettled(cluster, patience, this.#ledger, topics(), this.#timeoutMs)
    return this.#claim
  }

  /** A broker that died may have forgotten the end of a transaction: it is not left open until the next one. */
  #doubt(): void {
    if (this.#claim === undefined) return
    this.#claim = undefined
    this.#appending = this.#appending.then(() => this.#claimed()).catch(() => {})
  }

  close(): void {
    this.#abort.abort()
  }
}
