/**
 * Which tfjs backend computes: tfjs-node with CUDA, tfjs-node, else the wasm files of the npm
 * package, read from the disk. Nothing is fetched.
 */
import { createRequire } from 'node:module'
import { dirname, join, sep } from 'node:path'
import * as tf from '@tensorflow/tfjs-core'
import { messageOf, XmasdError } from '../errors.ts'
import { registerGradients } from './tensorflow-gradients.ts'

const NATIVE = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'] as const

export type TensorflowBackend = 'tensorflow' | 'wasm'

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

async function start(wanted: TensorflowBackend | undefined): Promise<TensorflowBackend> {
  if (wanted !== 'wasm' && (await startNative())) return 'tensorflow'
  if (wanted === 'tensorflow') {
    throw unavailable('@tensorflow/tfjs-node-gpu or @tensorflow/tfjs-node is not installed')
  }
  await startWasm()
  return 'wasm'
}

async function startNative(): Promise<boolean> {
  for (const name of NATIVE) {
    if (!isInstalled(name)) continue
    try {
      await import(name)
      return await tf.setBackend('tensorflow')
    } catch (error) {
      process.stderr.write(`xmasd: ${name} does not start: ${messageOf(error)}\n`)
    }
  }
  return false
}

async function startWasm(): Promise<void> {
  const { setWasmPaths } = await import('@tensorflow/tfjs-backend-wasm')
  const main = createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm')
  setWasmPaths(join(dirname(main), '..', 'wasm-out') + sep)
  if (!(await tf.setBackend('wasm'))) throw unavailable('the wasm backend does not start')
}

function isInstalled(name: string): boolean {
  try {
    createRequire(import.meta.url).resolve(name)
    return true
  } catch {
    return false
  }
}

function unavailable(reason: string): XmasdError {
  return new XmasdError(
    'ENGINE_UNAVAILABLE',
    `the tensorflow engine cannot start: ${reason}`,
    'Run `npm ci` again; `xmasd doctor` shows which engines work.',
  )
}
