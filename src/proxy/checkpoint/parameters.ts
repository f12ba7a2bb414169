/**
 * The proxy's parameters: their canonical names and shapes, and what they are called on disk. C text
 * channels.
 */
import type { ProxyConfig, TextConfig } from '../config.ts'
import { affine, type Family, linear, type Parameter, parameter, perHead } from '../model.ts'
import { familyOf } from './config.ts'

export type { Parameter }

/** Modules that wrappers put into names: DDP, torch.compile, FSDP, activation checkpointing. */
const WRAPPERS = new Set([
  'module',
  '_orig_mod',
  '_fsdp_wrapped_module',
  '_checkpoint_wrapped_module',
])

/** Modules around the whole model: peft's, and transformers' own from 4.52 on. */
const OUTERMOST = new Set(['base_model', 'model'])

/** The canonical name of a tensor on disk, in whatever modules it stands: see `Family.nameOf`. */
export function canonicalName(key: string, { nameOf }: Pick<Family, 'nameOf'>): string | undefined {
  const path = key.split('.').filter(name => !WRAPPERS.has(name))
  while (OUTERMOST.has(path[0]!)) path.shift()
  return nameOf(path)
}

/** Where the forward pass ends: at the last layer's q_proj and k_proj, or at the language head. */
export type Reach = 'projections' | 'logits'

const COARSE = /^text\.layers\.\d+\.(self_attn\.[vo]|mlp\.(gate|up|down))_proj\.weight$/

/**
 * Whether a weight may be used in a lower precision: those of linear layers that only feed the next
 * layer. q_proj and k_proj, which the score reads, the connector and the vision tower stay exact.
 */
export function isCoarse(name: string): boolean {
  return COARSE.test(name)
}

/**
 * Every parameter that the forward pass reads, without layers that never run. A schedule's fingerprint
 * depends on the order of those for the projections.
 */
export function parametersOf(config: ProxyConfig, reach: Reach = 'projections'): Parameter[] {
  return [
    ...visionParameters(config),
    ...familyOf(config).connector.parameters(config),
    ...textParameters(config, reach),
  ]
}

/** Checkpoints whose vision parameters are equal share the features of an image. */
export function visionParameters(config: ProxyConfig): Parameter[] {
  return familyOf(config).tower.parameters(config)
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
