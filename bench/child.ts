/** A process that answers each JSON line with a JSON line. */
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { createInterface } from 'node:readline'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

export type Child = {
  ask<Answer>(request: object): Promise<Answer>
  /** Most memory that it and those it started ever had in use, each by itself; 0 where the system does not tell. */
  peakBytes(): number
  end(): Promise<void>
}

/** What it writes on stderr is shown, and ends the message where it ends early. */
export function startChild(command: string, args: readonly string[]): Child {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()))
  const failed = new Promise<never>((_, reject) => child.once('error', reject))
  failed.catch(() => {}) // whoever asks is told
  child.stdin.on('error', () => {}) // it ended: its output tells
  let said = ''
  child.stderr.setEncoding('utf8').on('data', text => {
    process.stderr.write(text)
    said = (said + text).slice(-SAID_MAX)
  })
  return {
    ask: async <Answer>(request: object) => {
      child.stdin.write(`${JSON.stringify(request)}\n`)
      const line = await Promise.race([lines.next(), failed])
      if (line.done !== true) return JSON.parse(line.value) as Answer
      await ended
      const [program, script] = [command, args[0] ?? ''].map(path => basename(path))
      throw new Error(`${program} ${script} ended early: ${said.trim()}`)
    },
    peakBytes: () => peakBytesOf(child.pid!),
    end: async () => {
      child.stdin.end()
      await ended
    },
  }
}

/** Characters of stderr. */
const SAID_MAX = 2000

function peakBytesOf(pid: number): number {
  return sumOverTree(pid, one => statusBytes(one, 'VmHWM'))
}

/** Resident bytes: all; anonymous; pages of files, which the system may take back. */
export type Memory = { all: number; own: number; file: number }

/** Memory of one process now. Throws without /proc. */
export function memoryOf(pid: number): Memory {
  const [all, own, file] = ['VmRSS', 'RssAnon', 'RssFile'].map(name => statusBytes(pid, name))
  return { all: all!, own: own!, file: file! }
}

function statusBytes(pid: number, name: string): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return 1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0)
}

/** Bytes of the array buffers of this process, without garbage: it goes by the third pass. */
export function arrayBytes(): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc')
  for (let pass = 0; pass < 3; pass++) collect()
  return process.memoryUsage().arrayBuffers
}

/** CPU time of this process and of its running children; theirs in steps of 10 ms. */
export function cpuSeconds(): number {
  const { user, system } = process.cpuUsage()
  return cpuOf(process.pid).children + (user + system) / 1e6
}

/** CPU seconds of a process and of its running children, in steps of 10 ms. */
export function cpuOf(pid: number): { own: number; children: number } {
  const of = (one: number): number => {
    const fields = readFileSync(`/proc/${one}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return (Number(fields[11]) + Number(fields[12])) / TICKS
  }
  const children = childrenOf(pid).reduce((sum, child) => sum + sumOverTree(child, of), 0)
  return { own: of(pid), children }
}

/** Ticks of /proc a second: the same on every Linux. */
const TICKS = 100

function sumOverTree(pid: number, measure: (pid: number) => number): number {
  try {
    const own = measure(pid)
    return childrenOf(pid).reduce((sum, child) => sum + sumOverTree(child, measure), own)
  } catch {
    return 0
  }
}

function childrenOf(pid: number): number[] {
  if (!existsSync('/proc/self/task')) return []
  return readdirSync(`/proc/${pid}/task`).flatMap(thread =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8')
      .split(' ')
      .filter(Boolean)
      .map(Number),
  )
}
