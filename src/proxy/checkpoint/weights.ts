/** The weights of one folder: which files hold them, and what trainers leave in their place. */
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../../errors.ts'
import { readHeader, type SafetensorsEntry } from './safetensors.ts'

/** `file` is a real path, without symbolic links. */
export type StoredTensor = SafetensorsEntry & { file: string }

/** What a LoRA adapter adds to a weight [O, I]: scale · b a, with a [r, I] and b [O, r]. */
export type LoraDelta = { a: StoredTensor; b: StoredTensor; scale: number }

/** A parameter of a checkpoint. The plain case has neither of the two. */
export type CheckpointTensor = StoredTensor & {
  /** The tensor is the base's, and an adapter adds to it. */
  lora?: LoraDelta
  /** The tensor stands in an adapter, in place of the base's, or in the folder of a vision tower. */
  isReplaced?: true
}

const ShardIndex = z.object({ weight_map: z.record(z.string(), z.string()) })

const WHOLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'

/** Tensors by their names on disk; `unreadable` has the dtypes of those that nothing here reads. */
export type Weights = {
  tensors: Map<string, StoredTensor>
  unreadable: Map<string, string>
}

export function holdsWeights(dir: string): boolean {
  return [WHOLE, INDEX].some(name => existsSync(join(dir, name)))
}

/** As from_pretrained: the whole file where there is one, else the shards that the index names. */
export function readWeights(dir: string): Weights {
  const index = join(dir, INDEX)
  if (existsSync(join(dir, WHOLE))) return readWeightFile(dir, WHOLE)
  if (!existsSync(index)) {
    checkOtherWeights(dir)
    return readWeightFile(dir, WHOLE)
  }
  const files = new Map<string, Weights>()
  const weights: Weights = { tensors: new Map(), unreadable: new Map() }
  for (const [key, file] of Object.entries(readIndex(dir, index))) {
    if (basename(file) !== file) throw invalid(dir, `its index puts ${key} outside, into ${file}`)
    if (!files.has(file)) files.set(file, readWeightFile(dir, file))
    const { tensors, unreadable } = files.get(file)!
    const [tensor, dtype] = [tensors.get(key), unreadable.get(key)]
    if (tensor !== undefined) weights.tensors.set(key, tensor)
    else if (dtype !== undefined) weights.unreadable.set(key, dtype)
    else throw invalid(dir, `${file} lacks ${key}, which the index puts there`)
  }
  return weights
}

/** Weights beside those that are read. */
export function unreadWeights(dir: string): string | undefined {
  const isSharded = !existsSync(join(dir, WHOLE))
  const other = readdirSync(dir).find(
    name => (name === INDEX && !isSharded) || /^pytorch_model.*\.bin(\.index\.json)?$/.test(name),
  )
  if (other === undefined) return undefined
  const read = isSharded ? `the shards of ${INDEX} are` : `${WHOLE} is`
  return `${dir} holds two sets of weights: ${read} read, ${other} is not; remove the one that is not this checkpoint's`
}

/** What trainers leave in place of safetensors, and how to convert it. */
const OTHER_WEIGHTS: readonly (readonly [file: RegExp, what: string, hint: string])[] = [
  [
    /^pytorch_model.*\.bin(\.index\.json)?$/,
    'pickled weights, which are not read',
    'Load it with its own code and save it again as safetensors: model.save_pretrained(folder, safe_serialization=True).',
  ],
  [
    /^global_step\d+$/,
    'the parts of a sharded DeepSpeed or FSDP model',
    'Gather them: zero_to_fp32.py in the same folder, with --safe_serialization; train with stage3_gather_16bit_weights_on_model_save.',
  ],
  [
    /^language_model$/,
    "TinyLLaVA-Factory's separate parts of a finished model",
    'Give the folder of checkpoint-N/ that its trainer left; those hold the whole model.',
  ],
]

export function checkOtherWeights(dir: string): void {
  const names = readdirSync(dir)
  for (const [file, what, hint] of OTHER_WEIGHTS) {
    const name = names.find(name => file.test(name))
    if (name === undefined) continue
    throw new XmasdError('CHECKPOINT_INVALID', `${dir} holds ${what}: ${name}`, hint)
  }
}

function readIndex(dir: string, file: string): Record<string, string> {
  try {
    return ShardIndex.parse(JSON.parse(readFileSync(file, 'utf8'))).weight_map
  } catch (error) {
    throw invalid(dir, `model.safetensors.index.json is malformed: ${messageOf(error)}`)
  }
}

/** Throws CHECKPOINT_INVALID. */
export function readWeightFile(dir: string, name: string): Weights {
  try {
    const file = realpathSync(join(dir, name))
    const { tensors, unreadable } = readHeader(file)
    const found = [...tensors].map(([key, entry]) => [key, { ...entry, file }] as const)
    return { tensors: new Map(found), unreadable }
  } catch (error) {
    throw invalid(dir, messageOf(error))
  }
}

/** CHECKPOINT_INVALID for a part of a schedule. */
export function invalid(dir: string, reason: string): XmasdError {
  return new XmasdError(
    'CHECKPOINT_INVALID',
    `${dir}: ${reason}`,
    'Save or copy this checkpoint again, or remove its folder; a schedule is used whole.',
  )
}
