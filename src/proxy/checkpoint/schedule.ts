/**
 * The schedule: the checkpoints of the proxy's fine-tuning in numeric step order, and the place of each
 * parameter's bytes on disk. Opening one loads no weights. A broken checkpoint is an error that names
 * it: T never shrinks silently.
 */
import { createHash, type Hash } from 'node:crypto'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { messageOf, XmasdError } from '../../errors.ts'
import type { ProxyConfig } from '../config.ts'
import type { Family } from '../model.ts'
import { type Adapter, adapted, isAdapter, openAdapter } from './adapter.ts'
import { familyOf, readProxyConfig } from './config.ts'
import {
  canonicalName,
  type Parameter,
  parametersOf,
  type Reach,
  visionParameters,
} from './parameters.ts'
import { readBytes } from './safetensors.ts'
import {
  type CheckpointTensor,
  checkOtherWeights,
  invalid,
  readWeights,
  type StoredTensor,
  unreadWeights,
} from './weights.ts'

/** Plain data, for worker threads. */
export type Checkpoint = {
  step: number
  dir: string
  /** By canonical name; only the proxy's parameters. */
  tensors: Map<string, CheckpointTensor>
  /** The folder of the base model, of a LoRA adapter. */
  base?: string
}

/** Plain data, for worker threads. */
export type Schedule = {
  dir: string
  config: ProxyConfig
  /** The forward pass that its parameters suffice for. */
  reach: Reach
  /** In step order, at least one. */
  checkpoints: Checkpoint[]
  /** Of weights and config; see `fingerprintOf`. */
  fingerprint: string
  /** The same of what only the logits need. */
  headFingerprint: string | undefined
  /** Whether the vision tower is byte-equal over all checkpoints. */
  visionShared: boolean
  /** What is suspect, a sentence each. */
  warnings: string[]
}

const WEIGHT_DTYPES = ['F32', 'F16', 'BF16']

/**
 * Opens `dir`: a folder of `checkpoint-N/` (the Trainer's final model beside them is ignored), or one
 * checkpoint itself (T = 1, step 0). Checkpoints are whole models, or LoRA adapters of one base, which is
 * `base` where that is given. `reach` says which parameters are required; the fingerprint does not depend
 * on it.
 *
 * @throws XmasdError PROXY_INVALID where there is no checkpoint, PROXY_UNSUPPORTED for another family,
 * CHECKPOINT_INVALID, naming checkpoint and tensor, for what is broken or does not fit
 */
export function openSchedule(
  dir: string,
  reach: Reach = 'projections',
  base?: string | undefined,
): Schedule {
  const folders = findCheckpoints(dir).map(({ step, dir }) => ({ step, ...placeOf(dir, base) }))
  checkOneBase(folders)
  const config = readProxyConfig(folders[0]!.adapter?.base ?? folders[0]!.dir)
  const model = { config, reach }
  const checkpoints = folders.map(folder => openCheckpoint(folder, model))
  for (const checkpoint of checkpoints.slice(1)) checkSameModel(checkpoint, checkpoints[0]!, model)
  return {
    dir,
    config,
    reach,
    checkpoints,
    fingerprint: fingerprintOf(config, checkpoints),
    headFingerprint: reach === 'logits' ? headFingerprintOf(config, checkpoints) : undefined,
    visionShared: isVisionShared(config, checkpoints),
    warnings: warningsOf(dir, checkpoints),
  }
}

/** Fewer checkpoints say little of how an example's score moves. */
const CHECKPOINTS_ADVISED = 4

function warningsOf(dir: string, checkpoints: readonly Checkpoint[]): string[] {
  const unread = checkpoints.flatMap(({ dir, base }) =>
    base === undefined ? (unreadWeights(dir) ?? []) : [],
  )
  const { length } = checkpoints
  if (length >= CHECKPOINTS_ADVISED) return unread
  const few = `${dir} has ${length} checkpoints; instability over fewer than ${CHECKPOINTS_ADVISED} says little: train with a smaller save_steps`
  return [...unread, few]
}

/** Throws PROXY_INVALID where a schedule has one checkpoint: its instabilities would all be 0. */
export function checkLength({ dir, checkpoints }: Schedule): void {
  if (checkpoints.length > 1) return
  const isItself = checkpoints[0]!.dir === dir
  const what =
    isItself && !/^checkpoint-\d+$/.test(basename(dir))
      ? 'is one model, such as the final one, and no schedule'
      : isItself
        ? 'is one checkpoint, and no schedule'
        : 'holds one checkpoint'
  throw new XmasdError(
    'PROXY_INVALID',
    `${dir} ${what}: instability is the movement between at least 2 checkpoints of one fine-tuning`,
    'Give the folder that holds checkpoint-N/, of a training with save_strategy "steps" and no save_total_limit.',
  )
}

/** Bytes of a checkpoint's parameters on disk. */
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
    if (existsSync(join(dir, 'config.json')) || isAdapter(dir)) return [{ step: 0, dir }]
    checkOtherWeights(dir)
    throw proxyInvalid(`${dir} holds no checkpoint-N folder`)
  }
  for (const [i, { step, dir }] of found.entries()) {
    if (found[i + 1]?.step === step) throw invalid(dir, `step ${step} appears twice`)
  }
  return found
}

type Place = { dir: string; adapter?: Adapter | undefined }

/** What a folder holds: a whole model, or an adapter. */
function placeOf(dir: string, base: string | undefined): Place {
  if (!statSync(dir).isDirectory()) throw invalid(dir, 'it is not a folder')
  if (isAdapter(dir)) return { dir, adapter: openAdapter(dir, base) }
  if (!existsSync(join(dir, 'config.json'))) checkOtherWeights(dir)
  return { dir }
}

/** One fine-tuning has one base, or none. */
function checkOneBase([first, ...others]: readonly Place[]): void {
  const nameOf = ({ adapter }: Place): string =>
    adapter === undefined ? 'is a whole model' : `is a LoRA adapter of ${adapter.base}`
  const other = others.find(place => place.adapter?.base !== first!.adapter?.base)
  if (other === undefined) return
  const difference = `${first!.dir} ${nameOf(first!)}, ${other.dir} ${nameOf(other)}`
  throw new XmasdError(
    'CHECKPOINT_INVALID',
    `checkpoints of two trainings: ${difference}`,
    'Keep the checkpoints of one training in the folder; where one base lies in two places, give it with --base.',
  )
}

type Model = { config: ProxyConfig; reach: Reach }

function openCheckpoint(
  { step, dir, adapter }: Place & { step: number },
  model: Model,
): Checkpoint {
  const home = adapter?.base ?? dir
  const weights = readWeights(home)
  const family = familyOf(model.config)
  const plain = withTower(home, byCanonicalName(home, weights.tensors, family), family)
  const tensors = adapter === undefined ? plain : adapted(adapter, plain, family)
  const unreadable = byCanonicalName(home, weights.unreadable, family)
  const checked = checkTensors(dir, { tensors, unreadable }, model)
  return { step, dir, tensors: checked, ...(adapter && { base: adapter.base }) }
}

function withTower(
  home: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  family: Family,
): ReadonlyMap<string, CheckpointTensor> {
  const beside = family.beside?.(home, tensors)
  if (beside === undefined) return tensors
  const tower = byCanonicalName(beside, readWeights(beside).tensors, family)
  const found = [...tower].map(([name, one]) => [name, { ...one, isReplaced: true }] as const)
  return new Map([...found, ...tensors])
}

function byCanonicalName<T>(
  dir: string,
  found: ReadonlyMap<string, T>,
  family: Family,
): Map<string, T> {
  const named = new Map<string, T>()
  for (const [key, value] of found) {
    if (/\.lora_[AB]\./.test(key)) throw unmerged(dir, key)
    const name = canonicalName(key, family)
    if (name === undefined) continue
    if (named.has(name)) throw invalid(dir, `${name} appears twice, the second time as ${key}`)
    named.set(name, value)
  }
  return named
}

function unmerged(dir: string, key: string): XmasdError {
  const hint =
    'Save the adapter alone, as peft does, or merge it: model.merge_and_unload(). Save every checkpoint again.'
  const message = `${dir} holds a LoRA adapter that is not merged into the weights: ${key}`
  return new XmasdError('CHECKPOINT_INVALID', message, hint)
}

type CanonicalTensors = {
  tensors: ReadonlyMap<string, CheckpointTensor>
  unreadable: ReadonlyMap<string, string>
}

/** The tensors that the proxy reads, checked for shape and dtype. */
function checkTensors(
  dir: string,
  { tensors, unreadable }: CanonicalTensors,
  { config, reach }: Model,
): Map<string, CheckpointTensor> {
  const kept = new Map<string, CheckpointTensor>()
  for (const { name, shape, required } of parametersOf(config, reach)) {
    const tensor = tensors.get(name)
    const dtype = tensor?.dtype ?? unreadable.get(name)
    if (dtype !== undefined && !WEIGHT_DTYPES.includes(dtype)) {
      throw invalid(dir, `tensor ${name} is ${dtype}; ${WEIGHT_DTYPES.join(', ')} are read`)
    }
    if (tensor === undefined) {
      if (required) throw invalid(dir, `tensor ${name} is missing`)
      continue
    }
    if (String(tensor.shape) !== String(shape)) {
      throw invalid(dir, `tensor ${name} is [${tensor.shape}]; its config asks for [${shape}]`)
    }
    kept.set(name, tensor)
  }
  const plain = [...kept.values()].filter(({ isReplaced }) => isReplaced !== true)
  const folders = new Set(plain.map(({ file }) => dirname(file)))
  if (folders.size > 1) throw invalid(dir, `its shards lie in ${folders.size} folders, not in one`)
  return kept
}

/** Checkpoints of one fine-tuning have equal configs and the same parameters. */
function checkSameModel(checkpoint: Checkpoint, first: Checkpoint, { config, reach }: Model): void {
  if (checkpoint.base !== undefined) return
  const own = readProxyConfig(checkpoint.dir)
  const difference = differingKey(config, own)
  if (difference !== undefined) {
    throw invalid(checkpoint.dir, `its config differs from ${first.dir}'s: ${difference}`)
  }
  for (const { name } of parametersOf(config, reach)) {
    if (checkpoint.tensors.has(name) === first.tensors.has(name)) continue
    const [has, lacks] = checkpoint.tensors.has(name) ? [checkpoint, first] : [first, checkpoint]
    throw invalid(checkpoint.dir, `tensor ${name} is in ${has.dir} but not in ${lacks.dir}`)
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
 * and content: tensors up to 4 kB whole, larger ones by a block of 1 kB at their start, middle and
 * end. Fine-tuning moves every block, so this tells schedules apart without reading all of their
 * weights. Names on disk and sharding do not count.
 */
function fingerprintOf(config: ProxyConfig, checkpoints: readonly Checkpoint[]): string {
  const hash = createHash('sha256').update(canonicalJson(config))
  addTensors(hash, checkpoints, parametersOf(config))
  return hash.digest('hex')
}

function headFingerprintOf(config: ProxyConfig, checkpoints: readonly Checkpoint[]): string {
  const projections = new Set(parametersOf(config).map(({ name }) => name))
  const head = parametersOf(config, 'logits').filter(({ name }) => !projections.has(name))
  const hash = createHash('sha256')
  addTensors(hash, checkpoints, head)
  return hash.digest('hex')
}

function addTensors(
  hash: Hash,
  checkpoints: readonly Checkpoint[],
  parameters: readonly Parameter[],
): void {
  for (const { step, tensors } of checkpoints) {
    for (const { name } of parameters) {
      const tensor = tensors.get(name)
      if (tensor === undefined) continue
      hash.update(JSON.stringify([step, name, tensor.dtype, tensor.shape]))
      addContent(hash, tensor)
      if (tensor.lora === undefined) continue
      const { a, b, scale } = tensor.lora
      hash.update(JSON.stringify(['lora', scale, a.dtype, a.shape, b.dtype, b.shape]))
      addContent(hash, a)
      addContent(hash, b)
    }
  }
}

function addContent(hash: Hash, tensor: StoredTensor): void {
  for (const block of sampleBlocks(tensor)) hash.update(readBytes(tensor.file, block))
}

const WHOLE_BYTES_MAX = 4096
const BLOCK_BYTES = 1024

function sampleBlocks(tensor: StoredTensor): StoredTensor[] {
  if (tensor.bytes <= WHOLE_BYTES_MAX) return [tensor]
  const last = tensor.bytes - BLOCK_BYTES
  return [0, Math.floor(last / 2), last].map(at => blockOf(tensor, at, BLOCK_BYTES))
}

function blockOf(tensor: StoredTensor, at: number, bytes: number): StoredTensor {
  return { ...tensor, offset: tensor.offset + at, bytes }
}

const COMPARE_BYTES = 16 * 2 ** 20

/** Byte by byte; ends at the first difference. */
function isVisionShared(config: ProxyConfig, checkpoints: readonly Checkpoint[]): boolean {
  const [first, ...others] = checkpoints
  return visionParameters(config).every(({ name }) => {
    const tensor = first!.tensors.get(name)!
    return others.every(other => isSameParameter(tensor, other.tensors.get(name)!))
  })
}

function isSameParameter(one: CheckpointTensor, other: CheckpointTensor): boolean {
  const [l, m] = [one.lora, other.lora]
  if (l === undefined || m === undefined) return l === m && isEqual(one, other)
  return l.scale === m.scale && isEqual(l.a, m.a) && isEqual(l.b, m.b) && isEqual(one, other)
}

function isEqual(a: StoredTensor, b: StoredTensor): boolean {
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

/**
 * Fields of ProxyConfig added after the first release, at the value that every proxy had until then.
 * They are left out of the fingerprint, so that bundles of earlier releases still fit.
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

/* Checkpoints are read again while the daemon runs: a change of their files is an error. */

/** Size, time and inode by file. Plain data. */
export type FileStamps = ReadonlyMap<string, string>

export function stampFiles(checkpoints: readonly Checkpoint[]): FileStamps {
  return new Map(checkpoints.flatMap(filesOf).map(file => [file, stampOf(file)]))
}

/** Throws CHECKPOINT_INVALID where a file was removed, cut, written to or replaced. */
export function checkUnchanged(checkpoint: Checkpoint, stamps: FileStamps): void {
  for (const file of filesOf(checkpoint)) {
    const [before, now] = [stamps.get(file), stampOf(file)]
    if (now === before) continue
    throw new XmasdError(
      'CHECKPOINT_INVALID',
      `${file} changed after it was opened: it was ${before}, now it is ${now}`,
      'Restore the checkpoint and start again; a schedule in use must not change.',
    )
  }
}

function filesOf({ tensors }: Checkpoint): string[] {
  const files = [...tensors.values()].flatMap(({ file, lora }) =>
    lora === undefined ? [file] : [file, lora.a.file, lora.b.file],
  )
  return [...new Set(files)]
}

function stampOf(file: string): string {
  if (!existsSync(file)) return 'gone'
  const { size, mtimeMs, ino } = statSync(file)
  return `${size} bytes, of ${new Date(mtimeMs).toISOString()}, inode ${ino}`
}
