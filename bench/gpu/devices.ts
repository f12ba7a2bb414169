/** What a machine and its devices are: `doctor` for each, the self-test's steps with their times. */
import { execFileSync, spawn } from 'node:child_process'
import { availableParallelism, cpus, release, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import { stripVTControlCharacters } from 'node:util'
import type { Device } from '../../src/engine/engine.ts'
import type { ChildLine, ChildTask } from '../../src/score/device/child.ts'
import { typicalProxy } from '../../src/score/device/choice.ts'
import { scriptAt } from '../../src/version.ts'
import type { Command } from './command.ts'

export type Machine = {
  cpu: string
  cores: number
  memoryGiB: number
  kernel: string
  glibc: string
  node: string
  /** A line a GPU: name, memory, driver. Null without nvidia-smi. */
  gpus: string[] | null
  /** Null where Python lacks torch or transformers. */
  torch: Torch | null
}

/** `gpu`: its name; null where PyTorch finds none. */
export type Torch = { torch: string; transformers: string; cuda: string | null; gpu: string | null }

const ASK_TORCH = `
import json, torch, transformers
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda, "gpu": gpu}))
`

export function describeMachine(python: string): Machine {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  const gpus = output('nvidia-smi', [
    '--query-gpu=name,memory.total,driver_version',
    '--format=csv,noheader',
  ])
  const torch = output(python, ['-c', ASK_TORCH])?.split('\n').at(-1)
  return {
    cpu: cpus()[0]?.model ?? '?',
    cores: availableParallelism(),
    memoryGiB: Number((totalmem() / 2 ** 30).toFixed(1)),
    kernel: release(),
    glibc: header.glibcVersionRuntime ?? '?',
    node: process.versions.node,
    gpus: gpus?.split('\n') ?? null,
    torch: torch === undefined ? null : JSON.parse(torch),
  }
}

/** What a program prints; undefined where it is missing or fails. */
function output(program: string, args: string[]): string | undefined {
  try {
    const stdio: ['ignore', 'pipe', 'ignore'] = ['ignore', 'pipe', 'ignore']
    return execFileSync(program, args, { encoding: 'utf8', stdio }).trim()
  } catch {
    return undefined
  }
}

export type Doctor = {
  device: Device
  isUsable: boolean
  detail: string
  findings: { name: string; status: string; detail: string; fix?: string }[]
}

/** `doctor` on the demo's proxy and bundle, with the device asked for by name. */
export async function askDoctor(command: Command, device: Device, folder: string): Promise<Doctor> {
  const demo = `${command.root}/config/demo`
  const env = {
    XMASD_PROXY_PATH: `${demo}/proxy`,
    XMASD_BUNDLE: `${demo}/bundle`,
    XMASD_PROXY_DEVICE: device,
    XMASD_LOG_PATH: `${folder}/log`,
    XMASD_IMAGES_ROOT: folder,
  }
  const { stdout, failure } = await command.run(['doctor', '--json'], env)
  if (stdout === '') return { device, isUsable: false, detail: failure, findings: [] }
  const { findings } = JSON.parse(stdout) as Pick<Doctor, 'findings'>
  const chosen = findings.find(({ name }) => name === 'device')
  const own = findings.find(({ name }) => name === device)
  const isUsable = chosen?.status === 'ok'
  const detail = (isUsable ? own?.detail : undefined) ?? chosen?.detail ?? 'it says nothing of it'
  return { device, isUsable, detail, findings }
}

/** A step of the self-test, as the child told it, and the seconds since the one before. */
export type Stage = ChildLine & { seconds: number }
/** `said`: the end of stderr, where a driver or a library that is missing names itself. */
export type SelfTest = { stages: Stage[]; seconds: number; ended: string; said: string }

const SILENCE_MS_MAX = 90_000
/** Characters. */
const SAID_MAX = 2000

/** The test of docs/devices.md with CLIP-L/336 and a Llama, also where the device is slow. */
export function runSelfTest(device: Exclude<Device, 'cpu'>): Promise<SelfTest> {
  const threads = availableParallelism()
  const task: ChildTask = { device, config: typicalProxy(), threads, evenIfSlow: true }
  const script = fileURLToPath(scriptAt('score/device/child.js'))
  const child = spawn(process.execPath, [script, JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const started = performance.now()
  const seconds = (since: number): number => Number(((performance.now() - since) / 1000).toFixed(2))
  const stages: Stage[] = []
  let [text, said, last] = ['', '', started]
  const hung = (): boolean => child.kill('SIGKILL')
  let timer = setTimeout(hung, SILENCE_MS_MAX)
  child.stdout.setEncoding('utf8').on('data', more => {
    clearTimeout(timer)
    timer = setTimeout(hung, SILENCE_MS_MAX)
    const lines = (text + more).split('\n')
    text = lines.pop()!
    for (const line of lines.filter(line => line.startsWith('{"stage"'))) {
      stages.push({ ...(JSON.parse(line) as ChildLine), seconds: seconds(last) })
      last = performance.now()
    }
  })
  child.stderr.setEncoding('utf8').on('data', more => {
    said = (said + more).slice(-SAID_MAX)
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const ended = signal ?? `exit code ${code}`
      resolve({
        stages,
        seconds: seconds(started),
        ended,
        said: stripVTControlCharacters(said).trim(),
      })
    })
  })
}
