/**
 * The engine port: compiles what is written over `Ops` with one checkpoint's weights, then runs it.
 */

import { messageOf, XmasdError } from '../errors.ts'
import type { Checkpoint } from '../proxy/checkpoint/schedule.ts'
import type { HostTensor, InputSpec, Ops } from '../proxy/ops.ts'

export type { HostTensor, InputSpec }

export const ENGINES = ['onnx', 'tensorflow'] as const
export type EngineName = (typeof ENGINES)[number]

/** Where an engine computes. */
export const DEVICES = ['cpu', 'webgpu', 'cuda'] as const
export type Device = (typeof DEVICES)[number]

/** Of the coarse linear layers (`isCoarse`): their weights, and what is multiplied with them. */
export const PRECISIONS = ['float32', 'bfloat16'] as const
export type Precision = (typeof PRECISIONS)[number]

/** Which engine computes, where and how. Default: onnx on the cpu, in float32. */
export type EngineChoice = {
  engine?: EngineName | undefined
  device?: Device | undefined
  precision?: Precision | undefined
  /** May attention be one fused operator on a GPU: what its self-test found. */
  fusedAttention?: boolean | undefined
}

export type Output = { data: Float32Array; shape: readonly number[] }

/** What a program computes: its output, and others where it gives several. `Names` are its inputs. */
export type Build<Names extends string> = <V>(
  ops: Ops<V>,
  inputs: Record<Names, V>,
) => V | readonly [output: V, ...others: V[]]

/** All that `build` returned, the output first. */
export function outputsOf<V>(built: V | readonly [V, ...V[]]): readonly [V, ...V[]] {
  return Array.isArray(built) ? (built as unknown as readonly [V, ...V[]]) : [built as V]
}

/** A compiled graph with its weights. One run at a time. */
export interface Program<Names extends string> {
  /** The output's values, row-major, and those of the others. Throws ENGINE_FAILED. */
  run(inputs: Record<Names, HostTensor>): Promise<Output & { others: readonly Output[] }>
  release(): Promise<void>
}

export interface Engine {
  readonly name: EngineName
  readonly device: Device
  /** Throws ENGINE_FAILED where the graph or the weights can't be loaded. */
  compile<Names extends string>(
    checkpoint: Checkpoint,
    inputs: Record<Names, InputSpec>,
    build: Build<Names>,
  ): Promise<Program<Names>>
}

/* What it means that an engine failed: memory ran out, or anything else. */

/**
 * How allocations fail, in the words of those that fail: onnxruntime's arena, C++, CUDA and cuBLAS, Dawn
 * (webgpu), TensorFlow (its status 8), WebAssembly (which gives no reason when it aborts), V8.
 */
const OUT_OF_MEMORY = [
  /Failed to allocate memory/,
  /bad_?alloc/i,
  /out of memory/i,
  /CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED/,
  /RESOURCE_EXHAUSTED|OOM when allocating|Invalid TF_Status: 8\b/,
  /WebAssembly\.Memory|Cannot enlarge memory|^Aborted\(/,
  /Array buffer allocation failed|Cannot allocate memory|reaching memory limit/,
]

/** Also of a thread that outgrew its heap. */
export function isOutOfMemory(error: unknown): boolean {
  if (error instanceof XmasdError) return error.code === 'OUT_OF_MEMORY'
  const message = messageOf(error)
  return OUT_OF_MEMORY.some(pattern => pattern.test(message))
}

/** OUT_OF_MEMORY or ENGINE_FAILED. `engine` is the library's name. */
export function engineFailure(engine: string, checkpoint: Checkpoint, error: unknown): XmasdError {
  const message = `${engine} failed on ${checkpoint.dir}: ${messageOf(error)}`
  return isOutOfMemory(error)
    ? new XmasdError('OUT_OF_MEMORY', message, MEMORY_HINT, { cause: error })
    : new XmasdError('ENGINE_FAILED', message, 'Try the device: `xmasd doctor`; report it.', {
        cause: error,
      })
}

export const MEMORY_HINT =
  'Lower proxy.memoryMax or proxy.tokensMax, or give the daemon more memory.'
