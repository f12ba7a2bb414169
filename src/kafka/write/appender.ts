/**
 * Appends records without moving a position: one batch as it is, more in one transaction after the other, under a
 * transactional id of its own. Nobody completes a transaction that a dead process left with a broker that forgot its end,
 * so control records, which are one batch, are in none.
 */
import { randomUUID } from 'node:crypto'
import type { Node } from '../link/connection.ts'
import type { Stamp } from '../wire/batch.ts'
import { checkCode } from '../wire/model.ts'
import { DESCRIBE_TRANSACTIONS, produceRequest } from '../wire/requests.ts'
import {
  isLedAgain,
  knows,
  openSession,
  requireChecked,
  type TransactionState,
  transactionState,
} from './recovery.ts'
import {
  EndLost,
  type Output,
  type ProducerSession,
  transact,
  type WriteContext,
} from './transaction.ts'

/** Tries again what may be tried again. */
type Trying = <T>(attempt: () => Promise<T>) => Promise<T>

/** A transaction that is left open hides later records for at most this long. */
const MS_MAX = 15_000

export class Appender {
  readonly #context: WriteContext
  readonly #trying: Trying
  readonly #state: TransactionState
  readonly #abort = new AbortController()
  #appending: Promise<unknown> = Promise.resolve()
  #session: ProducerSession | undefined

  constructor(context: WriteContext, clientId: string, trying: Trying) {
    const retry = { ...context.retry, signal: this.#abort.signal }
    const transactionMsMax = Math.min(context.transactionMsMax, MS_MAX)
    this.#context = { ...context, retry, transactionMsMax }
    this.#trying = trying
    this.#state = transactionState(`${clientId}-append-${randomUUID()}`, undefined)
    context.brokers.onBreak = () => this.#doubt()
  }

  append(outputs: readonly Output[]): Promise<void> {
    const [first] = outputs
    const isOne = outputs.length === 1 && first!.batches.length === 1
    const attempt = isOne ? this.#sending(first!) : () => this.#transact(outputs)
    const mine = this.#appending.then(() => this.#trying(attempt))
    this.#appending = mine.catch(() => {})
    return mine
  }

  /** Stored whole or not at all, and once, however often it is sent: its producer has no other. */
  #sending(output: Output): () => Promise<void> {
    const { brokers, transactionMsMax, onWritten } = this.#context
    const { topic, partition, batches } = output
    const batch = batches[0]!
    let stamp: Stamp | undefined
    return async () => {
      const [nodeId] = (await brokers.allLeaders([output])).keys()
      const node = await brokers.node(nodeId!)
      // Brokers before 3.0 ask for a right of its own, and forget no end.
      if (!knows(node, DESCRIBE_TRANSACTIONS)) return this.#transact([output])
      stamp ??= await stampOfItsOwn(node, transactionMsMax)
      const place = { topic, partition, batch: batch.stamped(stamp, false) }
      for (const { code, offset } of await brokers.send(
        nodeId!,
        produceRequest(null, [place], transactionMsMax),
      )) {
        checkCode(code, `${topic}/${partition}`)
        onWritten([{ topic, partition, end: offset + batch.count }])
      }
    }
  }

  /** A new session ends a transaction that broke off. It is sent again unless it was committed. */
  async #transact(outputs: readonly Output[]): Promise<void> {
    const { brokers, transactionMsMax, onWritten } = this.#context
    const session = await this.#opened()
    const state = this.#state
    try {
      requireChecked(state, outputs)
      state.isCommitted = undefined
      onWritten(await transact(brokers, session, outputs, undefined, transactionMsMax))
    } catch (error) {
      this.#session = undefined
      if (!(error instanceof EndLost)) throw error
      await this.#opened()
      if (state.isCommitted !== true) throw error
      onWritten(error.written)
    }
  }

  async #opened(): Promise<ProducerSession> {
    if (this.#session !== undefined) return this.#session
    const session = await openSession(this.#context, this.#state)
    this.#session = session
    const isWanted = (): boolean => this.#session === session && !this.#abort.signal.aborted
    isLedAgain(this.#context.brokers, this.#state, isWanted).then(isLed => isLed && this.#doubt())
    return session
  }

  /** A broker that died may have left a transaction dangling: a new session completes it, before the next append. */
  #doubt(): void {
    if (this.#session === undefined || this.#abort.signal.aborted) return
    this.#session = undefined
    this.#appending = this.#appending.then(() => this.#opened()).catch(() => {})
  }

  close(): void {
    this.#abort.abort()
  }
}

async function stampOfItsOwn(node: Node, timeoutMs: number): Promise<Stamp> {
  const options = { transactionalId: null, transactionTimeout: timeoutMs }
  const { producerId, producerEpoch } = await node.initProducerId(options)
  return { producerId: Number(producerId), epoch: producerEpoch, sequence: 0 }
}
