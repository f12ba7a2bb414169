/** The default engine: onnxruntime on the CPU, weights read in place from the .safetensors. */
import { dirname } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { messageOf, XmasdError } from '../errors.ts'
import type { Checkpoint } from '../proxy/schedule.ts'
import type { Build, Engine, HostTensor, InputSpec, Program } from './engine.ts'
import { buildGraph } from './onnx-graph.ts'
import { encodeModel, type Graph } from './onnx-model.ts'

/**
 * `threads` compute one program's run; `positionsMax` is the longest sequence. Runs block the
 * calling thread: use it from workers.
 */
export function onnxEngine({
  threads,
  positionsMax,
}: {
  threads: number
  positionsMax: number
}): Engine {
  return {
    name: 'onnx',
    device: 'cpu',
    compile: <Names extends string>(
      checkpoint: Checkpoint,
      inputs: Record<Names, InputSpec>,
      build: Build<Names>,
    ) => {
      const graph = buildGraph(checkpoint, inputs, build, positionsMax)
      return compile<Names>(checkpoint, graph, threads)
    },
  }
}

async function compile<Names extends string>(
  checkpoint: Checkpoint,
  graph: Graph,
  threads: number,
): Promise<Program<Names>> {
  const session = await failing(checkpoint, () =>
    InferenceSession.create(encodeModel(graph), sessionOptions(checkpoint, threads)),
  )
  return {
    run: inputs => failing(checkpoint, () => run(session, graph, inputs)),
    release: () => session.release(),
  }
}

/** External data is found by its plain name in this folder; links that leave it are refused. */
function sessionOptions(checkpoint: Checkpoint, threads: number): InferenceSession.SessionOptions {
  const [tensor] = checkpoint.tensors.values()
  if (tensor === undefined) throw new RangeError(`${checkpoint.dir} has no tensors`)
  return {
    executionProviders: ['cpu'],
    graphOptimizationLevel: 'all',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
    enableMemPattern: false, // one plan a shape would be kept, and shapes are many
    extra: { session: { model_external_initializers_file_folder_path: dirname(tensor.file) } },
  }
}

async function run(
  session: InferenceSession,
  graph: Graph,
  inputs: Record<string, HostTensor>,
): Promise<{ data: Float32Array; shape: readonly number[] }> {
  const feeds = Object.fromEntries(
    graph.inputs.map(({ name, type }) => {
      const { data, shape } = inputs[name]!
      return [name, new Tensor(type, data, [...shape])]
    }),
  )
  const output = (await session.run(feeds))[graph.output]!
  return { data: output.data as Float32Array, shape: output.dims }
}

async function failing<T>(checkpoint: Checkpoint, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw new XmasdError(
      'ENGINE_FAILED',
      `onnxruntime failed on ${checkpoint.dir}: ${messageOf(error)}`,
      'Check the memory that is free and that the checkpoint has not changed on disk.',
      { cause: error },
    )
  }
}
