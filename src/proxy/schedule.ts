/**
 * The schedule: the checkpoints of the proxy's fine-tuning, in numeric step order, with where each
 * parameter's bytes stand on disk. Nothing is loaded here. A broken checkpoint is an error that
 * names it: T never shrinks silently.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../errors.ts'
import { type ProxyConfig, readProxyConfig } from './config.ts'
import { canonicalName, parametersOf, type Reach, visionParameters } from './parameters.ts'
import { readBytes, readHeader, type SafetensorsEntry } from './safetensors.ts'

/** `file` is a real path: no symbolic links in it. */
export type CheckpointTensor = SafetensorsEntry & { file: string }

/** Plain data: it may travel to a worker thread. */
export type Checkpoint = {
  step: number
  dir: string
  /** By canonical name; only what the proxy has parameters for. */
  tensors: Map<string, CheckpointTensor>
}

/** Plain data: it may travel to a worker thread. */
export type Schedule = {
  dir: string
  config: ProxyConfig
  /** How far its parameters are there for. */
  reach: Reach
  /** In step order, at least one. */
  checkpoints: Checkpoint[]
  /** Identifies the schedule in a bundle; see `fingerprintOf`. */
  fingerprint: string
  /** Is the vision tower byte-equal over all checkpoints. */
  visionShared: boolean
}

const WEIGHT_DTYPES = ['F32', 'F16', 'BF16']

const ShardIndex = z.object({ weight_map: z.record(z.string(), z.string()) })

/**
 * Opens `dir`: a folder of `checkpoint-N/` (a Trainer's final model beside them does not count), or
 * where there are none, one checkpoint itself (a schedule of T = 1, step 0). Throws
 * PROXY_INVALID where there is none, PROXY_UNSUPPORTED for families that are not supported, and
 * CHECKPOINT_INVALID, naming checkpoint and tensor, for everything that is broken or does not fit.
 * `reach` says which parameters must be there; the fingerprint does not depend on it.
 */
export function openSchedule(dir: string, reach: Reach = 'projections'): Schedule {
  const folders = findCheckpoints(dir)
  const config = readProxyConfig(folders[0]!.dir)
  const model = { config, reach }
  const checkpoints = folders.map(({ step, dir }) => openCheckpoint(step, dir, model))
  for (const checkpoint of checkpoints.slice(1)) checkSameModel(checkpoint, checkpoints[0]!, model)
  return {
    dir,
    config,
    reach,
    checkpoints,
    fingerprint: fingerprintOf(config, checkpoints),
    visionShared: isVisionShared(config, checkpoints),
  }
}

/** Bytes of the parameters of one checkpoint, as they stand on disk. */
export function checkpointBytes(checkpoint: Checkpoint): number {
  let bytes = 0
  for (const tensor of checkpoint.tensors.values()) bytes += tensor.bytes
  return bytes
}

function findCheckpoints(dir: string): { step: number; dir: string }[] {
  let names: string[]
  try {
    names = readdirSync(dir)
  } catch (error) {
    throw proxyInvalid(`${dir} cannot be read: ${messageOf(error)}`)
  }
  const found = names
    .flatMap(name => {
      const step = /^checkpoint-(\d+)$/.exec(name)?.[1]
      return step === undefined ? [] : [{ step: Number(step), dir: join(dir, name) }]
    })
    .sort((a, b) => a.step - b.step)
  if (found.length === 0) {
    if (existsSync(join(dir, 'config.json'))) return [{ step: 0, dir }]
    throw proxyInvalid(`${dir} holds no checkpoint-N folder`)
  }
  for (const [i, { step, dir }] of found.entries()) {
    if (found[i + 1]?.step === step) throw invalid(dir, `step ${step} stands there twice`)
  }
  return found
}

/** What every checkpoint of a schedule must hold. */
type Model = { config: ProxyConfig; reach: Reach }

function openCheckpoint(step: number, dir: string, model: Model): Checkpoint {
  if (!statSync(dir).isDirectory()) throw invalid(dir, 'it is not a folder')
  const tensors = new Map<string, CheckpointTensor>()
  for (const [key, tensor] of readTensors(dir)) {
    const name = canonicalName(key)
    if (name === undefined) continue
    if (tensors.has(name)) throw invalid(dir, `${name} stands there twice, last as ${key}`)
    tensors.set(name, tensor)
  }
  return { step, dir, tensors: checkTensors(dir, tensors, model) }
}

/** Keeps what the proxy reads, each of the right shape and dtype. */
function checkTensors(
  dir: string,
  tensors: Map<string, CheckpointTensor>,
  { config, reach }: Model,
): Map<string, CheckpointTensor> {
  const kept = new Map<string, CheckpointTensor>()
  for (const { name, shape, required } of parametersOf(config, reach)) {
    const tensor = tensors.get(name)
    if (tensor === undefined) {
      if (required) throw invalid(dir, `tensor ${name} is missing`)
      continue
    }
    if (String(tensor.shape) !== String(shape)) {
      throw invalid(dir, `tensor ${name} is [${tensor.shape}]; its config asks for [${shape}]`)
    }
    if (!WEIGHT_DTYPES.includes(tensor.dtype)) {
      throw invalid(dir, `tensor ${name} is ${tensor.dtype}; ${WEIGHT_DTYPES.join(', ')} are read`)
    }
    kept.set(name, tensor)
  }
  const folders = new Set([...kept.values()].map(tensor => dirname(tensor.file)))
  if (folders.size > 1) throw invalid(dir, `its shards lie in ${folders.size} folders, not in one`)
  return kept
}

/** Tensors by their names on disk, from one file or the shards that the index names. */
function readTensors(dir: string): Map<string, CheckpointTensor> {
  const index = join(dir, 'model.safetensors.index.json')
  if (!existsSync(index)) {
    if (!existsSync(join(dir, 'model.safetensors'))) checkOtherWeights(dir)
    return readFile(dir, 'model.safetensors')
  }
  const map = Object.entries(readIndex(dir, index))
  const files = new Map<string, Map<string, CheckpointTensor>>()
  const tensors = new Map<string, CheckpointTensor>()
  for (const [key, file] of map) {
    if (basename(file) !== file) throw invalid(dir, `its index puts ${key} outside, into ${file}`)
    if (!files.has(file)) files.set(file, readFile(dir, file))
    const tensor = files.get(file)!.get(key)
    if (tensor === undefined) throw invalid(dir, `${file} lacks ${key}, which the index puts there`)
    tensors.set(key, tensor)
  }
  return tensors
}

/** What trainers leave instead of safetensors, and what makes them of it. */
const OTHER_WEIGHTS: readonly (readonly [file: RegExp, what: string, hint: string])[] = [
  [
    /^pytorch_model.*\.bin(\.index\.json)?$/,
    'pickled weights, which are not read',
    'Load it with its own code and save it again as safetensors: model.save_pretrained(folder, safe_serialization=True).',
  ],
  [
    /^adapter_(model|config)\./,
    'a LoRA adapter and not the model',
    'Merge it into the model, model.merge_and_unload(), and save every checkpoint whole.',
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

function checkOtherWeights(dir: string): void {
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

function readFile(dir: string, name: string): Map<string, CheckpointTensor> {
  try {
    const file = realpathSync(join(dir, name))
    const { tensors } = readHeader(file)
    return new Map([...tensors].map(([key, entry]) => [key, { ...entry, file }]))
  } catch (error) {
    throw invalid(dir, messageOf(error))
  }
}

/** Checkpoints of one fine-tuning have one config and the same parameters (shapes are checked). */
function checkSameModel(checkpoint: Checkpoint, first: Checkpoint, { config, reach }: Model): void {
  const own = readProxyConfig(checkpoint.dir)
  const difference = differingKey(config, own)
  if (difference !== undefined) {
    throw invalid(checkpoint.dir, `its config differs from ${first.dir}'s: ${difference}`)
  }
  for (const { name } of parametersOf(config, reach)) {
    if (checkpoint.tensors.has(name) === first.tensors.has(name)) continue
    const [has, lacks] = checkpoint.tensors.has(name) ? [checkpoint, first] : [first, checkpoint]
    throw invalid(checkpoint.dir, `tensor ${name} stands in ${has.dir} but not in ${lacks.dir}`)
  }
}

function differingKey(a: object, b: object, at = ''): string | undefined {
  const other = b as Record<string, unknown>
  for (const [key, value] of Object.entries(a)) {
    if (typeof value === 'object') {
      const inner = differingKey(value, other[key] as object, `${at}${key}.`)
      if (inner !== undefined) return inner
    } else if (value !== other[key]) return `${at}${key} ${value} and ${other[key]}`
  }
  return undefined
}

/**
 * SHA-256, hex, over the proxy's config, the steps and, for every parameter, its name, dtype, shape
 * and content: tensors up to 4 kB whole, larger ones by a block of 1 kB at their begin, middle and
 * end. Fine-tuning moves every block, so that two schedules that differ have different prints, and
 * opening one costs no pass over its weights. Key layout and sharding do not count.
 */
function fingerprintOf(config: ProxyConfig, checkpoints: readonly Checkpoint[]): string {
  const hash = createHash('sha256').update(canonicalJson(config))
  for (const { step, tensors } of checkpoints) {
    for (const { name } of parametersOf(config)) {
      const tensor = tensors.get(name)
      if (tensor === undefined) continue
      hash.update(JSON.stringify([step, name, tensor.dtype, tensor.shape]))
      for (const block of sampleBlocks(tensor)) hash.update(readBytes(tensor.file, block))
    }
  }
  return hash.digest('hex')
}

const WHOLE_BYTES_MAX = 4096
const BLOCK_BYTES = 1024

function sampleBlocks(tensor: CheckpointTensor): CheckpointTensor[] {
  if (tensor.bytes <= WHOLE_BYTES_MAX) return [tensor]
  const last = tensor.bytes - BLOCK_BYTES
  return [0, Math.floor(last / 2), last].map(at => blockOf(tensor, at, BLOCK_BYTES))
}

function blockOf(tensor: CheckpointTensor, at: number, bytes: number): CheckpointTensor {
  return { ...tensor, offset: tensor.offset + at, bytes }
}

const COMPARE_BYTES = 16 * 2 ** 20

/** Byte by byte; ends at the first difference. */
function isVisionShared(config: ProxyConfig, checkpoints: readonly Checkpoint[]): boolean {
  const [first, ...others] = checkpoints
  return visionParameters(config).every(({ name }) => {
    const tensor = first!.tensors.get(name)!
    return others.every(other => isEqual(tensor, other.tensors.get(name)!))
  })
}

function isEqual(a: CheckpointTensor, b: CheckpointTensor): boolean {
  if (a.dtype !== b.dtype) return false
  if (a.file === b.file && a.offset === b.offset) return true
  for (let at = 0; at < a.bytes; at += COMPARE_BYTES) {
    const bytes = Math.min(COMPARE_BYTES, a.bytes - at)
    const [left, right] = [blockOf(a, at, bytes), blockOf(b, at, bytes)]
    if (!readBytes(a.file, left).equals(readBytes(b.file, right))) return false
  }
  return true
}

function proxyInvalid(message: string): XmasdError {
  return new XmasdError(
    'PROXY_INVALID',
    message,
    'A proxy is a folder of checkpoint-N/, each with config.json and model.safetensors.',
  )
}

function invalid(dir: string, reason: string): XmasdError {
  return new XmasdError(
    'CHECKPOINT_INVALID',
    `${dir}: ${reason}`,
    'Save or copy this checkpoint again, or take its folder away; a schedule is used whole.',
  )
}

/**
 * Fields that came later, at the value that every proxy had before: left out, so that a schedule
 * keeps its fingerprint, and its bundles, from release to release.
 */
const IMPLIED: Readonly<Record<string, string>> = {
  ropeScaling: '{"kind":"default"}',
  headNorm: '"none"',
  parallelResidual: 'false',
  mlp: '"gated"',
}

/** JSON with the keys of every object in order. */
function canonicalJson(value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return JSON.stringify(value)
  }
  const entries = Object.entries(value)
    .map(([key, field]) => [key, canonicalJson(field)] as const)
    .filter(([key, text]) => IMPLIED[key] !== text)
    .sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${entries.map(([key, text]) => `${JSON.stringify(key)}:${text}`).join(',')}}`
}
