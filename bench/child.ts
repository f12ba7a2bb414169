/** A process that answers a JSON line with a JSON line. */
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'

export type Child = {
  ask<Answer>(request: object): Promise<Answer>
  /** Most memory that it and those it started ever had in use, each by itself; 0 where the system does not tell. */
  peakBytes(): number
  end(): Promise<void>
}

export function startChild(command: string, args: readonly string[]): Child {
  const process: ChildProcessByStdio<Writable, Readable, null> = spawn(command, args, {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: process.stdout })[Symbol.asyncIterator]()
  const ended = new Promise<void>(resolve => process.once('close', () => resolve()))
  return {
    ask: async <Answer>(request: object) => {
      process.stdin.write(`${JSON.stringify(request)}\n`)
      const line = await lines.next()
      if (line.done === true) throw new Error(`${command} ${args.join(' ')} ended early`)
      return JSON.parse(line.value) as Answer
    },
    peakBytes: () => peakBytesOf(process.pid!),
    end: async () => {
      process.stdin.end()
      await ended
    },
  }
}

function peakBytesOf(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const own = 1024 * Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0)
    const started = readdirSync(`/proc/${pid}/task`).flatMap(thread =>
      readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean),
    )
    return started.reduce((sum, child) => sum + peakBytesOf(Number(child)), own)
  } catch {
    return 0
  }
}
