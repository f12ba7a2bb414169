/**
 * A checkpoint that is a LoRA adapter, as peft leaves it: which base it belongs to, and what it adds to the
 * base's weights. Nothing is merged here; the engines add s · B A when they read a weight.
 *
 * Shapes: O outputs, I inputs, r rank.
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../../errors.ts'
import { placesOf } from '../config.ts'
import type { Family } from '../model.ts'
import { canonicalName } from './parameters.ts'
import {
  type CheckpointTensor,
  holdsWeights,
  invalid,
  readWeightFile,
  type StoredTensor,
} from './weights.ts'

const CONFIG = 'adapter_config.json'
const WEIGHTS = 'adapter_model.safetensors'
const PICKLED = /^(adapter_model|non_lora_trainables)\.bin$/

/** Whether a folder holds an adapter and not the model. */
export function isAdapter(dir: string): boolean {
  if (!existsSync(dir) || holdsWeights(dir)) return false
  return readdirSync(dir).some(name => /^adapter_(config\.json|model\.)/.test(name))
}

const Pattern = z.record(z.string(), z.number()).nullish()

const AdapterConfig = z.looseObject({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  revision: z.string().nullish(),
  r: z.int().min(1).default(8),
  lora_alpha: z.number().default(8),
  rank_pattern: Pattern,
  alpha_pattern: Pattern,
  use_rslora: z.boolean().nullish(),
})
type AdapterConfig = z.infer<typeof AdapterConfig>

export type Adapter = {
  dir: string
  config: AdapterConfig
  /** The folder of the base model, a real path. */
  base: string
}

/**
 * Reads adapter_config.json and finds the base: `base` where it is given, else base_model_name_or_path as a
 * folder (relative to the checkpoint, then to the working folder) or in Hugging Face's cache.
 *
 * @throws XmasdError PROXY_UNSUPPORTED, by name, for adapters that are not plain LoRA; CHECKPOINT_INVALID
 * for a broken one; PROXY_INVALID where the base is not found
 */
export function openAdapter(dir: string, base: string | undefined): Adapter {
  const config = readConfig(dir)
  checkKind(dir, config)
  const pickled = readdirSync(dir).find(name => PICKLED.test(name))
  if (pickled !== undefined) {
    throw unsupported(
      `${dir} holds pickled weights, which are not read: ${pickled}`,
      pickled.startsWith('adapter')
        ? 'Save each adapter as safetensors: model.save_pretrained(folder, safe_serialization=True).'
        : 'Merge every checkpoint with scripts/merge_lora_weights.py of the LLaVA repository; what it writes is read.',
    )
  }
  return { dir, config, base: realpathSync(findBase(dir, config, base)) }
}

function readConfig(dir: string): AdapterConfig {
  const file = join(dir, CONFIG)
  let json: unknown
  try {
    json = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    throw invalid(dir, `${CONFIG} cannot be read: ${messageOf(error)}`)
  }
  const parsed = AdapterConfig.safeParse(json)
  if (parsed.success) return parsed.data
  throw invalid(dir, `${CONFIG} is malformed: ${z.prettifyError(parsed.error)}`)
}

/** Keys of a LoraConfig that make it another method than W + s · B A, and what that is called. */
const OTHER_METHODS: readonly (readonly [key: string, name: string])[] = [
  ['use_dora', 'DoRA'],
  ['use_qalora', 'QALoRA'],
  ['use_bdlora', 'BD-LoRA'],
  ['alora_invocation_tokens', 'activated LoRA'],
  ['kasa_config', 'KaSA'],
  ['monteclora_config', 'MonteCLoRA'],
  ['arrow_config', 'Arrow routing'],
  ['layer_replication', 'LoRA with layer_replication'],
  ['target_parameters', 'LoRA with target_parameters'],
  ['trainable_token_indices', 'LoRA with trainable_token_indices'],
  ['lora_bias', 'LoRA with lora_bias'],
  ['fan_in_fan_out', 'LoRA with fan_in_fan_out'],
]

/** Initialisations that change the base: its weights on disk are not those that were trained. */
const CHANGES_BASE = /^(pissa|olora|corda|loftq|lora_ga)/

const MERGE =
  'Merge it into the model, model.merge_and_unload(), and save every checkpoint whole as checkpoint-N/; or train with plain LoRA.'

function checkKind(dir: string, config: AdapterConfig): void {
  const { peft_type: type, init_lora_weights: init } = config
  if (type !== 'LORA') {
    const isPrompt = /PROMPT|PREFIX|P_TUNING|ADAPTION/.test(type)
    const hint = isPrompt ? 'It cannot be merged into the weights: train with plain LoRA.' : MERGE
    throw unsupported(`${dir} is an adapter of type ${type}, and not LoRA`, hint)
  }
  const other = OTHER_METHODS.find(([key]) => {
    const value = config[key]
    return Array.isArray(value) ? value.length > 0 : value != null && value !== false
  })
  if (other !== undefined) throw unsupported(`${dir} is an adapter of type ${other[1]}`, MERGE)
  if (typeof init === 'string' && CHANGES_BASE.test(init)) {
    const message = `${dir} is a LoRA adapter of init_lora_weights ${init}, which changes the base's weights`
    throw unsupported(message, MERGE)
  }
}

function unsupported(message: string, hint: string): XmasdError {
  return new XmasdError('PROXY_UNSUPPORTED', message, hint)
}

/* The base. */

const BASE_HINT =
  'Give its folder, with config.json and safetensors: --base DIR, or proxy.base in the configuration.'

function findBase(dir: string, config: AdapterConfig, base: string | undefined): string {
  const name = base ?? config.base_model_name_or_path
  if (name == null || name === '') {
    const message = `${dir} is a LoRA adapter whose ${CONFIG} names no base model`
    throw new XmasdError('PROXY_INVALID', message, BASE_HINT)
  }
  const places =
    base === undefined ? placesOf(dir, name, config.revision ?? 'main') : [resolve(name)]
  const found = places.find(place => existsSync(join(place, 'config.json')))
  if (found !== undefined) return found
  if (places.some(isAdapter)) {
    const message = `the base of ${dir} is a LoRA adapter itself: ${name}`
    throw new XmasdError('PROXY_INVALID', message, MERGE)
  }
  throw new XmasdError(
    'PROXY_INVALID',
    `${dir} is a LoRA adapter, and its base model ${name} is not in ${places.join(' or ')}`,
    BASE_HINT,
  )
}

/* What the adapter adds. */

/**
 * The base's tensors with what the adapter adds to them, and those that stand in the adapter whole
 * (modules_to_save, biases). All by canonical name.
 *
 * @throws XmasdError CHECKPOINT_INVALID where the adapter does not fit the base
 */
export function adapted(
  { dir, config, base }: Adapter,
  tensors: ReadonlyMap<string, StoredTensor>,
  family: Family,
): Map<string, CheckpointTensor> {
  const found = new Map<string, CheckpointTensor>(tensors)
  const { pairs, whole } = readAdapter(dir)
  for (const [module, { a, b }] of pairs) {
    const name = canonicalName(`${module}.weight`, family)
    const tensor = name === undefined ? undefined : tensors.get(name)
    if (name === undefined || tensor === undefined) {
      throw invalid(dir, `it adapts ${module}, which its base ${base} has not`)
    }
    const [rank, scale] = scaleOf(module, config)
    const [outputs, inputs] = tensor.shape
    const isFit =
      String(a.shape) === `${rank},${inputs}` && String(b.shape) === `${outputs},${rank}`
    if (tensor.shape.length !== 2 || !isFit) {
      throw invalid(
        dir,
        `its factors of ${module} are [${a.shape}] and [${b.shape}]; rank ${rank} over the base's [${tensor.shape}] is expected`,
      )
    }
    found.set(name, { ...tensor, lora: { a, b, scale } })
  }
  for (const [key, tensor] of whole) {
    const name = canonicalName(key, family)
    if (name !== undefined) found.set(name, { ...tensor, isReplaced: true })
  }
  return found
}

type Factors = { a: StoredTensor; b: StoredTensor }

const FLOATS = ['F32', 'F16', 'BF16', 'F64']
const FACTOR = /^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight$/

/** Factors by the module's name in the model that was trained, and the tensors of whole modules. */
function readAdapter(dir: string): {
  pairs: Map<string, Factors>
  whole: [string, StoredTensor][]
} {
  const { tensors, unreadable } = readWeightFile(dir, WEIGHTS)
  const [strange] = unreadable
  if (strange !== undefined) throw invalid(dir, `tensor ${strange[0]} is ${strange[1]}`)
  const halves = new Map<string, Partial<Factors>>()
  const whole: [string, StoredTensor][] = []
  for (const [key, tensor] of tensors) {
    if (!FLOATS.includes(tensor.dtype)) throw invalid(dir, `tensor ${key} is ${tensor.dtype}`)
    const [, module, side] = FACTOR.exec(key) ?? []
    if (module === undefined) {
      if (/\.lora_|trainable_tokens/.test(key)) {
        throw unsupported(`${dir} holds ${key}, which is not of a linear layer's LoRA`, MERGE)
      }
      whole.push([key, tensor])
    } else halves.set(module, { ...halves.get(module), [side === 'A' ? 'a' : 'b']: tensor })
  }
  const pairs = new Map<string, Factors>()
  for (const [module, { a, b }] of halves) {
    if (a === undefined || b === undefined) throw invalid(dir, `${module} lacks one of its factors`)
    pairs.set(module, { a, b })
  }
  if (pairs.size === 0) throw invalid(dir, `${WEIGHTS} holds no LoRA factors`)
  return { pairs, whole }
}

/** Rank and scale: patterns are tried in the file's order, as peft does. */
function scaleOf(module: string, config: AdapterConfig): [rank: number, scale: number] {
  const rank = patternOf(module, config.rank_pattern) ?? config.r
  const alpha = patternOf(module, config.alpha_pattern) ?? config.lora_alpha
  return [rank, alpha / (config.use_rslora === true ? Math.sqrt(rank) : rank)]
}

function patternOf(module: string, pattern: AdapterConfig['rank_pattern']): number | undefined {
  const key = Object.keys(pattern ?? {}).find(key => matches(module, key))
  return key === undefined ? undefined : pattern?.[key]
}

/** Python's `re.match(rf"(.*\.)?({key})$", module)`; a key that is no regular expression stands for itself. */
function matches(module: string, key: string): boolean {
  try {
    return new RegExp(`^(?:.*\\.)?(?:${key.replaceAll('(?P<', '(?<')})$`).test(module)
  } catch {
    return module === key || module.endsWith(`.${key}`)
  }
}
