/**
 * The proxy's parameters: their canonical names and shapes, and how each key layout on disk spells
 * them (goldens' README, "Key layouts"). C text channels, Cv vision channels, P patch size.
 */
import { type ProxyConfig, patchesPerImage, type TextConfig } from './config.ts'

export type Parameter = {
  name: string
  shape: readonly number[]
  /** The score cannot do without it. The others are used where they are there. */
  required: boolean
}

/** Prefixes on disk -> canonical prefixes; the first that fits counts. */
const PREFIXES: readonly (readonly [string, string])[] = [
  ['model.language_model.', 'text.'],
  ['language_model.model.', 'text.'],
  ['language_model.lm_head.', 'head.'],
  ['lm_head.', 'head.'],
  ['model.vision_tower.vision_model.', 'vision.'],
  ['model.vision_tower.', 'vision.'],
  ['vision_tower._vision_tower.vision_model.', 'vision.'],
  ['vision_tower._vision_tower.', 'vision.'],
  ['vision_tower.vision_model.', 'vision.'],
  ['vision_tower.', 'vision.'],
  ['model.multi_modal_projector.linear_', 'connector.'],
  ['multi_modal_projector.linear_', 'connector.'],
  ['connector._connector.0.', 'connector.1.'],
  ['connector._connector.2.', 'connector.2.'],
]

/** Phi's own words for what the other language models have too. */
const PHI_WORDS: readonly (readonly [string, string])[] = [
  ['.self_attn.dense.', '.self_attn.o_proj.'],
  ['.mlp.fc1.', '.mlp.up_proj.'],
  ['.mlp.fc2.', '.mlp.down_proj.'],
  ['text.final_layernorm.', 'text.norm.'],
]

/** The canonical name of a tensor on disk, whatever its layout; undefined where no layout has it. */
export function canonicalName(key: string): string | undefined {
  const found = PREFIXES.find(([prefix]) => key.startsWith(prefix))
  if (found === undefined) return undefined
  const name = found[1] + key.slice(found[0].length)
  if (!name.startsWith('text.')) return name
  return PHI_WORDS.reduce((renamed, [phi, ours]) => renamed.replace(phi, ours), name)
}

/** How far the forward pass goes: to the last layer's q_proj and k_proj, or to the language head. */
export type Reach = 'projections' | 'logits'

const COARSE = /^text\.layers\.\d+\.(self_attn\.[vo]|mlp\.(gate|up|down))_proj\.weight$/

/**
 * May a weight be used in a lower precision: of linear layers that only feed the next layer. q_proj and
 * k_proj, which the score reads, the connector and the vision tower are exact.
 */
export function isCoarse(name: string): boolean {
  return COARSE.test(name)
}

/**
 * Every parameter that the forward pass reads. Layers that never run are not among them. The order of
 * those for the projections is part of a schedule's fingerprint.
 */
export function parametersOf(config: ProxyConfig, reach: Reach = 'projections'): Parameter[] {
  return [
    ...visionParameters(config),
    ...connectorParameters(config),
    ...textParameters(config, reach),
  ]
}

/** Those of the vision tower: what must be equal over checkpoints for features to be shared. */
export function visionParameters({ vision }: ProxyConfig): Parameter[] {
  const { width, intermediate, patchSize } = vision
  const isClip = vision.family === 'clip'
  const positions = patchesPerImage(vision) + (isClip ? 1 : 0)
  const at = 'vision.embeddings.'
  const list = [
    parameter(`${at}patch_embedding.weight`, [width, 3, patchSize, patchSize]),
    parameter(`${at}position_embedding.weight`, [positions, width]),
  ]
  if (isClip) {
    list.push(parameter(`${at}class_embedding`, [width]))
    list.push(...affine('vision.pre_layrnorm', [width]))
  } else {
    list.push(parameter(`${at}patch_embedding.bias`, [width]))
  }
  for (let layer = 0; layer < vision.layersRun; layer++) {
    const at = `vision.encoder.layers.${layer}.`
    for (const norm of ['layer_norm1', 'layer_norm2']) list.push(...affine(at + norm, [width]))
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) {
      list.push(...affine(`${at}self_attn.${name}`, [width, width]))
    }
    list.push(...affine(`${at}mlp.fc1`, [intermediate, width]))
    list.push(...affine(`${at}mlp.fc2`, [width, intermediate]))
  }
  return list
}

function connectorParameters({ vision, text }: ProxyConfig): Parameter[] {
  return [
    ...linear('connector.1', [text.width, vision.width]),
    ...linear('connector.2', [text.width, text.width]),
  ]
}

function textParameters({ text }: ProxyConfig, reach: Reach): Parameter[] {
  const { width, intermediate } = text
  const [wide, narrow] = [text.heads * text.headDim, text.kvHeads * text.headDim]
  const list = [
    parameter('text.embed_tokens.weight', [text.vocab, width]),
    parameter('head.weight', [text.vocab, width], reach === 'logits' && !text.tiedHead),
  ]
  for (let layer = 0; layer < text.layers; layer++) {
    const at = `text.layers.${layer}.`
    list.push(...norm(text, `${at}input_layernorm`))
    list.push(...linear(`${at}self_attn.q_proj`, [wide, width]))
    list.push(...linear(`${at}self_attn.k_proj`, [narrow, width]))
    if (layer === text.layers - 1 && reach === 'projections') continue
    list.push(...headNorms(text, `${at}self_attn.q`, text.heads))
    list.push(...headNorms(text, `${at}self_attn.k`, text.kvHeads))
    list.push(...linear(`${at}self_attn.v_proj`, [narrow, width]))
    list.push(...linear(`${at}self_attn.o_proj`, [width, wide]))
    if (!text.parallelResidual) list.push(...norm(text, `${at}post_attention_layernorm`))
    if (text.mlp === 'gated') list.push(...linear(`${at}mlp.gate_proj`, [intermediate, width]))
    list.push(...linear(`${at}mlp.up_proj`, [intermediate, width]))
    list.push(...linear(`${at}mlp.down_proj`, [width, intermediate]))
  }
  if (reach === 'projections') return list
  return [...list, parameter('head.bias', [text.vocab], false), ...norm(text, 'text.norm')]
}

function parameter(name: string, shape: readonly number[], required = true): Parameter {
  return { name, shape, required }
}

/** Weight [O, ...] and a bias [O] that must be there. */
function affine(name: string, shape: readonly [number, ...number[]]): Parameter[] {
  return [parameter(`${name}.weight`, shape), parameter(`${name}.bias`, [shape[0]])]
}

function norm(text: TextConfig, name: string): Parameter[] {
  return text.norm === 'layer'
    ? affine(name, [text.width])
    : [parameter(`${name}.weight`, [text.width])]
}

function headNorms({ headNorm, headDim }: TextConfig, at: string, heads: number): Parameter[] {
  if (headNorm === 'none') return []
  if (headNorm === 'rms') return [parameter(`${at}_norm.weight`, [headDim])]
  if (headNorm === 'layer') return affine(`${at}_layernorm`, [headDim])
  return perHead(`${at}_layernorm`, heads).map(name => parameter(`${name}.weight`, [headDim]))
}

/** Where StableLM keeps the norm of each head. */
export function perHead(name: string, heads: number): string[] {
  return Array.from({ length: heads }, (_, head) => `${name}.norms.${head}`)
}

/** Weight [O, I] and a bias [O] where the checkpoint has one. */
function linear(name: string, shape: readonly [number, number]): Parameter[] {
  return [parameter(`${name}.weight`, shape), parameter(`${name}.bias`, [shape[0]], false)]
}
