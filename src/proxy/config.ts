/**
 * What a proxy is. `ConfigReader` looks up the keys of a checkpoint's JSON files, with errors that name
 * file, key and value.
 */
import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { messageOf, XmasdError } from '../errors.ts'
import { isObject, type Json } from '../ingest/form/json.ts'
import type { Activation } from './ops.ts'
import type { RopeScaling } from './rope.ts'

export type VisionConfig = {
  /** What the tower is built like. */
  family: string
  width: number
  intermediate: number
  layers: number
  heads: number
  imageSize: number
  patchSize: number
  activation: Activation
  epsilon: number
  /** Encoder layers that run, up to the hidden state that the connector reads. */
  layersRun: number
  /** The connector skips the first row: CLIP's class token, or SigLIP's first patch. */
  dropFirstRow: boolean
}

/** `layers`: linear layers, the activation between them. Default: 2. */
export type ConnectorConfig = { activation: Activation; layers?: number }

export type TextConfig = {
  family: 'llama' | 'mistral' | 'qwen2' | 'qwen3' | 'stablelm' | 'phi'
  width: number
  intermediate: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  ropeTheta: number
  /** Channels of a head that are rotated. */
  rotaryDims: number
  ropeScaling: RopeScaling
  epsilon: number
  norm: 'rms' | 'layer'
  /** Norm of each head of q and k before rotary. The score reads q and k without it. */
  headNorm: 'none' | 'rms' | 'layer' | 'layer-per-head'
  /** Attention and feed-forward both read the layer's one norm; their outputs are added. */
  parallelResidual: boolean
  /** gated: down(act(gate) * up); plain: down(act(up)). */
  mlp: 'gated' | 'plain'
  activation: Activation
  vocab: number
  tiedHead: boolean
  /** Which of a token's three positions turns each frequency; absent where tokens have one position. */
  ropeAxes?: readonly number[]
}

/** The schedule's fingerprint covers every field: see `fingerprintOf`. */
export type ProxyConfig = {
  /** The family's: see `familyOf`. */
  kind: string
  vision: VisionConfig
  connector: ConnectorConfig
  text: TextConfig
  /** Positions of one image in the sequence; where they vary, of one of the usual size. */
  imageTokens: number
  imageTokenId: number
  /** Longest sequence, in positions after the image is expanded. */
  lengthMax: number
  aspect: 'square' | 'pad'
  /** The connector has a learned row that ends a line of features. */
  newline?: true
  /** Positions may hold rows mixed of four rows of features. */
  blends?: true
  /** What else the family's files say that decides its numbers. */
  more?: Readonly<Record<string, Json | number | string | boolean | readonly number[]>>
}

/** Patches of an image; pixels beyond the last whole patch, right and below, are ignored. */
export function patchesPerImage({ imageSize, patchSize }: VisionConfig): number {
  return Math.floor(imageSize / patchSize) ** 2
}

/** The JSON object in `file`; `otherwise` where the file is missing. Throws CHECKPOINT_INVALID. */
export function readJson(file: string, otherwise?: Json): Json {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (otherwise !== undefined) return otherwise
    throw unreadable(file, `cannot be read: ${messageOf(error)}`)
  }
  try {
    const json: unknown = JSON.parse(text)
    if (isObject(json)) return json
  } catch (error) {
    throw unreadable(file, `is not JSON: ${messageOf(error)}`)
  }
  throw unreadable(file, 'is not a JSON object')
}

function unreadable(file: string, reason: string): XmasdError {
  const hint = 'Save or copy this checkpoint again, or remove its folder.'
  return new XmasdError('CHECKPOINT_INVALID', `${file} ${reason}`, hint)
}

/** Where a model may lie that a file of `dir` names: a folder, or a model of the hub in Hugging Face's cache. */
export function placesOf(dir: string, name: string, revision = 'main'): string[] {
  if (isAbsolute(name)) return [resolve(name)]
  return [resolve(dir, name), resolve(name), ...cachedSnapshots(name, revision)]
}

/** Where Hugging Face's cache holds a revision of a model of the hub: a branch, a tag or a commit. */
function cachedSnapshots(name: string, revision: string): string[] {
  const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env
  const home = HF_HOME ?? join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface')
  const model = join(HF_HUB_CACHE ?? join(home, 'hub'), `models--${name.replaceAll('/', '--')}`)
  const ref = join(model, 'refs', revision)
  const commit = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : revision
  return [join(model, 'snapshots', commit)]
}

/** Hugging Face's names of activations. */
const ACTIVATIONS: Record<string, Activation> = {
  gelu: 'gelu',
  gelu_new: 'gelu_pytorch_tanh',
  gelu_pytorch_tanh: 'gelu_pytorch_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
}

const isNumber = (value: unknown): value is number => Number.isFinite(value)
const isInteger = (value: unknown): value is number => Number.isSafeInteger(value)

/**
 * Typed look-ups in one section of a config. null counts as absent, as in Hugging Face's classes; a
 * look-up without `otherwise` needs the key.
 */
export class ConfigReader {
  readonly file: string
  readonly prefix: string
  readonly #json: Json

  constructor(file: string, json: Json, prefix = '') {
    this.file = file
    this.prefix = prefix
    this.#json = json
  }

  /** A section of this section; undefined where absent. */
  section(key: string): ConfigReader | undefined {
    const value = this.#json[key] ?? undefined
    if (value === undefined) return undefined
    if (!isObject(value)) throw this.invalid(key, 'an object is expected')
    return new ConfigReader(this.file, value, `${this.prefix}${key}.`)
  }

  has(key: string): boolean {
    return (this.#json[key] ?? undefined) !== undefined
  }

  isList(key: string): boolean {
    return Array.isArray(this.#json[key])
  }

  is(key: string, value: unknown): boolean {
    return this.#json[key] === value
  }

  integer(key: string, otherwise?: number): number {
    return this.#read(key, otherwise, isInteger, 'an integer')
  }

  positive(key: string, otherwise?: number): number {
    const isPositive = (value: unknown) => isInteger(value) && value > 0
    return this.#read(key, otherwise, isPositive, 'a positive integer')
  }

  real(key: string, otherwise?: number): number {
    return this.#read(key, otherwise, isNumber, 'a number')
  }

  positiveReal(key: string, otherwise?: number): number {
    const isPositive = (value: unknown) => isNumber(value) && value > 0
    return this.#read(key, otherwise, isPositive, 'a positive number')
  }

  text(key: string, otherwise?: string): string {
    return this.#read(key, otherwise, value => typeof value === 'string', 'a text')
  }

  flag(key: string, otherwise: boolean): boolean {
    return this.#read(key, otherwise, value => typeof value === 'boolean', 'true or false')
  }

  /** Empty where absent. */
  list(key: string): readonly unknown[] {
    return this.#read<readonly unknown[]>(key, [], Array.isArray, 'a list')
  }

  activation(key: string, otherwise: string): Activation {
    const name = this.oneOf(key, Object.keys(ACTIVATIONS)) ?? otherwise
    return ACTIVATIONS[name]!
  }

  /** The value, or undefined where absent; PROXY_UNSUPPORTED where it is none of `supported`. */
  oneOf<T extends string>(key: string, supported: readonly T[]): T | undefined {
    if (!this.has(key)) return undefined
    const found = supported.find(one => one === this.#json[key])
    if (found !== undefined) return found
    throw this.unsupported(key, supported.join(', '))
  }

  #read<T>(
    key: string,
    otherwise: T | undefined,
    isValid: (value: unknown) => boolean,
    expected: string,
  ): T {
    const value = this.#json[key] ?? undefined
    if (value === undefined && otherwise !== undefined) return otherwise
    if (isValid(value)) return value as T
    throw this.invalid(key, `${expected} is expected`)
  }

  invalid(key: string, reason: string): XmasdError {
    return new XmasdError(
      'PROXY_INVALID',
      `${this.file} has ${this.#shown(key)}: ${reason}`,
      'A proxy is a folder of checkpoint-N/ as a Hugging Face Trainer leaves it.',
    )
  }

  unsupported(key: string, supported: string): XmasdError {
    return new XmasdError(
      'PROXY_UNSUPPORTED',
      `${this.file}: ${this.#shown(key)} is not supported (supported: ${supported})`,
      'docs/families.md lists the proxies that are supported.',
    )
  }

  #shown(key: string): string {
    return `${this.prefix}${key} ${JSON.stringify(this.#json[key] ?? null)}`
  }
}
