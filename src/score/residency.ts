/**
 * Which checkpoints stay in memory. The others are *streamed*: compiled when their turn in a job comes and
 * released after it, so that the load is paid once a job, not once an example. Pure but for
 * `memoryMaxDefault`. Bytes everywhere; C channels, F feed-forward width, H heads, T tokens.
 */
import { execFileSync } from 'node:child_process'
import { freemem } from 'node:os'
import type { Device, Precision } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import { isCoarse } from '../proxy/parameters.ts'
import type { Checkpoint, Schedule } from '../proxy/schedule.ts'
import { LOGIT_BYTES_MAX } from './loss.ts'

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
): MemoryNeed {
  const { config, checkpoints } = schedule
  const { vision, text } = config
  const patches = patchesPerImage(vision)
  const images = Math.ceil(tokensMax / config.imageTokens)
  const pass = activations(text, tokensMax, Math.min(tokensMax, config.lengthMax))
  return {
    tower:
      PROGRAM_BYTES +
      weights(checkpoints[0]!, precision, 'vision.') +
      activations(vision, images * patches, patches),
    score:
      PROGRAM_BYTES +
      weights(checkpoints[0]!, precision, 'text.', 'connector.') +
      (schedule.reach === 'logits' ? head(config) : 0) +
      pass,
    pass,
    example:
      FLOAT_BYTES * (patches * 3 * vision.patchSize ** 2 + config.imageTokens * vision.width),
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
    const elements = tensor.shape.reduce((product, n) => product * n, 1)
    const elementBytes = precision === 'bfloat16' && isCoarse(name) ? FLOAT_BYTES / 2 : FLOAT_BYTES
    bytes += name === 'text.embed_tokens.weight' ? tensor.bytes : elementBytes * elements
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
  const shared = visionShared ? tower : 0
  const unit = visionShared ? score : tower + score
  const all = shared + jobExamples.resident * example + checkpoints * unit
  const slot = visionShared ? score : Math.max(tower, score)
  const none = shared + jobExamples.streamed * example + slot
  const left = bytesMax - featureBytesMax
  const kept = Math.floor((left - none) / unit)
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
  if (device === 'cpu') return FREE_SHARE * (process.availableMemory?.() ?? freemem())
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
  options: {
    device: Device
    precision?: Precision | undefined
    workers: number
    memoryMax: number | undefined
    tokensMax: number
    jobExamples: ResidencyOptions['jobExamples']
  },
): Residency {
  const { device, precision, workers, memoryMax, tokensMax, jobExamples } = options
  const { checkpoints, visionShared } = schedule
  const bytesMax = (memoryMax ?? memoryMaxDefault(device)) / workers
  const need = memoryNeed(schedule, tokensMax, precision)
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
function atOnce({ tower, score, pass }: MemoryNeed, schedule: Schedule): number {
  const { length } = schedule.checkpoints
  return pass + length * (score - pass) + (schedule.visionShared ? 1 : length) * tower
}
