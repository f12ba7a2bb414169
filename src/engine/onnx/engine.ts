/**
 * The default engine: onnxruntime on the CPU, on any GPU with a Vulkan, Metal or D3D12 driver (webgpu),
 * or on CUDA. Weights are read in place from the .safetensors.
 */
import { createHash } from 'node:crypto'
import { dirname } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { XmasdError } from '../../errors.ts'
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
import { type OpenWeights, OwnWeights } from './own-weights.ts'

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
  const weights = new OwnWeights(options.threads)
  return {
    name: 'onnx',
    device,
    compile: <Names extends string>(
      checkpoint: Checkpoint,
      inputs: Record<Names, InputSpec>,
      build: Build<Names>,
    ) => {
      const graph = buildGraph(checkpoint, inputs, build, { attention, merged: device === 'cpu' })
      const provider = providerOf(device, graph)
      const own = sessionOptions(checkpoint, provider, options)
      return failing(checkpoint, async () => {
        const opened = weights.open(graph.fed)
        try {
          const lease = await sessions.open(encodeModel(graph), own)
          return programOf<Names>(checkpoint, graph, lease, opened)
        } catch (error) {
          opened.close()
          throw error
        }
      })
    },
  }
}

function programOf<Names extends string>(
  checkpoint: Checkpoint,
  graph: Graph,
  { session, release }: Lease,
  weights: OpenWeights,
): Program<Names> {
  return {
    run: inputs =>
      failing(checkpoint, async () => run(session, graph, inputs, await weights.tensors())),
    release: async () => {
      weights.close()
      await release()
    },
  }
}

type Lease = { session: InferenceSession; release: () => Promise<void> }

/** Checkpoints of one base have equal graphs: what is their own they feed. Such share one session. */
class SharedSessions {
  readonly #open = new Map<string, { session: Promise<InferenceSession>; users: number }>()

  async open(model: Uint8Array, options: InferenceSession.SessionOptions): Promise<Lease> {
    const hash = createHash('sha256').update(JSON.stringify(options)).update(model)
    const key = hash.digest('hex')
    const shared = this.#open.get(key) ?? {
      session: InferenceSession.create(model, options),
      users: 0,
    }
    this.#open.set(key, shared)
    shared.users++
    const leave = (): boolean => --shared.users === 0 && this.#open.delete(key)
    const session = await shared.session.catch(error => {
      leave()
      throw error
    })
    const release = async (): Promise<void> => {
      if (!leave()) return
      if (options.enableProfiling === true) session.endProfiling()
      await session.release()
    }
    return { session, release }
  }
}

function providerOf(device: Device, { nodes }: Graph): InferenceSession.ExecutionProviderConfig {
  if (device !== 'webgpu') return device
  const onHost = nodes.map(({ output }) => output).filter(name => name.startsWith(HOST))
  return onHost.length === 0 ? device : { name: device, forceCpuNodeNames: onHost }
}

/** External data is found by its plain name in this folder; links that leave it are refused. */
function sessionOptions(
  checkpoint: Checkpoint,
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
    extra: { session: { model_external_initializers_file_folder_path: dirname(tensor.file) } },
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
    if (error instanceof XmasdError) throw error
    throw engineFailure('onnxruntime', checkpoint, error)
  }
}
