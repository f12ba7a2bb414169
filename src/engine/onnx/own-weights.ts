/**
 * What a checkpoint feeds to a session that it shares with others of its base: tensors of its own, LoRA
 * factors, or the weights that an adapter adds to, as sums. An engine has one place for each, which holds
 * that of the checkpoint that ran last: a job runs all its passes at one checkpoint before it goes on.
 *
 * Shapes: O outputs, I inputs, r rank.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { elements, OpenFiles } from '../../proxy/checkpoint/safetensors.ts'
import type { LoraDelta } from '../../proxy/checkpoint/weights.ts'
import { ELEMENT_TYPES, encodeModel, type Fed } from './model.ts'

export interface OpenWeights {
  /** By the names of inputs, until another checkpoint's are asked for. Throws CHECKPOINT_INVALID. */
  tensors(): Promise<Record<string, Tensor>>
  close(): void
}

export class OwnWeights {
  readonly #threads: number
  readonly #places = new Map<string, { tensor: Tensor; from: Fed['from'] | undefined }>()
  #users = 0
  #merger: Promise<InferenceSession> | undefined

  /** `threads` add adapters to weights. */
  constructor(threads: number) {
    this.#threads = threads
  }

  /** Opens the files: what replaces them later is not read. Throws FILE_UNREADABLE. */
  open(fed: readonly Fed[]): OpenWeights {
    const files = new OpenFiles()
    try {
      for (const { from } of fed) {
        if (typeof from === 'number') continue
        const { file, lora } = from
        for (const one of [file, lora?.a.file, lora?.b.file]) if (one !== undefined) files.open(one)
      }
    } catch (error) {
      files.close()
      throw error
    }
    this.#users++
    return {
      tensors: async () => {
        const found: Record<string, Tensor> = {}
        for (const one of fed) found[one.name] = await this.#tensor(one, files)
        return found
      },
      close: () => {
        files.close()
        if (--this.#users === 0) this.#places.clear()
      },
    }
  }

  async #tensor({ name, shape, from }: Fed, files: OpenFiles): Promise<Tensor> {
    const found = this.#places.get(name)
    const isFit = found !== undefined && String(found.tensor.dims) === String(shape)
    const place = isFit ? found : { tensor: emptyTensor(shape), from: undefined }
    this.#places.set(name, place)
    if (place.from === from) return place.tensor
    place.from = undefined
    const values = place.tensor.data as Float32Array
    if (typeof from === 'number') values.fill(from)
    else {
      files.readInto(values, from.file, from)
      if (from.lora !== undefined) await this.#add(values, readFactors(from.lora, files))
    }
    place.from = from
    return place.tensor
  }

  /**
   * Adds up down to a weight [O, I]: in float64, rounded once, as in a checkpoint that was merged. Block by
   * block in its place: a run has read its rows before it writes them.
   */
  async #add(weight: Float32Array, { down, up, rank }: Factors): Promise<void> {
    const opening = this.#merger ?? openMerger(this.#threads)
    const merger = await opening
    this.#merger = opening
    const inputs = down.length / rank
    const outputs = up.length / rank
    const wide = new Tensor('float64', down, [rank, inputs])
    const step = Math.max(1, Math.floor(BLOCK / inputs))
    for (let from = 0; from < outputs; from += step) {
      const to = Math.min(outputs, from + step)
      const values = weight.subarray(from * inputs, to * inputs)
      const rows = new Tensor('float32', values, [to - from, inputs])
      const part = new Tensor('float64', up.subarray(from * rank, to * rank), [to - from, rank])
      await merger.run({ base: rows, up: part, down: wide }, { sum: rows })
    }
  }
}

/** Of a weight so many values at once: what is made of them on the way stays in a core's cache. */
const BLOCK = 2 ** 17

/** `down` [r, I], and s times `up` [O, r]. */
type Factors = { down: Float64Array; up: Float64Array; rank: number }

function readFactors({ a, b, scale }: LoraDelta, files: OpenFiles): Factors {
  const [down, up] = [a, b].map(({ file, ...entry }) => {
    const values = new Float32Array(elements(entry.shape))
    files.readInto(values, file, entry)
    return values
  }) as [Float32Array, Float32Array]
  return {
    down: Float64Array.from(down),
    up: Float64Array.from(up, value => value * scale),
    rank: a.shape[0]!,
  }
}

function emptyTensor(shape: readonly number[]): Tensor {
  return new Tensor('float32', new Float32Array(elements(shape)), [...shape])
}

function openMerger(threads: number): Promise<InferenceSession> {
  const node = (type: string, inputs: string[], output: string, attributes = {}) => ({
    ...{ domain: '' as const, type, inputs, output, attributes },
  })
  const model = encodeModel({
    nodes: [
      node('Cast', ['base'], 'wide', { to: ELEMENT_TYPES.float64 }),
      node('Gemm', ['up', 'down', 'wide'], 'exact'),
      node('Cast', ['exact'], 'sum', { to: ELEMENT_TYPES.float32 }),
    ],
    initializers: [],
    inputs: [
      { name: 'base', type: 'float32', shape: ['O', 'I'] },
      { name: 'up', type: 'float64', shape: ['O', 'r'] },
      { name: 'down', type: 'float64', shape: ['r', 'I'] },
    ],
    ...{ fed: [], output: 'sum', others: [] },
  })
  return InferenceSession.create(model, {
    ...{ intraOpNumThreads: threads, interOpNumThreads: 1, logSeverityLevel: 3 },
  })
}
