/**
 * Which device scores: cuda, then webgpu, then cpu, or the one that is asked for by name. A GPU is tried
 * in a child process first (`trial.ts`), and taken unasked only where it is right and faster than
 * the CPU, so that a software driver never is. Nothing is started where its libraries are not there.
 */
import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Device } from '../../engine/engine.ts'
import { XmasdError } from '../../errors.ts'
import { proxyOf } from '../../proxy/checkpoint/config.ts'
import type { ProxyConfig } from '../../proxy/config.ts'
import { scriptAt } from '../../version.ts'
import type { ChildLine, ChildTask } from './child.ts'
import { type Missing, missingForCuda, missingForWebgpu } from './gpu-libraries.ts'

export type Gpu = Exclude<Device, 'cpu'>

/** What came of trying a GPU. `fix` where it can't be used. */
export type Verdict = {
  device: Gpu
  isUsable: boolean
  isFaster: boolean
  fusedAttention: boolean
  detail: string
  fix?: string
}

export type ChosenDevice = {
  device: Device
  fusedAttention: boolean
  /** One sentence a device that was looked at. */
  why: string[]
}

export type DeviceWish = Device | 'auto'

/** In the order in which `auto` takes them. */
export const GPUS: readonly Gpu[] = ['cuda', 'webgpu']

/** Of the onnx engine. Throws ENGINE_UNAVAILABLE where the device asked for by name can't be used. */
export async function chooseDevice(
  wish: DeviceWish,
  config: ProxyConfig,
  tryOne: typeof tryDevice = tryDevice,
): Promise<ChosenDevice> {
  if (wish === 'cpu') return onCpu(['cpu: asked for'])
  const why: string[] = []
  for (const gpu of wish === 'auto' ? GPUS : [wish]) {
    const verdict = await tryOne(gpu, config, { evenIfSlow: wish === gpu })
    const { isUsable, isFaster, fusedAttention, detail, fix } = verdict
    why.push(`${gpu}: ${detail}`)
    if (isUsable && (isFaster || wish === gpu)) return { device: gpu, fusedAttention, why }
    if (wish === gpu) {
      throw unavailable(`${gpu} cannot be used: ${detail}`, fix ?? 'see the message')
    }
  }
  return onCpu([...why, 'cpu: what is left'])
}

function onCpu(why: string[]): ChosenDevice {
  return { device: 'cpu', fusedAttention: false, why }
}

function unavailable(message: string, fix: string): XmasdError {
  return new XmasdError('ENGINE_UNAVAILABLE', message, `${fix}; or set proxy.device to auto or cpu`)
}

/** As `chooseDevice`, of the tensorflow engine: its addon itself takes the GPU that it finds. */
export async function chooseTensorflowDevice(wish: DeviceWish): Promise<ChosenDevice> {
  if (wish === 'webgpu') {
    throw unavailable('the tensorflow engine has no webgpu device', 'set proxy.engine to onnx')
  }
  const { BUILD_HINT, findTensorflowAddon } = await import('../../engine/tensorflow/backend.ts')
  const addon = findTensorflowAddon()
  const slowly = addon === undefined ? [`on WebAssembly, which is slow: ${BUILD_HINT}`] : []
  if (wish === 'cpu') {
    process.env.CUDA_VISIBLE_DEVICES = '-1' // TensorFlow would take a GPU all the same
    return onCpu(['cpu: asked for', ...slowly])
  }
  if (addon?.name !== '@tensorflow/tfjs-node-gpu') {
    const reason = 'the tensorflow addon for CUDA is not built'
    if (wish === 'cuda') throw unavailable(reason, BUILD_HINT)
    return onCpu([`cuda: ${reason}`, 'cpu: what is left', ...slowly])
  }
  const { lines, ended } = await runChild({ tensorflow: true }, CHILD, SILENCE_MS_MAX)
  const [line] = lines
  if (line?.stage === 'tensorflow' && line.device === 'cuda') {
    const why = [`cuda: TensorFlow ${line.version} found a GPU`]
    return { device: 'cuda', fusedAttention: false, why }
  }
  const reason =
    line?.stage === 'tensorflow'
      ? `TensorFlow ${line.version} finds no GPU`
      : line?.stage === 'failed'
        ? line.message
        : ended
  if (wish === 'cuda') throw unavailable(`cuda cannot be used: ${reason}`, DRIVER_FIX)
  return onCpu([`cuda: ${reason}`, 'cpu: what is left'])
}

/**
 * Looks whether a GPU's libraries are there, then tries it in a child process. One that is slower than
 * the CPU is not looked at any further, unless `evenIfSlow`.
 */
export async function tryDevice(
  device: Gpu,
  config: ProxyConfig,
  { evenIfSlow }: { evenIfSlow: boolean },
): Promise<Verdict> {
  const missing: Missing | undefined = { webgpu: missingForWebgpu, cuda: missingForCuda }[device]()
  if (missing !== undefined) return refused(device, missing.reason, missing.fix)
  const options = { device, config, threads: availableParallelism(), evenIfSlow }
  return verdictOf(device, await runChild(options, CHILD, SILENCE_MS_MAX))
}

const CHILD = fileURLToPath(scriptAt('score/device/child.js'))
const SILENCE_MS_MAX = 90_000

export type ChildResult = { lines: ChildLine[]; ended: string; seconds: number }

/** Its findings until it ended, or was ended because it said nothing for `silenceMsMax`. */
export function runChild(
  task: ChildTask,
  script: string,
  silenceMsMax: number,
): Promise<ChildResult> {
  const started = performance.now()
  const child = spawn(process.execPath, [script, JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const endChild = (): boolean => child.kill('SIGKILL')
  process.once('exit', endChild)
  let text = ''
  let isSilent = false
  const hung = (): void => {
    isSilent = true
    endChild()
  }
  let timer = setTimeout(hung, silenceMsMax)
  child.stdout.setEncoding('utf8').on('data', more => {
    text += more
    clearTimeout(timer)
    timer = setTimeout(hung, silenceMsMax)
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      process.off('exit', endChild)
      const whole = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
      const findings = whole.filter(line => line.startsWith('{"stage"')) // drivers talk too
      const lines = findings.map(line => JSON.parse(line) as ChildLine)
      const ended = isSilent
        ? `its driver hung for ${silenceMsMax / 1000} s`
        : `its driver ended the process (${signal ?? `exit code ${code}`})`
      resolve({ lines, ended, seconds: (performance.now() - started) / 1000 })
    })
  })
}

/** What the child's findings mean. */
export function verdictOf(device: Gpu, { lines, ended, seconds }: ChildResult): Verdict {
  const of = <S extends ChildLine['stage']>(stage: S) =>
    lines.find((line): line is Extract<ChildLine, { stage: S }> => line.stage === stage)
  const failure = of('failed')?.message.trim() ?? ended
  const [speed, plain, fused] = [of('speed'), of('plain'), of('fused')]
  if (speed === undefined) return refused(device, failure, DRIVER_FIX)
  const isFaster = speed.device > speed.cpu
  const pace = `${rate(speed.device)} GFLOP/s, the CPU ${rate(speed.cpu)}`
  if (plain === undefined && of('done') !== undefined) {
    const detail = `slower than the CPU (${pace}): a software driver?`
    return {
      ...refused(device, detail, 'name it in proxy.device to use it all the same'),
      isUsable: true,
    }
  }
  if (plain === undefined) return refused(device, `${pace}; then ${failure}`, DRIVER_FIX)
  if (!(plain.difference <= DIFFERENCE_MAX)) {
    const reason = `it computes wrongly: ${distance(plain.difference)} from the CPU's values`
    return refused(device, reason, DRIVER_FIX)
  }
  const difference = fused === undefined ? null : fused.difference
  const fusedAttention = difference !== null && difference <= DIFFERENCE_MAX
  const untried = fused === undefined ? failure : 'not tried on a software driver'
  const whyPlain = difference === null ? untried : `${distance(difference)} off`
  const sentences = [
    `right to ${distance(plain.difference)}`,
    pace,
    fusedAttention ? 'fused attention' : `plain attention (fused: ${whyPlain})`,
    placementOf(of('placement')?.onCpu),
    `tried in ${seconds.toFixed(1)} s`,
  ]
  return { device, isUsable: true, isFaster, fusedAttention, detail: sentences.join('; ') }
}

function rate(gflops: number): string {
  return gflops < 10 ? gflops.toFixed(1) : gflops.toFixed(0)
}

function placementOf(onCpu: readonly string[] | undefined): string {
  if (onCpu === undefined) return 'where operators run is unknown'
  return onCpu.length === 0
    ? 'every operator on it'
    : `on the CPU all the same: ${onCpu.join(', ')}`
}

function distance(difference: number): string {
  return Number.isFinite(difference) ? difference.toExponential(0) : 'not a number'
}

/** Largest difference from the CPU's values, relative to the largest of them. */
const DIFFERENCE_MAX = 1e-4
const DRIVER_FIX = 'update the driver of the GPU'

function refused(device: Gpu, detail: string, fix: string): Verdict {
  return { device, isUsable: false, isFaster: false, fusedAttention: false, detail, fix }
}

/** What devices are tried with where there is no proxy yet: CLIP-L/336 and a Llama with shared heads. */
export function typicalProxy(): ProxyConfig {
  return proxyOf({
    image_aspect_ratio: 'pad',
    text_config: {
      hidden_size: 2048,
      intermediate_size: 5632,
      num_hidden_layers: 22,
      num_key_value_heads: 4,
      rms_norm_eps: 1e-5,
    },
  })
}
