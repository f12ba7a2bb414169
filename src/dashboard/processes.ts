/** The dashboard's child processes: the reader, started when somebody looks, and what-if replays. */
import { type ChildProcess, fork } from 'node:child_process'
import type { Config } from '../config.ts'
import type { Logger } from '../observe/logger.ts'
import { imageSource } from '../score/pipeline.ts'
import { scriptAt } from '../version.ts'
import type { FromReader, ToReader } from './reader.ts'
import { type ApiAnswer, failure, type WhatIfOptions } from './schemas.ts'
import type { FromWhatIf } from './what-if.ts'

export type ReaderParts = {
  config: () => Config
  logger: Logger
  /** A frame for all open pages. */
  onFrame: (data: string) => void
}

/** A reader that nobody has asked for so long is ended. */
const IDLE_MS = 300_000
const ANSWER_MS_MAX = 30_000
const ASKS_MAX = 512
/** Pages that ask the same within it share one answer, unless a frame comes between. */
const SHARED_MS = 250
/** After a reader has failed. */
const RESTART_MS = 1_000

const UNAVAILABLE = failure(503, 'UNAVAILABLE', 'the reader is not there yet')

export class Reader {
  readonly #parts: ReaderParts
  #child: ChildProcess | undefined
  #isReady = false
  #failedAt = Number.NEGATIVE_INFINITY
  #pages = 0
  #ids = 0
  readonly #asked = new Map<number, (answer: ApiAnswer) => void>()
  readonly #shared = new Map<string, Promise<ApiAnswer>>()
  #early: ToReader[] = []
  #idle: NodeJS.Timeout | undefined

  constructor(parts: ReaderParts) {
    this.#parts = parts
  }

  /** 503 where the reader does not answer. */
  ask(path: string, query: string, gzip: boolean): Promise<ApiAnswer> {
    // Without an open page each question is answered from the log's end of that moment.
    if (this.#pages === 0) return this.#ask(path, query, gzip)
    const name = `${gzip} ${path}${query}`
    const known = this.#shared.get(name)
    if (known !== undefined) return known
    const asked = this.#ask(path, query, gzip)
    this.#shared.set(name, asked)
    const forget = (): void => {
      if (this.#shared.get(name) === asked) this.#shared.delete(name)
    }
    void asked.then(({ status }) => {
      if (status === 200) setTimeout(forget, SHARED_MS).unref()
      else forget()
    })
    return asked
  }

  #ask(path: string, query: string, gzip: boolean): Promise<ApiAnswer> {
    if (this.#asked.size >= ASKS_MAX || !this.#start()) return Promise.resolve(UNAVAILABLE)
    const id = this.#ids++
    return new Promise(resolve => {
      const timer = setTimeout(() => answered(UNAVAILABLE), ANSWER_MS_MAX)
      const answered = (answer: ApiAnswer): void => {
        clearTimeout(timer)
        this.#asked.delete(id)
        resolve(answer)
      }
      this.#asked.set(id, answered)
      this.#send({ kind: 'ask', id, path, query, gzip })
    })
  }

  /** `pages` are open: with at least one the reader follows the log. */
  watched(pages: number): void {
    this.#pages = pages
    if (pages > 0 && !this.#start()) return
    if (this.#child !== undefined) this.#send({ kind: 'watched', pages })
  }

  #start(): boolean {
    this.#waitIdle()
    if (this.#child !== undefined) return true
    if (performance.now() - this.#failedAt < RESTART_MS) return false
    const { config, onFrame, logger } = this.#parts
    const child = forked('reader.js')
    this.#child = child
    this.#isReady = false
    const current = config()
    const source = imageSource(current)
    child.send({ kind: 'open', config: current, source } satisfies ToReader)
    child.on('message', (message: FromReader) => {
      if (message.kind === 'frame') {
        // What was answered before it may be older than what it announces.
        this.#shared.clear()
        onFrame(message.data)
      }
      if (message.kind === 'answer') this.#asked.get(message.id)?.(message.answer)
      if (message.kind === 'ready') this.#ready()
    })
    child.on('error', error => logger.warn(`dashboard reader: ${error.message}`))
    child.on('exit', code => {
      if (this.#child !== child) return
      this.#child = undefined
      this.#early = []
      if (code !== 0) this.#failedAt = performance.now()
      for (const answer of [...this.#asked.values()]) answer(UNAVAILABLE)
      if (this.#pages > 0) setTimeout(() => this.watched(this.#pages), RESTART_MS + 1).unref()
    })
    return true
  }

  #ready(): void {
    this.#isReady = true
    this.#send({ kind: 'watched', pages: this.#pages })
    for (const message of this.#early.splice(0)) this.#send(message)
  }

  #send(message: ToReader): void {
    if (this.#isReady) this.#child?.send(message, () => {})
    else if (message.kind === 'ask') this.#early.push(message)
  }

  #waitIdle(): void {
    clearTimeout(this.#idle)
    this.#idle = setTimeout(() => (this.#pages > 0 ? this.#waitIdle() : this.close()), IDLE_MS)
    this.#idle.unref()
  }

  close(): void {
    clearTimeout(this.#idle)
    this.#pages = 0
    const child = this.#child
    this.#child = undefined
    for (const answer of [...this.#asked.values()]) answer(UNAVAILABLE)
    child?.kill('SIGKILL')
  }
}

/** One replay at a time. Undefined while another runs. `stop` cancels it. */
export class WhatIfs {
  #child: ChildProcess | undefined

  start(
    config: Config,
    options: WhatIfOptions,
    onMessage: (message: FromWhatIf) => void,
  ): { stop(): void } | undefined {
    if (this.#child !== undefined) return undefined
    const child = forked('what-if.js')
    this.#child = child
    let isEnded = false
    child.on('message', (message: FromWhatIf) => {
      isEnded ||= message.kind !== 'progress'
      onMessage(message)
    })
    child.on('error', () => {})
    child.on('exit', () => {
      if (this.#child === child) this.#child = undefined
      if (!isEnded) onMessage({ kind: 'failed', message: 'the replay has ended early' })
    })
    child.send({ config, options })
    return {
      stop: () => {
        isEnded = true
        child.kill('SIGKILL')
      },
    }
  }

  close(): void {
    this.#child?.kill('SIGKILL')
  }
}

function forked(script: 'reader.js' | 'what-if.js'): ChildProcess {
  return fork(scriptAt(`dashboard/${script}`), {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    execArgv: [],
  })
}
