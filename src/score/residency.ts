/**
 * Which checkpoints stay in memory. The others are *streamed*: compiled when their turn in a job comes and
 * released after it, so that the load is paid once a job, not once an example. Pure but for
 * `memoryMaxDefault`. Bytes everywhere; C channels, F feed-forward width, H heads, T tokens.
 */
import { execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import type { Device, EngineName, Precision } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import { isCoarse } from '../proxy/checkpoint/parameters.ts'
import { elements } from '../proxy/checkpoint/safetensors.ts'
import { type Checkpoint, checkpointBytes, type Schedule } from '../proxy/checkpoint/schedule.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { type BatchLimits, LIMITS } from './batch.ts'
import { PATCHES_MAX } from './features.ts'
import { LOGIT_BYTES_MAX } from './loss.ts'
import type { Isolation } from './workers/host.ts'

/** What one scoring worker may hold. */
export type Residency = {
  /** The first so many checkpoints stay; all of them, or fewer and the others are streamed. */
  residents: number
  /** For features of images that come again. */
  featureBytesMax: number
}

export type MemoryNeed = {
  /** One vision tower, and one language model, with the activations of a pass. */
  tower: number
  score: number
  /** Of `score`, the activations. */
  pass: number
  /** Of `tower` and of `score`, what all checkpoints share: all of it where they are LoRA adapters of one base. */
  shared: { tower: number; score: number }
  /** Pixels and features of one example of a job. */
  example: number
}

const FLOAT_BYTES = 4
/** Of a program, whatever its size: its graph, and what its arena rounds up. */
const PROGRAM_BYTES = 16 * 2 ** 20
/** Features of images that come again in later jobs. */
export const FEATURE_BYTES_MAX = 128 * 2 ** 20
/** Of the budget that features of earlier images may take at most. */
const FEATURE_SHARE = 1 / 8

/**
 * Weights are held as float32 (onnxruntime packs a copy of each matrix, whatever lies in the file), the
 * coarse ones in `precision`. The table of embeddings stays in the file, mapped, and counts as if all of
 * it were in memory.
 * Activations are those of `tokensMax` tokens, and stay with each program (onnxruntime's arena): measured
 * on three shapes, the estimate is 1.2 to 1.7 times what was taken.
 */
export function memoryNeed(
  schedule: Schedule,
  tokensMax: number,
  precision: Precision = 'float32',
  engine: EngineName = 'onnx',
): MemoryNeed {
  const { config, checkpoints } = schedule
  const { vision, text } = config
  const family = familyOf(config)
  const { patches, cut } = family.usual(config)
  const tile = patches / (cut?.tiles ?? 1)
  const images = Math.ceil(tokensMax / config.imageTokens)
  const together = Math.min(images * patches, Math.max(tile, PATCHES_MAX))
  const pass = activations(text, tokensMax, Math.min(tokensMax, config.lengthMax))
  const tower =
    PROGRAM_BYTES +
    weights(checkpoints[0]!, precision, 'vision.') +
    activations(vision, together, tile)
  const score =
    PROGRAM_BYTES +
    weights(checkpoints[0]!, precision, 'text.', 'connector.') +
    (schedule.reach === 'logits' ? head(config) : 0) +
    pass
  const isShared = checkpoints[0]!.base !== undefined && engine === 'onnx'
  return {
    tower,
    score,
    pass,
    shared: isShared ? { tower, score } : { tower: 0, score: 0 },
    example:
      FLOAT_BYTES *
      (patches * 3 * vision.patchSize ** 2 +
        (cut?.features ?? config.imageTokens) * family.tower.width(config)),
  }
}

/** The language head's weights, and the logits of one run of it. */
function head({ text }: ProxyConfig): number {
  return PROGRAM_BYTES + FLOAT_BYTES * text.vocab * text.width + LOGIT_BYTES_MAX
}

function weights({ tensors }: Checkpoint, precision: Precision, ...prefixes: string[]): number {
  let bytes = 0
  for (const [name, tensor] of tensors) {
    if (!prefixes.some(prefix => name.startsWith(prefix))) continue
    const elementBytes = precision === 'bfloat16' && isCoarse(name) ? FLOAT_BYTES / 2 : FLOAT_BYTES
    bytes +=
      name === 'text.embed_tokens.weight' ? tensor.bytes : elementBytes * elements(tensor.shape)
  }
  return bytes
}

/** 8 buffers as wide as the model, 4 as wide as its feed-forward, 2 of every head's map (and the score's). */
function activations(
  { width, intermediate, heads }: ProxyConfig['text'] | ProxyConfig['vision'],
  tokens: number,
  sequence: number,
): number {
  return FLOAT_BYTES * tokens * (8 * width + 4 * intermediate + (2 * heads + 4) * sequence)
}

export type ResidencyOptions = {
  /** Of one worker. */
  bytesMax: number
  checkpoints: number
  visionShared: boolean
  /** Examples of a job where all checkpoints stay, and where some are streamed. */
  jobExamples: { resident: number; streamed: number }
}

/** Undefined where not even one checkpoint at a time fits: `bytesMin` would be needed. */
export function planResidency(
  need: MemoryNeed,
  options: ResidencyOptions,
): { residency: Residency | undefined; bytesMin: number } {
  const { bytesMax, checkpoints, visionShared, jobExamples } = options
  const { tower, score, example } = need
  const featureBytesMax = Math.min(FEATURE_BYTES_MAX, Math.floor(bytesMax * FEATURE_SHARE))
  const base = need.shared.score + (visionShared ? 0 : need.shared.tower)
  const shared = visionShared ? tower : 0
  const unit = (visionShared ? score : tower + score) - base
  const all = shared + base + jobExamples.resident * example + checkpoints * unit
  const slot = visionShared ? score : Math.max(tower, score)
  const none = shared + jobExamples.streamed * example + slot
  const left = bytesMax - featureBytesMax
  const kept = unit === 0 ? (none <= left ? 0 : -1) : Math.floor((left - none - base) / unit)
  const residents = all <= left ? checkpoints : Math.min(checkpoints - 1, kept)
  return {
    residency: residents < 0 ? undefined : { residents, featureBytesMax },
    bytesMin: withFeatures(Math.min(all, none)),
  }
}

/** The budget of which `bytes` are left when the features have their part. */
function withFeatures(bytes: number): number {
  return Math.ceil(Math.min(bytes / (1 - FEATURE_SHARE), bytes + FEATURE_BYTES_MAX))
}

/** Of the memory that is free at the start, the scoring workers may take so much. */
const FREE_SHARE = 0.5

/**
 * Half of the memory that is available to this process (control groups counted), or of the GPU's free
 * memory where nvidia-smi tells it; no limit on other GPUs, which do not say.
 */
export function memoryMaxDefault(device: Device): number {
  if (device === 'cpu') return FREE_SHARE * process.availableMemory()
  const free = nvidiaFreeBytes()
  return free === undefined ? Number.POSITIVE_INFINITY : FREE_SHARE * free
}

function nvidiaFreeBytes(): number | undefined {
  try {
    const query = ['--query-gpu=memory.free', '--format=csv,noheader,nounits']
    const text = execFileSync('nvidia-smi', query, { encoding: 'utf8', timeout: 10_000 })
    const megabytes = Number(text.split('\n')[0])
    return megabytes > 0 ? megabytes * 2 ** 20 : undefined
  } catch {
    return undefined
  }
}

/** One worker's part of `proxy.memoryMax`. Throws CONFIG_INVALID where a budget that was set is too small. */
export function chooseResidency(
  schedule: Schedule,
  options: Pick<WorkerWish, 'engine' | 'precision' | 'memoryMax'> & {
    device: Device
    workers: number
    tokensMax: number
    jobExamples: ResidencyOptions['jobExamples']
  },
): Residency {
  const { device, engine, precision, workers, memoryMax, tokensMax, jobExamples } = options
  const { checkpoints, visionShared } = schedule
  const bytesMax = (memoryMax ?? memoryMaxDefault(device)) / workers
  const need = memoryNeed(schedule, tokensMax, precision, engine)
  if (memoryMax === undefined && atOnce(need, schedule) <= bytesMax) {
    const featureBytesMax = Math.min(FEATURE_BYTES_MAX, bytesMax * FEATURE_SHARE)
    return { residents: checkpoints.length, featureBytesMax }
  }
  const { residency, bytesMin } = planResidency(need, {
    bytesMax,
    checkpoints: checkpoints.length,
    visionShared,
    jobExamples,
  })
  if (residency !== undefined) return residency
  if (memoryMax === undefined) return { residents: 0, featureBytesMax: bytesMax * FEATURE_SHARE }
  const bytes = Math.ceil(bytesMin * workers)
  throw new XmasdError(
    'CONFIG_INVALID',
    `proxy.memoryMax is ${memoryMax}; one checkpoint at a time, with a pass of ${tokensMax} tokens, takes ${bytes}`,
    `set it to ${bytes} or more, or lower proxy.tokensMax, proxy.workers or score.batchExamplesMax`,
  )
}

/**
 * All checkpoints with the activations of one pass. A budget that was set is kept though every program's
 * arena has once held the longest sequences; by default nothing is streamed for so rare a case.
 */
function atOnce({ tower, score, pass, shared }: MemoryNeed, schedule: Schedule): number {
  const { length } = schedule.checkpoints
  const ofText =
    shared.score > 0
      ? score + (length - 1) * (score - shared.score)
      : pass + length * (score - pass)
  return ofText + (schedule.visionShared ? tower : shared.tower + length * (tower - shared.tower))
}

/* How many workers compute, and where. */

/** What is set of it; the rest follows from the machine and the schedule. */
export type WorkerWish = {
  /** Default: onnx. */
  engine?: EngineName | undefined
  /** Default: float32. */
  precision?: Precision | undefined
  /** How many workers, and how many threads each computes with; see `chooseThreads`. */
  workers?: number | undefined
  threads?: number | undefined
  limits?: BatchLimits | undefined
  /** Bytes that all workers together may take. Default: half of what is free. */
  memoryMax?: number | undefined
  /** Sequences that are scored at once, at most. Default: 64. */
  batchExamplesMax?: number | undefined
}

export type WorkerPlan = {
  /** How many worker threads, and how many threads each computes with. */
  workers: number
  threads: number
  /** A process where a driver may end it, checkpoints come and go, or a pass takes long. */
  isolation: Isolation
  /** Of each worker. */
  residency: Residency
  /** Sequences of one job. */
  jobExamplesMax: number
}

/** Sequences of one job where every checkpoint stays in memory: few, so that workers share them well. */
const JOB_EXAMPLES_MAX = 64

/**
 * How many workers, and what each keeps in memory. Where checkpoints are streamed a job is a worker's
 * share of a whole batch of the role (`batchExamplesMax`), for the load is paid once a job.
 */
export function planWorkers(schedule: Schedule, device: Device, options: WorkerWish): WorkerPlan {
  const { limits = LIMITS, batchExamplesMax = JOB_EXAMPLES_MAX } = options
  const { workers, threads } = chooseThreads({
    ...options,
    device,
    checkpointBytes: checkpointBytes(schedule.checkpoints[0]!),
    cores: availableParallelism(),
  })
  const streamed = Math.ceil(batchExamplesMax / workers)
  const resident = Math.min(JOB_EXAMPLES_MAX, streamed)
  const residency = chooseResidency(schedule, {
    ...options,
    device,
    workers,
    tokensMax: limits.tokensMax,
    jobExamples: { resident, streamed },
  })
  const isStreamed = residency.residents < schedule.checkpoints.length
  return {
    workers,
    threads,
    isolation: device === 'cpu' && !isStreamed && isSmall(schedule) ? 'thread' : 'process',
    residency,
    jobExamplesMax: isStreamed ? streamed : resident,
  }
}

const SMALL_MODEL_BYTES = 64 * 2 ** 20

/** A pass of a small model is soon over: its thread can end between two of them. */
function isSmall({ checkpoints }: Schedule): boolean {
  return checkpointBytes(checkpoints[0]!) < SMALL_MODEL_BYTES
}

/**
 * On a GPU one worker: it is what computes, and a second one would end the process. On the CPU one
 * worker on all cores where a checkpoint has 64 MB or more: its products are large enough to
 * be split, and its weights stay in memory once. Smaller models gain nothing from splitting: one
 * single-threaded worker a core. What is given counts; the other follows from it.
 */
export function chooseThreads(options: {
  device: Device
  checkpointBytes: number
  cores: number
  workers?: number | undefined
  threads?: number | undefined
}): { workers: number; threads: number } {
  const { cores, workers, threads } = options
  if (options.device !== 'cpu') {
    if ((workers ?? 1) > 1) throw oneWorker(options.device, workers!)
    return { workers: 1, threads: threads ?? cores }
  }
  const share = (count: number): number => Math.max(1, Math.floor(cores / count))
  if (workers !== undefined) return { workers, threads: threads ?? share(workers) }
  if (threads !== undefined) return { workers: share(threads), threads }
  return options.checkpointBytes < SMALL_MODEL_BYTES
    ? { workers: cores, threads: 1 }
    : { workers: 1, threads: cores }
}

function oneWorker(device: Device, workers: number): XmasdError {
  return new XmasdError(
    'CONFIG_INVALID',
    `proxy.workers is ${workers}; on ${device} one worker computes`,
    'leave proxy.workers out, or set proxy.device to cpu',
  )
}
