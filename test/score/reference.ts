/**
 * The exact score in naive float64 loops, straight from DESIGN's words: the oracle for the engines.
 * One sequence, no batch, no padding; GQA by repeating each feature of k; singular values by SVD.
 */
import { Matrix, SVD } from 'ml-matrix'
import type { ProxyConfig } from '../../src/proxy/config.ts'
import type { Activation } from '../../src/proxy/ops.ts'
import type { Mode } from '../../src/score/attention.ts'
import type { Sequence } from '../../src/score/batch.ts'
import type { Weights } from '../fixtures-tiny-proxy.ts'

type Rows = number[][]

export function referenceScore(
  weights: Weights,
  config: ProxyConfig,
  mode: Mode,
  sequence: Sequence,
): { attention: Rows; top5: number[]; pooled: number[]; question: number[] } {
  const model = new Reference(weights, config)
  const { attention, states } = model.score(mode, sequence)
  const values = new SVD(new Matrix(attention), { autoTranspose: true }).diagonal
  const top5 = [...values].sort((a, b) => b - a).slice(0, 5)
  while (top5.length < 5) top5.push(0)
  const meanOver = (positions: ArrayLike<number> = []): number[] => {
    const rows = Array.from(positions, position => states[position]!)
    const sums = states[0]!.map((_, c) => rows.reduce((sum, row) => sum + row[c]!, 0))
    return sums.map(sum => sum / Math.max(1, rows.length))
  }
  const [pooled, question] = [sequence.rows, sequence.questions].map(meanOver)
  return { attention, top5, pooled: pooled!, question: question! }
}

/** The mean of -log p(token) over the answers' tokens. */
export function referenceLoss(weights: Weights, config: ProxyConfig, sequence: Sequence): number {
  return new Reference(weights, config).loss(sequence)
}

class Reference {
  readonly #weights: Weights
  readonly #config: ProxyConfig

  constructor(weights: Weights, config: ProxyConfig) {
    this.#weights = weights
    this.#config = config
  }

  /** The attention [R, I], and the states that the last layer's projections read [T, C]. */
  score(mode: Mode, sequence: Sequence): { attention: Rows; states: Rows } {
    const { text } = this.#config
    const d = text.heads * text.headDim
    let x = this.#embedded(sequence)
    let states = x
    const total = Array.from(sequence.rows, () => Array.from(sequence.columns, () => 0))
    for (let layer = 0; layer < text.layers; layer++) {
      const at = `text.layers.${layer}.`
      const h = this.#textNorm(x, `${at}input_layernorm`)
      states = h
      const q = this.#linear(h, `${at}self_attn.q_proj`)
      const k = this.#linear(h, `${at}self_attn.k_proj`)
      const wide = k.map(row =>
        row.flatMap(value => Array<number>(text.heads / text.kvHeads).fill(value)),
      )
      const [from, to] = mode === 'reference' ? [wide, q] : [q, wide]
      for (const [r, row] of sequence.rows.entries()) {
        const map = softmax(to.map(other => dot(from[row]!, other) / Math.sqrt(d)))
        for (const [c, column] of sequence.columns.entries()) total[r]![c]! += map[column]!
      }
      if (layer < text.layers - 1) x = this.#decoderLayer(x, h, q, k, at)
    }
    return { attention: total, states }
  }

  loss(sequence: Sequence): number {
    const { text } = this.#config
    let x = this.#embedded(sequence)
    for (let layer = 0; layer < text.layers; layer++) {
      const at = `text.layers.${layer}.`
      const h = this.#textNorm(x, `${at}input_layernorm`)
      const q = this.#linear(h, `${at}self_attn.q_proj`)
      const k = this.#linear(h, `${at}self_attn.k_proj`)
      x = this.#decoderLayer(x, h, q, k, at)
    }
    const predicting = Array.from(sequence.answers, position => x[position - 1]!)
    const head = text.tiedHead ? 'text.embed_tokens' : 'head'
    const logits = this.#linear(this.#textNorm(predicting, 'text.norm'), head)
    const losses = logits.map(
      (row, i) => -Math.log(softmax(row)[sequence.ids[sequence.answers[i]!]!]!),
    )
    return losses.reduce((sum, loss) => sum + loss, 0) / losses.length
  }

  #decoderLayer(x: Rows, h: Rows, q: Rows, k: Rows, at: string): Rows {
    const { heads, kvHeads, headDim } = this.#config.text
    const v = this.#linear(h, `${at}self_attn.v_proj`)
    const turned = (y: Rows, name: string): Rows =>
      this.#rotate(this.#headNorm(y, `${at}self_attn.${name}`))
    const mixed = heads2d(turned(q, 'q'), turned(k, 'k'), v, {
      heads,
      kvHeads,
      headDim,
      causal: true,
    })
    const attended = this.#linear(mixed, `${at}self_attn.o_proj`)
    if (this.#config.text.parallelResidual) return plus(plus(x, attended), this.#mlp(h, at))
    const middle = plus(x, attended)
    return plus(middle, this.#mlp(this.#textNorm(middle, `${at}post_attention_layernorm`), at))
  }

  #mlp(x: Rows, at: string): Rows {
    const { mlp, activation } = this.#config.text
    const up = this.#linear(x, `${at}mlp.up_proj`)
    if (mlp === 'plain') return this.#linear(activate(up, activation), `${at}mlp.down_proj`)
    const gate = activate(this.#linear(x, `${at}mlp.gate_proj`), activation)
    const product = gate.map((row, i) => row.map((value, j) => value * up[i]![j]!))
    return this.#linear(product, `${at}mlp.down_proj`)
  }

  #embedded({ ids, columns, images }: Sequence): Rows {
    const table = this.#matrix('text.embed_tokens.weight')
    const features = images.flatMap(({ patches }) => this.#imageFeatures(patches))
    const x = Array.from(ids, id => table[id] ?? [])
    for (const [i, column] of columns.entries()) x[column] = features[i]!
    return x
  }

  #imageFeatures(patches: Float32Array): Rows {
    const { activation, layers = 2 } = this.#config.connector
    let x = this.#linear(this.#vision(patches), 'connector.1')
    for (let layer = 2; layer <= layers; layer++) {
      x = this.#linear(activate(x, activation), `connector.${layer}`)
    }
    return x
  }

  #vision(patches: Float32Array): Rows {
    const { vision } = this.#config
    const size = 3 * vision.patchSize ** 2
    const count = patches.length / size
    const cut = Array.from({ length: count }, (_, n) => [
      ...patches.subarray(n * size, (n + 1) * size),
    ])
    const kernel = this.#matrix('vision.embeddings.patch_embedding.weight', size)
    const bias = this.#weights.get('vision.embeddings.patch_embedding.bias')?.data
    let x = cut.map(patch => kernel.map((row, o) => dot(row, patch) + (bias?.[o] ?? 0)))
    if (vision.family === 'clip') {
      x = [[...this.#weights.get('vision.embeddings.class_embedding')!.data], ...x]
    }
    x = plus(x, this.#matrix('vision.embeddings.position_embedding.weight'))
    if (vision.family === 'clip') x = this.#layerNorm(x, 'vision.pre_layrnorm', vision.epsilon)
    for (let layer = 0; layer < vision.layersRun; layer++) {
      const at = `vision.encoder.layers.${layer}.`
      const h = this.#layerNorm(x, `${at}layer_norm1`, vision.epsilon)
      const [q, k, v] = ['q', 'k', 'v'].map(p => this.#linear(h, `${at}self_attn.${p}_proj`)) as [
        Rows,
        Rows,
        Rows,
      ]
      const { heads } = vision
      const shape = { heads, kvHeads: heads, headDim: vision.width / heads, causal: false }
      x = plus(x, this.#linear(heads2d(q, k, v, shape), `${at}self_attn.out_proj`))
      const m = this.#linear(this.#layerNorm(x, `${at}layer_norm2`, vision.epsilon), `${at}mlp.fc1`)
      x = plus(x, this.#linear(activate(m, vision.activation), `${at}mlp.fc2`))
    }
    return vision.dropFirstRow ? x.slice(1) : x
  }

  #matrix(name: string, columns?: number): Rows {
    const { shape, data } = this.#weights.get(name)!
    const width = columns ?? shape[1]!
    return Array.from({ length: data.length / width }, (_, i) => [
      ...data.subarray(i * width, (i + 1) * width),
    ])
  }

  #linear(x: Rows, name: string): Rows {
    const weight = this.#matrix(`${name}.weight`)
    const bias = this.#weights.get(`${name}.bias`)?.data
    return x.map(row => weight.map((w, o) => dot(row, w) + (bias?.[o] ?? 0)))
  }

  #textNorm(x: Rows, name: string): Rows {
    const { norm, epsilon } = this.#config.text
    return norm === 'rms' ? this.#rms(x, name) : this.#layerNorm(x, name, epsilon)
  }

  /** Every head of q and of k alone; Qwen3 and Phi: all with one weight, StableLM: each its own. */
  #headNorm(x: Rows, name: string): Rows {
    const { headNorm, headDim } = this.#config.text
    if (headNorm === 'none') return x
    const heads = (row: number[]): Rows =>
      Array.from({ length: row.length / headDim }, (_, h) =>
        row.slice(h * headDim, (h + 1) * headDim),
      )
    if (headNorm === 'rms') return x.map(row => this.#rms(heads(row), `${name}_norm`).flat())
    const { epsilon } = this.#config.text
    const at = `${name}_layernorm`
    const nameOf = (h: number): string => (headNorm === 'layer' ? at : `${at}.norms.${h}`)
    return x.map(row =>
      heads(row).flatMap((head, h) => this.#layerNorm([head], nameOf(h), epsilon).flat()),
    )
  }

  #rms(x: Rows, name: string): Rows {
    const { data } = this.#weights.get(`${name}.weight`)!
    return x.map(row => {
      const mean = dot(row, row) / row.length
      return row.map((value, i) => (value / Math.sqrt(mean + this.#config.text.epsilon)) * data[i]!)
    })
  }

  #layerNorm(x: Rows, name: string, epsilon: number): Rows {
    const weight = this.#weights.get(`${name}.weight`)!.data
    const bias = this.#weights.get(`${name}.bias`)?.data
    return x.map(row => {
      const mean = row.reduce((sum, value) => sum + value, 0) / row.length
      const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length
      const deviation = Math.sqrt(variance + epsilon)
      return row.map((value, i) => ((value - mean) / deviation) * weight[i]! + (bias?.[i] ?? 0))
    })
  }

  /** Half-split rotary: channel i of a head's first `rotaryDims` turns with channel i + half. */
  #rotate(x: Rows): Rows {
    const { headDim, rotaryDims } = this.#config.text
    const half = rotaryDims / 2
    const { ropeScaling } = this.#config.text
    const f = ropeScaling.kind === 'yarn' ? ropeScaling.amplitude : 1
    return x.map((row, position) => {
      const out = [...row]
      for (let start = 0; start < row.length; start += headDim) {
        for (let i = 0; i < half; i++) {
          const angle = position * this.#frequency(i)
          const [a, b] = [row[start + i]!, row[start + i + half]!]
          out[start + i] = f * (a * Math.cos(angle) - b * Math.sin(angle))
          out[start + i + half] = f * (b * Math.cos(angle) + a * Math.sin(angle))
        }
      }
      return out
    })
  }

  /** `llama3` by wavelength, `yarn` by a ramp: as transformers' `modeling_rope_utils` puts them. */
  #frequency(i: number): number {
    const { ropeTheta, rotaryDims, ropeScaling } = this.#config.text
    const plain = 1 / ropeTheta ** ((2 * i) / rotaryDims)
    if (ropeScaling.kind === 'default' || ropeScaling.kind === 'dynamic') return plain
    if (ropeScaling.kind === 'linear') return plain / ropeScaling.factor
    if (ropeScaling.kind === 'yarn') {
      const { turnsFast, turnsSlow, positionsBefore, truncates, factor } = ropeScaling
      const found = [turnsFast, turnsSlow].map(
        turns =>
          (rotaryDims * Math.log(positionsBefore / (turns * 2 * Math.PI))) /
          (2 * Math.log(ropeTheta)),
      )
      const low = Math.max(truncates ? Math.floor(found[0]!) : found[0]!, 0)
      const high = Math.min(truncates ? Math.ceil(found[1]!) : found[1]!, rotaryDims - 1)
      const kept = 1 - Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)))
      return (plain / factor) * (1 - kept) + plain * kept
    }
    const { factor, lowFrequencyFactor, highFrequencyFactor, positionsBefore } = ropeScaling
    const wavelength = (2 * Math.PI) / plain
    if (wavelength < positionsBefore / highFrequencyFactor) return plain
    if (wavelength > positionsBefore / lowFrequencyFactor) return plain / factor
    const smooth =
      (positionsBefore / wavelength - lowFrequencyFactor) /
      (highFrequencyFactor - lowFrequencyFactor)
    return ((1 - smooth) * plain) / factor + smooth * plain
  }
}

function heads2d(
  q: Rows,
  k: Rows,
  v: Rows,
  shape: { heads: number; kvHeads: number; headDim: number; causal: boolean },
): Rows {
  const { heads, kvHeads, headDim, causal } = shape
  return q.map((row, i) =>
    Array.from({ length: heads }, (_, head) => {
      const own = Math.floor((head * kvHeads) / heads)
      const part = (y: number[], h: number): number[] => y.slice(h * headDim, (h + 1) * headDim)
      const seen = causal ? k.slice(0, i + 1) : k
      const products = seen.map(
        other => dot(part(row, head), part(other, own)) / Math.sqrt(headDim),
      )
      const map = softmax(products)
      const sum = Array<number>(headDim).fill(0)
      for (const [j, weight] of map.entries()) {
        for (const [c, value] of part(v[j]!, own).entries()) sum[c]! += weight * value
      }
      return sum
    }).flat(),
  )
}

function activate(x: Rows, kind: Activation): Rows {
  const of: Record<Activation, (value: number) => number> = {
    gelu: value => 0.5 * value * (1 + erf(value / Math.SQRT2)),
    gelu_pytorch_tanh: value =>
      0.5 * value * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (value + 0.044715 * value ** 3))),
    quick_gelu: value => value / (1 + Math.exp(-1.702 * value)),
    silu: value => value / (1 + Math.exp(-value)),
    relu: value => Math.max(0, value),
  }
  return x.map(row => row.map(of[kind]))
}

/** 2/sqrt(pi) * sum (-1)^n x^(2n+1) / (n! (2n+1)); beyond 5.5 it is 1 in float64. */
function erf(x: number): number {
  if (Math.abs(x) > 5.5) return Math.sign(x)
  let [term, sum] = [x, x]
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}

function softmax(values: number[]): number[] {
  const most = Math.max(...values)
  const powers = values.map(value => Math.exp(value - most))
  const sum = powers.reduce((total, value) => total + value, 0)
  return powers.map(value => value / sum)
}

function plus(a: Rows, b: Rows): Rows {
  return a.map((row, i) => row.map((value, j) => value + b[i]![j]!))
}

function dot(a: readonly number[], b: readonly number[]): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}
