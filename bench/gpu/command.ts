/** The installed xmasd command, and golden sets scored by it. */
import { execFile } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Device } from '../../src/engine/engine.ts'
import type { Mode } from '../../src/score/attention.ts'

export type Command = {
  /** The folder of the installed package. */
  root: string
  run(args: string[], env?: Record<string, string>): Promise<Ran>
}

/** `failure`: the end of stderr, and how the process ended; '' after exit code 0. */
export type Ran = { stdout: string; failure: string }

/** A driver may hang in the middle of a set. */
const MINUTES_MAX = 20
const STDERR_LINES = 3

export function installedCommand(root: string): Command {
  return {
    root,
    run: (args, env = {}) =>
      new Promise(resolve => {
        const options = {
          ...{ env: { ...process.env, ...env, NO_COLOR: '1' }, encoding: 'utf8' as const },
          ...{ timeout: MINUTES_MAX * 60_000, maxBuffer: 64 << 20 },
        }
        const main = join(root, 'dist/main.js')
        execFile(process.execPath, [main, ...args], options, (error, stdout, stderr) => {
          const said = stderr.trim().split('\n').slice(-STDERR_LINES).join(' | ')
          const ending = error?.signal ?? `exit code ${error?.code}`
          resolve({ stdout, failure: error === null ? '' : `${ending}: ${said}` })
        })
      }),
  }
}

export type SetResult = {
  device: Device
  set: string
  mode: Mode
  /** Within the tolerance, every example scored. */
  isRight: boolean
  examples: number
  checkpoints: number
  /** The largest relative difference of any score, and of any singular value, from float64. */
  trajectory: number | null
  singularValue: number | null
  seconds: number
  failure?: string
}

/** Relative, of the scores of a trajectory. */
export const TRAJECTORY_MAX = 2e-4

type Top5 = (number[][] | null)[]
type Expected = {
  /** Sets without one have a chat template. */
  template?: object
  steps: number[]
  modes: Record<Mode, { float64: { top5: Top5; trajectory: (number[] | null)[] } }>
}
type Line = {
  trajectory: number[] | null
  singularValues: number[][] | null
  error?: { code: string; message: string }
}

/** Scores a set from its image files and compares it; `work` takes the output. */
export async function checkSet(
  command: Command,
  { set, mode, device, work }: { set: string; mode: Mode; device: Device; work: string },
): Promise<Omit<SetResult, 'set'>> {
  const started = performance.now()
  const expected: Expected = JSON.parse(readFileSync(join(set, 'expected.json'), 'utf8'))
  const out = join(work, 'scores.jsonl')
  const { template, steps } = expected
  const file = join(work, 'template.json')
  if (template !== undefined) writeFileSync(file, JSON.stringify(template))
  const { failure } = await command.run([
    ...['score', '--proxy', join(set, 'run'), '--data', join(set, 'data.json'), '--images', set],
    ...(template === undefined ? ['--image-pixels', 'checkpoint'] : ['--template', file]),
    ...['--mode', mode, '--device', device, '--out', out, '--json'],
  ])
  const { top5, trajectory } = expected.modes[mode].float64
  const common = { device, mode, examples: trajectory.length, checkpoints: steps.length }
  const seconds = (): number => Number(((performance.now() - started) / 1000).toFixed(1))
  if (failure !== '' || !existsSync(out)) {
    const none = { isRight: false, trajectory: null, singularValue: null }
    return { ...common, ...none, seconds: seconds(), failure: failure || 'nothing was written' }
  }
  const text = readFileSync(out, 'utf8').trimEnd()
  const lines = text.split('\n').map(line => JSON.parse(line) as Line)
  const error = lines.find(line => line.error !== undefined)?.error
  const scores = worst(lines, trajectory, line => line.trajectory)
  const values = worst(lines, top5, line => line.singularValues)
  return {
    ...common,
    isRight: lines.length === trajectory.length && scores <= TRAJECTORY_MAX,
    trajectory: finite(scores),
    singularValue: finite(values),
    seconds: seconds(),
    ...(error && { failure: `${error.code}: ${error.message}` }),
  }
}

/** JSON has no infinity. */
function finite(value: number): number | null {
  return Number.isFinite(value) ? Number(value.toPrecision(3)) : null
}

/** The largest relative difference; of an exact 0 the absolute one. Infinite where one side has no score. */
function worst(
  lines: readonly Line[],
  exact: readonly (number[] | number[][] | null)[],
  of: (line: Line) => number[] | number[][] | null,
): number {
  const each = lines.map((line, i) => {
    const [found, wanted] = [of(line)?.flat(), exact[i]?.flat()]
    if (found?.length !== wanted?.length) return Number.POSITIVE_INFINITY
    const apart = (value: number, k: number): number =>
      Math.abs(found![k]! - value) / (value === 0 ? 1 : Math.abs(value))
    return Math.max(0, ...(wanted ?? []).map(apart))
  })
  const largest = Math.max(...each)
  return Number.isNaN(largest) ? Number.POSITIVE_INFINITY : largest
}
