/** The shape of a proxy to be trained: its configuration and its initial parameters. */
import { XmasdError } from '../errors.ts'
import type { Template } from '../ingest/template.ts'
import { normalDeviates, seededRandom, seedOf } from '../math/random.ts'
import { proxyOf } from '../proxy/checkpoint/config.ts'
import { parametersOf } from '../proxy/checkpoint/parameters.ts'
import { elements } from '../proxy/checkpoint/safetensors.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { affine, type Parameter } from '../proxy/model.ts'

/** A small CLIP + Llama. Widths in channels, sizes in pixels, layers of each side. */
export type ProxyShape = {
  imageSize: number
  patchSize: number
  visionWidth: number
  visionLayers: number
  width: number
  layers: number
  heads: number
  kvHeads: number
  /** Longest sequence, in positions. */
  lengthMax: number
}

export const SMALL_PROXY: ProxyShape = {
  imageSize: 56,
  patchSize: 8,
  visionWidth: 48,
  visionLayers: 2,
  width: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  lengthMax: 512,
}

/** Special tokens by id; the 256 bytes follow. */
export const SPECIALS = ['<pad>', '<s>', '</s>', '<image>'] as const

export const IMAGE_ID = SPECIALS.indexOf('<image>')
const VOCAB_SIZE = SPECIALS.length + 256

/** Short: every character is a token. */
export const TRAINING_TEMPLATE: Template = {
  system: '',
  image: '<image>\n{{content}}',
  user: 'USER: {{content}} ',
  assistant: 'ASSISTANT: {{content}}</s>',
}

/** As `readProxyConfig` reads the config.json of a checkpoint that `saveCheckpoint` wrote. Throws CONFIG_INVALID where sizes don't fit. */
export function configOf(shape: ProxyShape): ProxyConfig {
  checkShape(shape)
  const { heads, visionWidth } = shape
  return proxyOf({
    image_token_index: IMAGE_ID,
    vision_feature_layer: -1,
    vision_config: {
      hidden_size: visionWidth,
      intermediate_size: 2 * visionWidth,
      num_hidden_layers: shape.visionLayers,
      num_attention_heads: visionWidth % heads === 0 ? heads : 1,
      image_size: shape.imageSize,
      patch_size: shape.patchSize,
    },
    text_config: {
      hidden_size: shape.width,
      intermediate_size: 2 * shape.width,
      num_hidden_layers: shape.layers,
      num_attention_heads: heads,
      num_key_value_heads: shape.kvHeads,
      rms_norm_eps: 1e-5,
      max_position_embeddings: shape.lengthMax,
      vocab_size: VOCAB_SIZE,
      tie_word_embeddings: true,
    },
  })
}

function checkShape(shape: ProxyShape): void {
  for (const [name, value] of Object.entries(shape)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw refusal(`${name} is ${value}`, 'Give whole numbers above 0.')
    }
  }
  const { width, heads, kvHeads, imageSize, patchSize } = shape
  if (width % (2 * heads) !== 0) {
    throw refusal(`width ${width} does not divide`, `Take a multiple of ${2 * heads}.`)
  }
  if (heads % kvHeads !== 0) throw refusal(`${kvHeads} kv heads`, `Take a divisor of ${heads}.`)
  if (patchSize > imageSize) {
    throw refusal(`patch size ${patchSize} is above image size ${imageSize}`, 'Take a smaller one.')
  }
}

function refusal(reason: string, hint: string): XmasdError {
  return new XmasdError('CONFIG_INVALID', `the proxy cannot have this shape: ${reason}`, hint)
}

/* The parameters of an untrained proxy, by canonical name. */

export type ParameterValues = { shape: readonly number[]; data: Float32Array }

/**
 * Every parameter that Hugging Face's model has, those that the score never reads included. Norms
 * begin at 1, biases at 0, weights at normal deviates of 1/sqrt(fan-in), narrower where they write
 * into the residual stream (GPT-2). Each draws from its own seed, so that order does not matter.
 */
export function initialParameters(config: ProxyConfig, seed: number): Map<string, ParameterValues> {
  return new Map(
    shapesOf(config).map(({ name, shape }) => [
      name,
      { shape, data: initial(config, name, shape, seed) },
    ]),
  )
}

function shapesOf(config: ProxyConfig): Parameter[] {
  const read = parametersOf(config, 'logits')
  return [
    ...read.filter(({ name, required }) => required || name.startsWith('connector.')),
    ...affine('vision.post_layernorm', [config.vision.width]),
  ]
}

const RESIDUAL = /(o_proj|out_proj|down_proj|fc2)\.weight$/

function initial(
  config: ProxyConfig,
  name: string,
  shape: readonly number[],
  seed: number,
): Float32Array {
  const size = elements(shape)
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
