/**
 * The default engine: onnxruntime on the CPU, on any GPU with a Vulkan, Metal or D3D12 driver (webgpu),
 * or on CUDA. Weights are read in place from the .safetensors.
 */
import { dirname } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Checkpoint } from '../proxy/schedule.ts'
import type { Build, Device, Engine, HostTensor, InputSpec, Output, Program } from './engine.ts'
import { engineFailure } from './failure.ts'
import { buildGraph } from './onnx-graph.ts'
import { encodeModel, type Graph, HOST } from './onnx-model.ts'

export type OnnxOptions = {
  /** Of one program's run. */
  threads: number
  /** The longest sequence. */
  positionsMax: number
  /** Default: cpu. */
  device?: Device | undefined
  fusedAttention?: boolean | undefined
  /** Where each program, once it is released, leaves a profile of its runs: a path to begin with. */
  profile?: string | undefined
}

/** Runs block the calling thread: use it from workers. */
export function onnxEngine(options: OnnxOptions): Engine {
  const { positionsMax, device = 'cpu', fusedAttention = false } = options
  const attention = device === 'cpu' ? 'operator' : fusedAttention ? 'fused' : 'plain'
  return {
    name: 'onnx',
    device,
    compile: <Names extends string>(
      checkpoint: Checkpoint,
      inputs: Record<Names, InputSpec>,
      build: Build<Names>,
    ) => {
      const graph = buildGraph(checkpoint, inputs, build, { positionsMax, attention })
      const provider = providerOf(device, graph)
      return compile<Names>(checkpoint, graph, sessionOptions(checkpoint, provider, options))
    },
  }
}

async function compile<Names extends string>(
  checkpoint: Checkpoint,
  graph: Graph,
  options: InferenceSession.SessionOptions,
): Promise<Program<Names>> {
  const session = await failing(checkpoint, () =>
    InferenceSession.create(encodeModel(graph), options),
  )
  return {
    run: inputs => failing(checkpoint, () => run(session, graph, inputs)),
    release: async () => {
      if (options.enableProfiling === true) session.endProfiling()
      await session.release()
    },
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
  const [tensor] = checkpoint.tensors.values()
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
): Promise<Output & { others: Output[] }> {
  const feeds = Object.fromEntries(
    graph.inputs.map(({ name, type }) => {
      const { data, shape } = inputs[name]!
      return [name, new Tensor(type, data, [...shape])]
    }),
  )
  const found = await session.run(feeds)
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
