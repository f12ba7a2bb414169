/**
 * What a family of proxies says of itself, and the parameters that it names. One file in `family/` each.
 *
 * Shapes: M tiles, N patches of a tile, X values of a patch, n rows of features of a tile, W channels of
 * such a row, L levels of features, C text channels.
 */
import type { Cut, Pictures, PixelBudget } from '../ingest/image/picture.ts'
import type { ConfigReader, ProxyConfig, TextConfig } from './config.ts'
import type { HostTensor, InputSpec, Ops } from './ops.ts'

export type Family = {
  /** `model_type` of its config.json. */
  kind: string
  /** Whether a config is the family's. Default: by its `model_type`. */
  isOf?(top: ConfigReader): boolean
  /** Throws PROXY_UNSUPPORTED for a layout that passes for this family and is another. */
  refuse?(top: ConfigReader): void
  /** Throws PROXY_UNSUPPORTED and PROXY_INVALID, naming the key. */
  readConfig(top: ConfigReader, checkpointDir: string): ProxyConfig
  /**
   * The canonical name of a tensor on disk, given without what wraps the whole model; undefined where the
   * proxy has no such part. Canonical: `text.layers.0.…`, `head.…`, `vision.…`, `connector.…`.
   */
  nameOf(path: readonly string[]): string | undefined
  /**
   * The folder of another model that has the vision tower, where `tensors`, those of the checkpoint by
   * canonical name, do not hold it. Throws PROXY_INVALID.
   */
  beside?(checkpointDir: string, tensors: ReadonlyMap<string, unknown>): string | undefined
  tower: Tower
  connector: Connector
  /** Throws PROXY_INVALID, PROXY_UNSUPPORTED for an image processor that does not fit. */
  pictures(config: ProxyConfig, checkpointDir: string, budget: PixelBudget): Pictures
  /** A picture of the usual size, for trials and estimates. */
  usual(config: ProxyConfig): { patches: number; cut?: Cut }
  /** The same kinds of layers, few and narrow, with images of at most `gridMax`² patches. */
  shrunk(config: ProxyConfig, gridMax: number): ProxyConfig
  /** Where tokens stand, on each axis [A, T], where it is not 0, 1, 2 …: see `Placed`. */
  positions?(placed: Placed): Int32Array
}

/** A sequence of T tokens with the positions of its pictures. */
export type Placed = {
  ids: { readonly length: number }
  columns: ArrayLike<number>
  images: readonly { cut?: Cut }[]
}

/** The part that depends on the picture alone. Checkpoints that share it share an image's features. */
export type Tower = {
  parameters(config: ProxyConfig): Parameter[]
  /** `patches` [M, N, X], and what else it takes. */
  inputs(config: ProxyConfig): Record<string, InputSpec>
  /** What else it takes, for `tiles` tiles of one grid. */
  tables(
    config: ProxyConfig,
    grid: readonly [number, number],
    tiles: number,
  ): Record<string, HostTensor>
  /** L levels, each [M, n, W]. */
  run<V>(ops: Ops<V>, config: ProxyConfig, inputs: Record<string, V>): readonly [V, ...V[]]
  /** W · L */
  width(config: ProxyConfig): number
}

/** The part between features and the language model. */
export type Connector = {
  parameters(config: ProxyConfig): Parameter[]
  /**
   * features [1, n, W · L], all levels of a row side by side -> the images' rows [1, n, C]; `deep`: what
   * is added to them after the first text layers.
   */
  run<V>(ops: Ops<V>, config: ProxyConfig, features: V): { images: V; deep?: readonly V[] }
}

export type Parameter = {
  name: string
  shape: readonly number[]
  /** The score needs it. The others are used where the checkpoint has them. */
  required: boolean
}

export function parameter(name: string, shape: readonly number[], required = true): Parameter {
  return { name, shape, required }
}

/** Weight [O, ...] and bias [O], both required. */
export function affine(name: string, shape: readonly [number, ...number[]]): Parameter[] {
  return [parameter(`${name}.weight`, shape), parameter(`${name}.bias`, [shape[0]])]
}

/** Weight [O, I], and bias [O] where the checkpoint has one. */
export function linear(name: string, shape: readonly [number, number]): Parameter[] {
  return [parameter(`${name}.weight`, shape), parameter(`${name}.bias`, [shape[0]], false)]
}

/** StableLM's names of the norms of each head. */
export function perHead(name: string, heads: number): string[] {
  return Array.from({ length: heads }, (_, head) => `${name}.norms.${head}`)
}

/** Phi's names of what the other language models have too. */
const PHI_NAMES: readonly (readonly [string, string])[] = [
  ['.self_attn.dense.', '.self_attn.o_proj.'],
  ['.mlp.fc1.', '.mlp.up_proj.'],
  ['.mlp.fc2.', '.mlp.down_proj.'],
  ['text.final_layernorm.', 'text.norm.'],
]

/** How a family calls its modules. */
export type Modules = {
  /** Modules on disk, and the part of the canonical name that each stands for. */
  parts: Readonly<Record<string, 'text' | 'head' | 'vision' | 'connector'>>
  /** Module names inside those that the canonical name leaves out. */
  containers: readonly string[]
  /** The connector's layers on disk, and their canonical numbers. */
  connectorLayers?: Readonly<Record<string, string>>
}

/**
 * `model.language_model.model.layers.0.mlp.up_proj.weight`, with or without any of the first three, is
 * `text.layers.0.mlp.up_proj.weight`.
 */
export function namedBy({ parts, containers, connectorLayers = {} }: Modules): Family['nameOf'] {
  return found => {
    const path = [...found]
    const part = Object.hasOwn(parts, path[0]!) ? parts[path.shift()!] : undefined
    if (part === undefined) return undefined
    while (containers.includes(path[0]!)) path.shift()
    if (part === 'connector') path[0] = connectorLayers[path[0]!] ?? path[0]!
    if (part !== 'text') return [part, ...path].join('.')
    if (path[0] === 'lm_head') return ['head', ...path.slice(1)].join('.')
    const name = ['text', ...path].join('.')
    return PHI_NAMES.reduce((renamed, [phi, canonical]) => renamed.replace(phi, canonical), name)
  }
}

/** A language model of the same kind, small. */
export function shrunkText(text: TextConfig): TextConfig {
  const kvHeads = Math.min(2, text.kvHeads)
  const heads = kvHeads * (text.heads / text.kvHeads)
  return {
    ...text,
    width: 96,
    intermediate: 160,
    layers: 3,
    heads,
    kvHeads,
    vocab: 64,
    tiedHead: true,
  }
}
