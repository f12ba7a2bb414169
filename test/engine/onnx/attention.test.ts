import assert from 'node:assert/strict'
import { test } from 'node:test'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { Build, HostTensor, InputSpec } from '../../../src/engine/engine.ts'
import type { AttentionForm, CausalShape } from '../../../src/engine/onnx/attention.ts'
import { buildGraph } from '../../../src/engine/onnx/graph.ts'
import { encodeModel } from '../../../src/engine/onnx/model.ts'
import { seededRandom } from '../../../src/math/random.ts'

type Name = 'q' | 'k' | 'v' | 'mask'
type Case = CausalShape & { batch: number; rows: number; tokens: number; masked: boolean }

const FORMS: readonly AttentionForm[] = ['operator', 'fused', 'plain']
const CASES: readonly Case[] = [
  { batch: 2, rows: 40, tokens: 40, heads: 4, kvHeads: 4, headDim: 8, causal: true, masked: false },
  { batch: 2, rows: 37, tokens: 37, heads: 6, kvHeads: 2, headDim: 4, causal: true, masked: false },
  {
    batch: 1,
    rows: 33,
    tokens: 33,
    heads: 3,
    kvHeads: 3,
    headDim: 4,
    causal: false,
    masked: false,
  },
  { batch: 3, rows: 5, tokens: 41, heads: 4, kvHeads: 1, headDim: 6, causal: false, masked: true },
]

test('attention in every form is what a naive float64 loop gives', async t => {
  for (const shape of CASES) {
    const values = inputsOf(shape)
    const expected = naiveAttention(values, shape)
    for (const form of FORMS) {
      const found = await run(form, values, shape)
      const worst = Math.max(...expected.map((value, i) => Math.abs(value - found[i]!)))
      t.diagnostic(`${form} ${JSON.stringify(shape)}: ${worst.toExponential(1)}`)
      assert.equal(found.length, expected.length)
      assert.ok(worst <= 2e-6, `${form} ${JSON.stringify(shape)}: ${worst}`)
    }
  }
})

function inputsOf({ batch, rows, tokens, heads, kvHeads, headDim }: Case) {
  const random = seededRandom(5)
  const tensor = (...shape: number[]) => {
    const size = shape.reduce((product, n) => product * n, 1)
    return { shape, data: Float32Array.from({ length: size }, () => random() * 4 - 2) }
  }
  const mask = tensor(batch, 1, rows, tokens)
  mask.data = mask.data.map((value, i) => (i % tokens > 0 && value > 0 ? -1e30 : 0))
  return {
    q: tensor(batch, rows, heads * headDim),
    k: tensor(batch, tokens, kvHeads * headDim),
    v: tensor(batch, tokens, kvHeads * headDim),
    mask,
  }
}

function naiveAttention(values: ReturnType<typeof inputsOf>, shape: Case): number[] {
  const { batch, rows, tokens, heads, kvHeads, headDim, causal, masked } = shape
  const { q, k, v, mask } = values
  const out: number[] = []
  for (let b = 0; b < batch; b++) {
    for (let s = 0; s < rows; s++) {
      for (let h = 0; h < heads; h++) {
        const at = (t: number): number =>
          ((b * tokens + t) * kvHeads + Math.floor((h * kvHeads) / heads)) * headDim
        const weights = Array.from({ length: tokens }, (_, t) => {
          let sum = 0
          for (let d = 0; d < headDim; d++) {
            sum += q.data[((b * rows + s) * heads + h) * headDim + d]! * k.data[at(t) + d]!
          }
          const seen = masked ? mask.data[(b * rows + s) * tokens + t]! : 0
          return causal && t > s ? 0 : Math.exp(sum / Math.sqrt(headDim) + seen)
        })
        const total = weights.reduce((sum, weight) => sum + weight, 0)
        for (let d = 0; d < headDim; d++) {
          out.push(weights.reduce((sum, w, t) => sum + (w / total) * v.data[at(t) + d]!, 0))
        }
      }
    }
  }
  return out
}

async function run(
  form: AttentionForm,
  values: Record<Name, HostTensor>,
  { masked, ...shape }: Case,
): Promise<Float32Array> {
  const names: Name[] = masked ? ['q', 'k', 'v', 'mask'] : ['q', 'k', 'v']
  const specs = Object.fromEntries(
    names.map(name => [name, { type: 'float32', shape: values[name].shape }]),
  ) as Record<Name, InputSpec>
  const build: Build<Name> = (ops, { q, k, v, mask }) => ops.attention(q, k, v, shape, mask)
  const nothing = { step: 0, dir: '', tensors: new Map() }
  const graph = buildGraph(nothing, specs, build, { attention: form, merged: true })
  const session = await InferenceSession.create(encodeModel(graph), { logSeverityLevel: 3 })
  const feeds = names.map(name => [
    name,
    new Tensor('float32', values[name].data as Float32Array, [...values[name].shape]),
  ])
  const output = (await session.run(Object.fromEntries(feeds)))[graph.output]!
  await session.release()
  return output.data as Float32Array
}
