/** The parameters of an untrained proxy, by canonical name. */
import type { ProxyConfig } from '../proxy/config.ts'
import { parametersOf } from '../proxy/parameters.ts'
import { normalDeviates, seededRandom, seedOf } from '../random.ts'

export type ParameterValues = { shape: readonly number[]; data: Float32Array }

/**
 * Every parameter that Hugging Face's model has, those that the score never reads included. Norms
 * begin at 1, biases at 0, weights at normal deviates of 1/sqrt(fan-in), narrower where they write
 * into the residual stream (GPT-2). Each draws from its own seed, so that order does not matter.
 */
export function initialParameters(config: ProxyConfig, seed: number): Map<string, ParameterValues> {
  return new Map(
    shapesOf(config).map(([name, shape]) => [
      name,
      { shape, data: initial(config, name, shape, seed) },
    ]),
  )
}

function shapesOf(config: ProxyConfig): [name: string, shape: readonly number[]][] {
  const { text, vision } = config
  const read = parametersOf(config)
    .filter(({ name, required }) => required || name.startsWith('connector.'))
    .map(({ name, shape }): [string, readonly number[]] => [name, shape])
  const at = `text.layers.${text.layers - 1}.`
  const [wide, narrow] = [text.heads * text.headDim, text.kvHeads * text.headDim]
  return [
    ...read,
    [`${at}self_attn.v_proj.weight`, [narrow, text.width]],
    [`${at}self_attn.o_proj.weight`, [text.width, wide]],
    [`${at}post_attention_layernorm.weight`, [text.width]],
    [`${at}mlp.gate_proj.weight`, [text.intermediate, text.width]],
    [`${at}mlp.up_proj.weight`, [text.intermediate, text.width]],
    [`${at}mlp.down_proj.weight`, [text.width, text.intermediate]],
    ['text.norm.weight', [text.width]],
    ['vision.post_layernorm.weight', [vision.width]],
    ['vision.post_layernorm.bias', [vision.width]],
  ]
}

const RESIDUAL = /(o_proj|out_proj|down_proj|fc2)\.weight$/

function initial(
  config: ProxyConfig,
  name: string,
  shape: readonly number[],
  seed: number,
): Float32Array {
  const size = shape.reduce((product, n) => product * n, 1)
  if (name.endsWith('.bias')) return new Float32Array(size)
  if (/norm\d?\.weight$|layrnorm\.weight$/.test(name)) return new Float32Array(size).fill(1)
  const { layers } = name.startsWith('vision.') ? config.vision : config.text
  const fanIn = shape.length === 1 ? size : size / shape[0]!
  const scale = (RESIDUAL.test(name) ? 1 / Math.sqrt(2 * layers) : 1) / Math.sqrt(fanIn)
  return normalDeviates(seededRandom(seedOf(seed, name)), size).map(value => value * scale)
}

/** How many numbers a proxy has. */
export function parameterCount(parameters: ReadonlyMap<string, ParameterValues>): number {
  let count = 0
  for (const { data } of parameters.values()) count += data.length
  return count
}
