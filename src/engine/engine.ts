/**
 * The engine port: compiles what is written over `Ops` with one checkpoint's weights, then runs it.
 */
import type { Ops } from '../proxy/ops.ts'
import type { Checkpoint } from '../proxy/schedule.ts'

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

/** A named size is free: it may differ from run to run. */
export type InputSpec = { type: 'float32' | 'int32'; shape: readonly (number | string)[] }

export type HostTensor = { data: Float32Array | Int32Array; shape: readonly number[] }

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
