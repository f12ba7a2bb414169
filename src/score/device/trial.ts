/**
 * Does a device compute what the CPU does: a small random proxy with the heads of the real one, scored
 * on both. Run in a process of its own (`child.ts`): a driver may hang or abort it.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { Device, Engine, HostTensor } from '../../engine/engine.ts'
import { onnxEngine } from '../../engine/onnx/engine.ts'
import { HOST } from '../../engine/onnx/model.ts'
import { normalDeviates, seededRandom, seedOf } from '../../math/random.ts'
import { familyOf } from '../../proxy/checkpoint/config.ts'
import { type Parameter, parametersOf } from '../../proxy/checkpoint/parameters.ts'
import {
  elements,
  readHeader,
  type TensorToWrite,
  writeSafetensors,
} from '../../proxy/checkpoint/safetensors.ts'
import type { Checkpoint } from '../../proxy/checkpoint/schedule.ts'
import type { ProxyConfig } from '../../proxy/config.ts'
import { packBatch, packingOf, type Sequence } from '../batch.ts'
import { compileScore, compileVision } from '../checkpoint-score.ts'
import { createFeatureCache, imageFeatures, usualImage } from '../features.ts'

/** What is found out, in the order in which it is; a driver may end the process after any of them. */
export type DeviceFinding =
  /** Thousand million operations a second, of chained products. */
  | { stage: 'speed'; device: number; cpu: number }
  /** Largest difference from the CPU's values, relative to the largest of them. */
  | { stage: 'plain'; difference: number }
  /** Operators that run on the CPU all the same, shape arithmetic left out. */
  | { stage: 'placement'; onCpu: string[] }
  /** Null: not tried, on a software driver. */
  | { stage: 'fused'; difference: number | null }

export type DeviceTestOptions = {
  device: Exclude<Device, 'cpu'>
  /** The proxy whose heads are to be computed. */
  config: ProxyConfig
  /** Of the CPU. */
  threads: number
  /** Go on where the device is slower than the CPU. */
  evenIfSlow: boolean
  /** An empty folder for weights and profiles. */
  dir: string
}

export async function* testDevice(options: DeviceTestOptions): AsyncGenerator<DeviceFinding> {
  const { device, threads, dir } = options
  const engineOn = (where: Device, more: { fusedAttention?: boolean; profile?: string } = {}) =>
    onnxEngine({ device: where, threads, ...more })
  const speed = await speeds(engineOn(device), engineOn('cpu'), dir)
  yield { stage: 'speed', ...speed }
  if (speed.device < speed.cpu && !options.evenIfSlow) return
  const isSoftware = speed.device < SOFTWARE_GFLOPS_MAX
  const config = shrunk(options.config, isSoftware ? 6 : 14)
  const checkpoint = writeCheckpoint(dir, 'proxy', parametersOf(config))
  const outputs = (engine: Engine) => outputsOf(engine, config, checkpoint)
  const expected = await outputs(engineOn('cpu'))
  const plain = await outputs(engineOn(device, { profile: join(dir, 'profile') }))
  yield { stage: 'plain', difference: differenceOf(plain, expected) }
  yield { stage: 'placement', onCpu: operatorsOnCpu(dir) }
  const fused = isSoftware ? null : await outputs(engineOn(device, { fusedAttention: true }))
  yield { stage: 'fused', difference: fused === null ? null : differenceOf(fused, expected) }
}

const POSITIONS_MAX = 512

function shrunk(config: ProxyConfig, gridMax: number): ProxyConfig {
  return { ...familyOf(config).shrunk(config, gridMax), lengthMax: POSITIONS_MAX }
}

/** Normal deviates that keep activations around 1, so that attention is far from flat. */
function writeCheckpoint(dir: string, name: string, parameters: readonly Parameter[]): Checkpoint {
  const tensors = parameters
    .filter(({ required }) => required)
    .map(({ name: parameter, shape }): [string, TensorToWrite] => {
      const size = elements(shape)
      const isNorm = /norm\d?\.|layrnorm/.test(parameter)
      const scale = isNorm || shape.length === 1 ? 0.1 : 1.5 / Math.sqrt(size / shape[0]!)
      const deviates = normalDeviates(seededRandom(seedOf(1, parameter)), size)
      const base = isNorm && parameter.endsWith('.weight') ? 1 : 0
      return [parameter, { shape, data: deviates.map(value => base + scale * value) }]
    })
  const file = join(dir, `${name}.safetensors`)
  writeSafetensors(file, Object.fromEntries(tensors))
  const entries = [...readHeader(file).tensors].map(
    ([key, entry]) => [key, { ...entry, file }] as const,
  )
  return { step: 0, dir, tensors: new Map(entries) }
}

/** Sequences of several lengths that share an image, so that prefixes, suffixes and padding differ. */
export function testSequences(config: ProxyConfig): Sequence[] {
  const image = (n: number) =>
    usualImage(config, `test ${n}`, values => normalDeviates(seededRandom(n), values))
  const images = [image(1), image(1), image(2)]
  const imageTokens = images[0]!.cut?.positions ?? config.imageTokens
  return images.map((image, i) => {
    const [before, after] = [5 + 3 * i, 40 + 23 * i]
    const length = before + imageTokens + after
    return {
      ids: Int32Array.from({ length }, (_, t) => (t * 7 + i) % config.text.vocab),
      columns: Int32Array.from({ length: imageTokens }, (_, t) => before + t),
      rows: Int32Array.from({ length: after - 1 }, (_, t) => before + imageTokens + 1 + t),
      answers: new Int32Array(0),
      images: [image],
    }
  })
}

/** Features and cross-modal attention of the test's sequences. */
async function outputsOf(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<Float32Array[]> {
  const { images, inputs } = packBatch(testSequences(config), packingOf(config))
  const tower = await compileVision(engine, config, checkpoint)
  const score = await compileScore(engine, config, 'reference', checkpoint)
  const compute = () => imageFeatures(tower, config, images)
  const features = await createFeatureCache(0).stacked(0, images, compute)
  const attention = await score.run({ ...inputs, features })
  await tower.release()
  await score.release()
  return [features.data as Float32Array, attention.data]
}

function differenceOf(found: readonly Float32Array[], expected: readonly Float32Array[]): number {
  const each = expected.map((values, i) => {
    const own = found[i]!
    if (own.length !== values.length) return Number.POSITIVE_INFINITY
    let [largest, worst] = [0, 0]
    for (const [at, value] of values.entries()) {
      largest = Math.max(largest, Math.abs(value))
      worst = Math.max(worst, Math.abs(value - own[at]!))
    }
    return worst / largest
  })
  const worst = Math.max(...each)
  return Number.isNaN(worst) ? Number.POSITIVE_INFINITY : worst
}

const [SMALL, LARGE] = [128, 2048]
const ROWS = 256
const PRODUCTS = 8
/** No GPU is that slow; a software driver would take minutes for what is large. */
const SOFTWARE_GFLOPS_MAX = 5

/** Of chained products [rows, width] @ [width, width], the second of two runs. */
async function speeds(
  device: Engine,
  cpu: Engine,
  dir: string,
): Promise<{ device: number; cpu: number }> {
  const small = await gflops(device, SMALL, dir)
  const width = small < SOFTWARE_GFLOPS_MAX ? SMALL : LARGE
  return {
    device: width === SMALL ? small : await gflops(device, width, dir),
    cpu: await gflops(cpu, width, dir),
  }
}

async function gflops(engine: Engine, width: number, dir: string): Promise<number> {
  const parameter = { name: 'product.weight', shape: [width, width], required: true }
  const checkpoint = writeCheckpoint(dir, `product-${width}`, [parameter])
  const x: HostTensor = { data: new Float32Array(ROWS * width).fill(1e-3), shape: [1, ROWS, width] }
  const spec = { type: 'float32' as const, shape: x.shape }
  const program = await engine.compile(checkpoint, { x: spec }, (ops, inputs) => {
    let y = inputs.x
    for (let i = 0; i < PRODUCTS; i++) y = ops.linear(y, 'product')
    return y
  })
  await program.run({ x })
  const started = performance.now()
  await program.run({ x })
  const ms = performance.now() - started
  await program.release()
  return (2 * ROWS * width ** 2 * PRODUCTS) / ms / 1e6
}

const Text = z.string().optional()
const Args = z.object({ op_name: Text, provider: Text, output_size: Text })
const Profile = z.array(z.object({ cat: Text, name: Text, args: Args.optional() }))

/** Larger results are no shapes. */
const SHAPE_BYTES_MAX = 1024

/** From onnxruntime's own profiles in `dir`; what is meant to stay there does not count. */
function operatorsOnCpu(dir: string): string[] {
  const files = readdirSync(dir).filter(name => name.startsWith('profile'))
  const events = files.flatMap(name =>
    Profile.parse(JSON.parse(readFileSync(join(dir, name), 'utf8'))),
  )
  const operators = events.flatMap(({ cat, name, args }) => {
    const isOnCpu = cat === 'Node' && args?.provider === 'CPUExecutionProvider'
    const isMeant = name?.startsWith(HOST)
    return isOnCpu && !isMeant && Number(args.output_size ?? 0) > SHAPE_BYTES_MAX
      ? [args.op_name ?? '?']
      : []
  })
  return [...new Set(operators)].sort()
}
