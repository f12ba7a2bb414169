/**
 * Would products of eight bits do: what they cost in accuracy on a real schedule, and what they gain.
 *
 *   npm run bench:fewer-bits -- --proxy DIR --data FILE --images DIR [--examples N] [--clusters K] [--percent P]
 *
 * Scores the first N examples in float32; with the coarse linear layers (decision 003), and with all linear
 * layers of the language model, in eight bits; and in bfloat16 where the tensorflow engine has its addon. Eight
 * bits: each row of the weight and each token's values by their own largest value, the token's at run time, so
 * that no token's numbers depend on what shares its batch. The integers are held in float32 here: the error is
 * that of integer products.
 *
 * Against float32 it gives the relative differences of the scores, and what they do to the selection: the rank
 * correlation of instabilities within float32's clusters (weighted by size), and the shared part of the subsets.
 * Then the rates of one layer's product in float32 and in eight bits. The last line is one JSON object.
 */
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { fitClusters, usualClusters } from '../src/cluster/fit.ts'
import { rankCorrelation } from '../src/cluster/size-dependence.ts'
import type { Engine, HostTensor } from '../src/engine/engine.ts'
import { buildGraph } from '../src/engine/onnx/graph.ts'
import { ELEMENT_TYPES, encodeModel, type Graph, type Node } from '../src/engine/onnx/model.ts'
import { openEngine } from '../src/engine/open.ts'
import { findTensorflowAddon } from '../src/engine/tensorflow/backend.ts'
import { seededRandom } from '../src/math/random.ts'
import type { Points } from '../src/math/vectors.ts'
import { isCoarse } from '../src/proxy/checkpoint/parameters.ts'
import { openSchedule, type Schedule } from '../src/proxy/checkpoint/schedule.ts'
import { LIMITS, packBatch, packingOf, planBatches, type Sequence } from '../src/score/batch.ts'
import { attentionScore, compileVision } from '../src/score/checkpoint-score.ts'
import { createFeatureCache, imageFeatures } from '../src/score/features.ts'
import { instabilityOf, trajectoryOf } from '../src/score/metric.ts'
import { selectBatch } from '../src/select/rule/quotas.ts'
import { sequencesOf } from './score/examples.ts'

const { values: options } = parseArgs({
  options: {
    proxy: { type: 'string' },
    data: { type: 'string' },
    images: { type: 'string' },
    examples: { type: 'string', default: '1000' },
    clusters: { type: 'string' },
    percent: { type: 'string', default: '20' },
    threads: { type: 'string', default: '2' },
  },
})
const THREADS = Number(options.threads)

function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

/* Eight bits, as nodes of the graph. */

const LARGEST = 127

function node(
  type: string,
  inputs: string[],
  output: string,
  attributes: Node['attributes'] = {},
): Node {
  return { domain: '', type, inputs, output, attributes }
}

/** x [M, C] -> `${name}.steps` [M, 1] and `${name}.rounded`, x in steps: integers of -127 to 127. */
function rounded(x: string, name: string): Node[] {
  return [
    node('Abs', [x], `${name}.sizes`),
    node('ReduceMax', [`${name}.sizes`, 'last'], `${name}.largest`, { keepdims: 1 }),
    node('Max', [`${name}.largest`, 'tiny'], `${name}.positive`),
    node('Div', [`${name}.positive`, 'levels'], `${name}.steps`),
    node('Div', [x, `${name}.steps`], `${name}.exact`),
    node('Round', [`${name}.exact`], `${name}.rounded`),
  ]
}

const CONSTANTS: Graph['initializers'] = [
  { name: 'last', kind: 'int64', shape: [1], data: [-1] },
  { name: 'tiny', kind: 'float32', shape: [], data: Float32Array.of(1e-30) },
  { name: 'levels', kind: 'float32', shape: [], data: Float32Array.of(LARGEST) },
]

/** The products of linear layers that `isChosen` by rounded integers. */
function inEightBits(graph: Graph, isChosen: (name: string) => boolean): Graph {
  const nodes = graph.nodes.flatMap((one): Node[] => {
    const [x, weight, bias] = one.inputs
    if (one.type !== 'Gemm' || !isChosen(weight!)) return [one]
    const at = one.output
    const product = [
      ...[...rounded(x!, `${at}.x`), ...rounded(weight!, `${at}.w`)],
      node('Gemm', [`${at}.x.rounded`, `${at}.w.rounded`], `${at}.sum`, { transB: 1 }),
      node('Transpose', [`${at}.w.steps`], `${at}.across`, { perm: [1, 0] }),
      node('Mul', [`${at}.sum`, `${at}.x.steps`], `${at}.rows`),
    ]
    const scaled = bias === undefined ? at : `${at}.scaled`
    const last = node('Mul', [`${at}.rows`, `${at}.across`], scaled)
    return [...product, last, ...(bias === undefined ? [] : [node('Add', [scaled, bias], at)])]
  })
  return { ...graph, nodes, initializers: [...graph.initializers, ...CONSTANTS] }
}

/** As `onnxEngine` on the CPU, with the chosen layers in eight bits. Whole checkpoints in float32 only. */
function eightBitEngine(isChosen: (name: string) => boolean): Engine {
  return {
    ...{ name: 'onnx', device: 'cpu' },
    compile: async (checkpoint, inputs, build) => {
      const plain = buildGraph(checkpoint, inputs, build, { attention: 'operator', merged: true })
      const graph = inEightBits(plain, isChosen)
      const { file } = [...checkpoint.tensors.values()][0]!
      const session = await InferenceSession.create(encodeModel(graph), {
        ...{ intraOpNumThreads: THREADS, logSeverityLevel: 3 },
        extra: { session: { model_external_initializers_file_folder_path: dirname(file) } },
      })
      return {
        run: async given => {
          const feeds = graph.inputs.map(({ name, type }) => {
            const { data, shape } = (given as Record<string, HostTensor>)[name]!
            return [name, new Tensor(type as 'float32', data as Float32Array, [...shape])] as const
          })
          const found = await session.run(Object.fromEntries(feeds))
          const { data, dims } = found[graph.output]!
          return { data: data as Float32Array, shape: dims, others: [] }
        },
        release: () => session.release(),
      }
    },
  }
}

/* Trajectories by each way, and what the differences do. */

async function trajectories(
  { config, checkpoints }: Schedule,
  sequences: readonly Sequence[],
  engine: Engine,
): Promise<number[][]> {
  const float32 = await openEngine({ threads: THREADS })
  const features = createFeatureCache(2 ** 30)
  const passes = planBatches(sequences, LIMITS)
  const scores = sequences.map((): number[] => [])
  for (const [t, checkpoint] of checkpoints.entries()) {
    const tower = await compileVision(float32, config, checkpoint)
    const score = await attentionScore(engine, config, 'reference', checkpoint, {})
    for (const indices of passes) {
      const own = indices.map(i => sequences[i]!)
      const packed = packBatch(own, packingOf(config))
      const stacked = await features.stacked(t, packed.images, images =>
        imageFeatures(tower, config, images),
      )
      for (const [at, row] of (await score.rows({ packed, sequences: own }, stacked)).entries()) {
        if (row instanceof Error) throw row
        scores[indices[at]!]!.push(...trajectoryOf([row.values]))
      }
    }
    await tower.release()
    await score.release()
  }
  return scores
}

type Effect = {
  /** Relative differences of scores. */
  median: number
  largest: number
  /** Of all instabilities, and the mean of those within clusters. */
  order: number
  orderWithin: number
  /** Of the subset of float32, the part that is in the other's. */
  kept: number
}

function effectOf(exact: number[][], other: number[][], clusters: number): Effect {
  const differences = exact
    .flatMap((row, i) => row.map((score, t) => Math.abs(other[i]![t]! / score - 1)))
    .sort((a, b) => a - b)
  const [mine, theirs] = [exact, other].map(rows => rows.map(instabilityOf)) as [number[], number[]]
  const how = { clusters, seed: 0, signature: 'sum' } as const
  const { assignment } = fitClusters(pointsOf(exact), how)
  const groups = new Map<number, number[]>()
  for (const i of mine.keys()) {
    groups.set(assignment[i]!, [...(groups.get(assignment[i]!) ?? []), i])
  }
  let [sum, count] = [0, 0]
  for (const group of groups.values()) {
    const [a, b] = [mine, theirs].map(all => group.map(i => all[i]!))
    const order = rankCorrelation(a!, b!)
    if (order === null || group.length < 3) continue
    sum += order * group.length
    count += group.length
  }
  const subsetOf = (instabilities: number[]) => {
    const ranked = instabilities.map((instability, i) => ({
      ...{ id: String(i), instability, cluster: assignment[i]! },
    }))
    return new Set(selectBatch(ranked, Number(options.percent)).selected)
  }
  const [subset, others] = [subsetOf(mine), subsetOf(theirs)]
  return {
    median: differences[differences.length >> 1]!,
    largest: differences.at(-1)!,
    order: rankCorrelation(mine, theirs)!,
    orderWithin: sum / count,
    kept: [...subset].filter(i => others.has(i)).length / subset.size,
  }
}

function pointsOf(rows: readonly (readonly number[])[]): Points {
  return { data: Float64Array.from(rows.flat()), count: rows.length, dimensions: rows[0]!.length }
}

async function measureEffects(proxy: string, data: string, images: string): Promise<object> {
  const schedule = openSchedule(proxy)
  const lines = readFileSync(data, 'utf8').split('\n', Number(options.examples))
  const records = lines.filter(line => line !== '').map(line => JSON.parse(line) as object)
  const sequences = await sequencesOf(records, images, schedule)
  const clusters = Number(options.clusters ?? usualClusters(sequences.length))
  const exact = await trajectories(schedule, sequences, await openEngine({ threads: THREADS }))
  const ways: [string, Engine][] = [
    ['coarse layers in eight bits', eightBitEngine(isCoarse)],
    ['all layers of the text in eight bits', eightBitEngine(name => name.startsWith('text.'))],
  ]
  if (findTensorflowAddon() !== undefined) {
    const coarse = { engine: 'tensorflow', precision: 'bfloat16', threads: THREADS } as const
    ways.push(['coarse layers in bfloat16', await openEngine(coarse)])
  }
  const effects: Record<string, Effect> = {}
  for (const [name, engine] of ways) {
    const effect = effectOf(exact, await trajectories(schedule, sequences, engine), clusters)
    effects[name] = effect
    say(`${name}: ${JSON.stringify(effect)}`)
  }
  return { examples: sequences.length, clusters, checkpoints: schedule.checkpoints.length, effects }
}

/* Rates. */

const INT8 = { uint8: 2, int8: 3 }

/** x [M, C] by a constant weight [O, C]: as float32, or as integers with all that makes and unmakes them. */
function layer(weight: Float32Array, outputs: number, inputs: number, isInteger: boolean): Graph {
  const kind = 'float32' as const
  const matrix = { name: 'w', kind, shape: [outputs, inputs], data: weight }
  const graph = {
    ...{ inputs: [{ name: 'x', type: kind, shape: ['M', inputs] }], fed: [], others: [] },
    output: 'y',
  }
  if (!isInteger) {
    return {
      ...graph,
      nodes: [node('Gemm', ['x', 'w'], 'y', { transB: 1 })],
      initializers: [matrix],
    }
  }
  const nodes = [
    ...rounded('x', 'x'),
    node('Add', ['x.rounded', 'zero'], 'x.shifted'),
    node('Cast', ['x.shifted'], 'x.bytes', { to: INT8.uint8 }),
    ...rounded('w', 'w'), // constant from here on: the runtime folds it
    node('Transpose', ['w.rounded'], 'w.turned', { perm: [1, 0] }),
    node('Cast', ['w.turned'], 'w.bytes', { to: INT8.int8 }),
    node('Transpose', ['w.steps'], 'w.across', { perm: [1, 0] }),
    node('Cast', ['zero'], 'zero.byte', { to: INT8.uint8 }),
    node('MatMulInteger', ['x.bytes', 'w.bytes', 'zero.byte'], 'sum'),
    node('Cast', ['sum'], 'sum.float', { to: ELEMENT_TYPES.float32 }),
    node('Mul', ['sum.float', 'x.steps'], 'rows'),
    node('Mul', ['rows', 'w.across'], 'y'),
  ]
  const zero = { name: 'zero', kind, shape: [], data: Float32Array.of(LARGEST + 1) }
  return { ...graph, nodes, initializers: [matrix, zero, ...CONSTANTS] }
}

async function measureRates(): Promise<object> {
  const random = seededRandom(0)
  const tokens = 1216
  const rates: Record<string, object> = {}
  for (const [inputs, outputs] of [
    [896, 4864],
    [4864, 896],
    [896, 896],
  ] as const) {
    const noise = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5)
    const [weight, x] = [
      noise(outputs * inputs),
      new Tensor('float32', noise(tokens * inputs), [tokens, inputs]),
    ]
    const run = async (isInteger: boolean) => {
      const session = await InferenceSession.create(
        encodeModel(layer(weight, outputs, inputs, isInteger)),
        { intraOpNumThreads: THREADS, logSeverityLevel: 3 },
      )
      const times: number[] = []
      let values = new Float32Array()
      for (let i = 0; i < 12; i++) {
        const clock = performance.now()
        values = (await session.run({ x })).y!.data as Float32Array<ArrayBuffer>
        times.push((performance.now() - clock) / 1000)
      }
      await session.release()
      return { rate: (2 * tokens * inputs * outputs) / Math.min(...times) / 1e9, values }
    }
    const [float32, integer] = [await run(false), await run(true)]
    const largestOf = (values: Float32Array) =>
      values.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
    const apart = largestOf(integer.values.map((value, i) => value - float32.values[i]!))
    const name = `${tokens} x ${inputs} x ${outputs}`
    rates[name] = {
      ...{ float32: float32.rate, eightBits: integer.rate, ratio: integer.rate / float32.rate },
      apart: apart / largestOf(float32.values),
    }
    say(`${name}, GFLOP/s: ${JSON.stringify(rates[name])}`)
  }
  return rates
}

const { proxy, data, images } = options
const effects =
  proxy === undefined || data === undefined || images === undefined
    ? {}
    : await measureEffects(proxy, data, images)
console.log(JSON.stringify({ ...effects, rates: await measureRates() }))
