/** The shape of a proxy to be trained: its configuration and its initial parameters. */
import { XmasdError } from '../errors.ts'
import type { Template } from '../ingest/template.ts'
import { normalDeviates, seededRandom, seedOf } from '../math/random.ts'
import { TRAINED } from '../proxy/checkpoint/config.ts'
import { parametersOf } from '../proxy/checkpoint/parameters.ts'
import type { ProxyConfig } from '../proxy/config.ts'

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
  const visionHeads = visionHeadsOf(shape)
  return {
    kind: TRAINED.kind,
    vision: {
      family: 'clip',
      width: shape.visionWidth,
      intermediate: 2 * shape.visionWidth,
      layers: shape.visionLayers,
      heads: visionHeads,
      imageSize: shape.imageSize,
      patchSize: shape.patchSize,
      activation: 'quick_gelu',
      epsilon: 1e-5,
      layersRun: shape.visionLayers,
      dropFirstRow: true,
    },
    connector: { activation: 'gelu' },
    text: {
      family: 'llama',
      width: shape.width,
      intermediate: 2 * shape.width,
      layers: shape.layers,
      heads: shape.heads,
      kvHeads: shape.kvHeads,
      headDim: shape.width / shape.heads,
      ropeTheta: 10_000,
      rotaryDims: shape.width / shape.heads,
      ropeScaling: { kind: 'default' },
      epsilon: 1e-5,
      norm: 'rms',
      headNorm: 'none',
      parallelResidual: false,
      mlp: 'gated',
      activation: 'silu',
      vocab: VOCAB_SIZE,
      tiedHead: true,
    },
    imageTokens: Math.floor(shape.imageSize / shape.patchSize) ** 2,
    imageTokenId: IMAGE_ID,
    lengthMax: shape.lengthMax,
    aspect: 'square',
  }
}

function visionHeadsOf({ heads, visionWidth }: ProxyShape): number {
  return visionWidth % heads === 0 ? heads : 1
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
