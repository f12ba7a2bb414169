/** Typed look-ups in a checkpoint's JSON files, with errors that name file, key and value. */
import { readFileSync } from 'node:fs'
import { messageOf, XmasdError } from '../errors.ts'
import type { Activation } from './ops.ts'

export type Json = Record<string, unknown>

/** A file's JSON object; `otherwise` where there is no such file. Throws CHECKPOINT_INVALID. */
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
  const hint = 'Save or copy this checkpoint again, or take its folder away.'
  return new XmasdError('CHECKPOINT_INVALID', `${file} ${reason}`, hint)
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(file: string, reason: string): XmasdError {
  return new XmasdError(
    'PROXY_INVALID',
    `${file} ${reason}`,
    'A proxy is a folder of checkpoint-N/ as a Hugging Face Trainer leaves it.',
  )
}

/** Hugging Face's names for the same function. */
const ACTIVATIONS: Record<string, Activation> = {
  gelu: 'gelu',
  gelu_new: 'gelu_pytorch_tanh',
  gelu_pytorch_tanh: 'gelu_pytorch_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
}

/** Typed look-ups in one section of a config; null counts as absent, as in Hugging Face's classes. */
export class ConfigReader {
  readonly file: string
  readonly prefix: string
  readonly #json: Json

  constructor(file: string, json: Json, prefix = '') {
    this.file = file
    this.prefix = prefix
    this.#json = json
  }

  section(key: string): Json | undefined {
    const value = this.#json[key] ?? undefined
    if (value === undefined || isObject(value)) return value
    throw this.invalid(key, 'an object is expected')
  }

  integer(key: string, otherwise: number): number {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'number' && Number.isSafeInteger(value)) return value
    throw this.invalid(key, 'an integer is expected')
  }

  positive(key: string, otherwise: number): number {
    const value = this.integer(key, otherwise)
    if (value > 0 || (this.#json[key] ?? undefined) === undefined) return value
    throw this.invalid(key, 'a positive integer is expected')
  }

  real(key: string, otherwise: number): number {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'number' && Number.isFinite(value)) return value
    throw this.invalid(key, 'a number is expected')
  }

  positiveReal(key: string, otherwise: number): number {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    throw this.invalid(key, 'a positive number is expected')
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'boolean') return value
    throw this.invalid(key, 'true or false is expected')
  }

  isList(key: string): boolean {
    return Array.isArray(this.#json[key])
  }

  /** Empty where absent. */
  list(key: string): readonly unknown[] {
    const value = this.#json[key] ?? []
    if (Array.isArray(value)) return value
    throw this.invalid(key, 'a list is expected')
  }

  activation(key: string, otherwise: string): Activation {
    const name = this.oneOf(key, Object.keys(ACTIVATIONS)) ?? otherwise
    return ACTIVATIONS[name]!
  }

  /** The value, or undefined where absent; PROXY_UNSUPPORTED where it is none of `supported`. */
  oneOf<T extends string>(key: string, supported: readonly T[]): T | undefined {
    const value = this.#json[key] ?? undefined
    if (value === undefined) return undefined
    const found = supported.find(one => one === value)
    if (found !== undefined) return found
    throw this.unsupported(key, supported.join(', '))
  }

  absent(key: string): void {
    if ((this.#json[key] ?? undefined) !== undefined) throw this.unsupported(key, 'none')
  }

  invalid(key: string, reason: string): XmasdError {
    const value = JSON.stringify(this.#json[key] ?? null)
    return invalid(this.file, `has ${this.prefix}${key} ${value}: ${reason}`)
  }

  unsupported(key: string, supported: string): XmasdError {
    const value = JSON.stringify(this.#json[key] ?? null)
    return new XmasdError(
      'PROXY_UNSUPPORTED',
      `${this.file}: ${this.prefix}${key} ${value} is not supported (supported: ${supported})`,
      'Supported proxies: Hugging Face llava and TinyLLaVA, with CLIP or SigLIP (SigLIP 2 at a fixed resolution) and Llama, Qwen2, Qwen3, StableLM or Phi.',
    )
  }
}
