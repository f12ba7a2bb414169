/**
 * The default engine: onnxruntime on the CPU, on any GPU with a Vulkan, Metal or D3D12 driver (webgpu),
 * or on CUDA. Weights are read in place from the .safetensors.
 */
import { createHash } from 'node:crypto'
import { dirname } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Checkpoint } from '../../proxy/checkpoint/schedule.ts'
import {
  type Build,
  type Device,
  type Engine,
  engineFailure,
  type HostTensor,
  type InputSpec,
  type Output,
  type Program,
} from '../engine.ts'
import { buildGraph } from './graph.ts'
import { encodeModel, type Graph, HOST } from './model.ts'

export type OnnxOptions = {
  /** Of one program's run. */
  threads: number
  /** Default: cpu. */
  device?: Device | undefined
  fusedAttention?: boolean | undefined
  /** Where each program, once it is released, leaves a profile of its runs: a path to begin with. */
  profile?: string | undefined
}

/** Runs block the calling thread: use it from workers. */
export function onnxEngine(options: OnnxOptions): Engine {
  const { device = 'cpu', fusedAttention = false } = options
  const attention = device === 'cpu' ? 'operator' : fusedAttention ? 'fused' : 'plain'
  const sessions = new SharedSessions()
  return {
    name: 'onnx',
    device,
    compile: <Names extends string>(
      checkpoint: Checkpoint,
      inputs: Record<Names, InputSpec>,
      build: Build<Names>,
    ) => {
      const sumsInFloat64 = device !== 'webgpu'
      const graph = buildGraph(checkpoint, inputs, build, {
        attention,
        sumsInFloat64,
      })
      const provider = providerOf(device, graph)
      const own = sessionOptions(checkpoint, graph, provider, options)
      return compile<Names>(checkpoint, graph, own, sessions)
    },
  }
}

async function compile<Names extends string>(
  checkpoint: Checkpoint,
  graph: Graph,
  options: InferenceSession.SessionOptions,
  sessions: SharedSessions,
): Promise<Program<Names>> {
  const fed = await failing(checkpoint, async () => readFed(graph))
  const { session, release } = await failing(checkpoint, () =>
    sessions.open(encodeModel(graph), options),
  )
  return {
    run: inputs => failing(checkpoint, () => run(session, graph, inputs, fed)),
    release,
  }
}

function readFed({ fed }: Graph): Record<string, Tensor> {
  return Object.fromEntries(
    fed.map(({ name, type, shape, read }) => [name, new Tensor(type, read(), [...shape])]),
  )
}

type Session = { session: InferenceSession; users: number }

/** Checkpoints of one base have equal graphs: what is their own they feed. Such share one session. */
class SharedSessions {
  readonly #open = new Map<string, Promise<Session>>()

  async open(
    model: Uint8Array,
    options: InferenceSession.SessionOptions,
  ): Promise<{ session: InferenceSession; release: () => Promise<void> }> {
    const hash = createHash('sha256').update(JSON.stringify(options)).update(model)
    const key = hash.digest('hex')
    const opening = this.#open.get(key) ?? create(model, options)
    this.#open.set(key, opening)
    const shared = await opening.catch(error => {
      this.#open.delete(key)
      throw error
    })
    shared.users++
    const release = async (): Promise<void> => {
      if (--shared.users > 0) return
      this.#open.delete(key)
      if (options.enableProfiling === true) shared.session.endProfiling()
      await shared.session.release()
    }
    return { session: shared.session, release }
  }
}

async function create(
  model: Uint8Array,
  options: InferenceSession.SessionOptions,
): Promise<Session> {
  return { session: await InferenceSession.create(model, options), users: 0 }
}

function providerOf(device: Device, { nodes }: Graph): InferenceSession.ExecutionProviderConfig {
  if (device !== 'webgpu') return device
  const onHost = nodes.map(({ output }) => output).filter(name => name.startsWith(HOST))
  return onHost.length === 0 ? device : { name: device, forceCpuNodeNames: onHost }
}

/** External data is found by its plain name in this folder; links that leave it are refused. */
function sessionOptions(
  checkpoint: Checkpoint,
  { fed }: Graph,
  provider: InferenceSession.ExecutionProviderConfig,
  { threads, profile }: OnnxOptions,
): InferenceSession.SessionOptions {
  const tensor = [...checkpoint.tensors.values()].find(({ isReplaced }) => isReplaced !== true)
  if (tensor === undefined) throw new RangeError(`${checkpoint.dir} has no tensors`)
  return {
    executionProviders: [provider],
    graphOptimizationLevel: 'all',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
    ...(profile === undefined ? {} : { enableProfiling: true, profileFilePrefix: profile }),
    enableMemPattern: false, // one plan a shape would be kept, and shapes are many
    extra: {
      session: { model_external_initializers_file_folder_path: dirname(tensor.file) },
      // Of a base that adapters change in each run, wider copies would be kept.
      ...(fed.length > 0 && { optimization: { disable_specified_optimizers: 'ConstantFolding' } }),
    },
  }
}

async function run(
  session: InferenceSession,
  graph: Graph,
  inputs: Record<string, HostTensor>,
  fed: Record<string, Tensor>,
): Promise<Output & { others: Output[] }> {
  const given = Object.fromEntries(
    graph.inputs.map(({ name, type }) => {
      const { data, shape } = inputs[name]!
      return [name, new Tensor(type, data, [...shape])]
    }),
  )
  const found = await session.run({ ...given, ...fed })
  const outputOf = (name: string): Output => {
    const { data, dims } = found[name]!
    return { data: data as Float32Array, shape: dims }
  }
  return { ...outputOf(graph.output), others: graph.others.map(outputOf) }
}

async function failing<T>(checkpoint: Checkpoint, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw engineFailure('onnxruntime', checkpoint, error)
  }
}
