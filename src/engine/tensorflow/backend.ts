/**
 * Which tfjs backend computes: the native addon where it is built (tfjs-node-gpu before tfjs-node), else
 * the wasm files of the npm package, read from the disk. Nothing is fetched.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, sep } from 'node:path'
import * as tf from '@tensorflow/tfjs-core'
import { messageOf, XmasdError } from '../../errors.ts'
import { packageRoot } from '../../version.ts'
import { registerGradients } from './gradients.ts'
import { nativeBackend } from './native.ts'

const PACKAGES = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'] as const
const BINARY = 'lib/napi-v8/tfjs_binding.node'

export type TensorflowBackend = 'tensorflow' | 'wasm'

/** What computes, once it is started. */
export type TensorflowDescription =
  | { backend: 'wasm' }
  | { backend: 'tensorflow'; device: 'cuda' | 'cpu'; version: string; dir: string }

/** A package whose addon is there: built by deploy/tensorflow, or installed beside us. */
export type TensorflowAddon = { name: string; dir: string }

/**
 * Starts the best backend there is and makes it current; a second call gives what runs already.
 * `wanted` forces one. Throws ENGINE_UNAVAILABLE where none starts.
 */
export async function startTensorflow(wanted?: TensorflowBackend): Promise<TensorflowBackend> {
  const current = tf.engine().backendName
  if ((current === 'tensorflow' || current === 'wasm') && (wanted ?? current) === current) {
    return current
  }
  tf.env().set('PROD', true)
  const backend = await start(wanted)
  registerGradients()
  return backend
}

/**
 * What TensorFlow reads from the environment once, when the first thread loads it: call it in the main
 * thread, before workers start. Its pool of threads is one for the whole process. What is set already
 * stays.
 */
export function prepareTensorflow({ threads }: { threads: number }): void {
  process.env.TF_NUM_INTRAOP_THREADS ??= String(threads)
  process.env.TF_NUM_INTEROP_THREADS ??= '1'
  process.env.NVIDIA_TF32_OVERRIDE ??= '0' // float32 on a GPU is float32
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '1'
  process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= 'true' // not the whole of the GPU's memory at once
}

/** Starts the best backend and says what it is. Throws ENGINE_UNAVAILABLE. */
export async function describeTensorflow(): Promise<TensorflowDescription> {
  const addon = findTensorflowAddon()
  if ((await startTensorflow()) === 'wasm' || addon === undefined) return { backend: 'wasm' }
  const { binding } = nativeBackend()
  const device = binding.isUsingGpuDevice() ? 'cuda' : 'cpu'
  return { backend: 'tensorflow', device, version: binding.TF_Version, dir: addon.dir }
}

/** Undefined where no addon is built. */
export function findTensorflowAddon(): TensorflowAddon | undefined {
  const root = packageRoot()
  for (const folder of [join(root, 'deploy/tensorflow'), root]) {
    for (const name of PACKAGES) {
      const dir = packageFolder(name, folder)
      if (dir !== undefined && existsSync(join(dir, BINARY))) return { name, dir }
    }
  }
  return undefined
}

function packageFolder(name: string, from: string): string | undefined {
  try {
    return dirname(createRequire(join(from, 'package.json')).resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

async function start(wanted: TensorflowBackend | undefined): Promise<TensorflowBackend> {
  const addon = wanted === 'wasm' ? undefined : findTensorflowAddon()
  if (addon !== undefined) {
    await startNative(addon)
    return 'tensorflow'
  }
  if (wanted === 'tensorflow') throw unavailable('its addon is not built', BUILD_HINT)
  await startWasm()
  return 'wasm'
}

async function startNative({ name, dir }: TensorflowAddon): Promise<void> {
  try {
    createRequire(import.meta.url)(dir)
    if (!(await tf.setBackend('tensorflow'))) throw new Error('its backend does not start')
  } catch (error) {
    const hint = `Build it again; without ${dir} this engine runs on WebAssembly`
    throw unavailable(`the addon of ${name} does not start: ${messageOf(error)}`, hint)
  }
}

async function startWasm(): Promise<void> {
  const { setWasmPaths } = await import('@tensorflow/tfjs-backend-wasm')
  const main = createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm')
  setWasmPaths(join(dirname(main), '..', 'wasm-out') + sep)
  if (!(await tf.setBackend('wasm'))) {
    throw unavailable('the wasm backend does not start', 'Run `npm ci` again')
  }
}

/** What makes the tensorflow engine fast. */
export const BUILD_HINT = 'npm run build:tensorflow builds the addon (with `-- --cuda` for CUDA 12)'

function unavailable(reason: string, hint: string): XmasdError {
  return new XmasdError(
    'ENGINE_UNAVAILABLE',
    `the tensorflow engine cannot start: ${reason}`,
    `${hint}; \`xmasd doctor\` shows which engines work`,
  )
}
