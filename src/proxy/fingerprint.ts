/** What tells one schedule from another: a bundle's clusters hold for one alone. */
import { createHash } from 'node:crypto'
import type { ProxyConfig } from './config.ts'
import { parametersOf } from './parameters.ts'
import { readBytes } from './safetensors.ts'
import type { Checkpoint, CheckpointTensor } from './schedule.ts'

/**
 * SHA-256, hex, over the proxy's config, the steps and, for every parameter, its name, dtype, shape
 * and content: tensors up to 4 kB whole, larger ones by a block of 1 kB at their begin, middle and
 * end. Fine-tuning moves every block, so that two schedules that differ have different prints, and
 * opening one costs no pass over its weights. Key layout and sharding do not count.
 */
export function fingerprintOf(config: ProxyConfig, checkpoints: readonly Checkpoint[]): string {
  const hash = createHash('sha256').update(identityOf(config))
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

/**
 * The config as it stood when the first bundles were written, so that theirs still fit. What came
 * later is named only where it is not as it always was then.
 */
function identityOf({ kind, vision, connector, text, ...rest }: ProxyConfig): string {
  const { dropFirstRow, ...tower } = vision
  const { ropeScaling, headNorm, parallelResidual, mlp, ...language } = text
  const later = {
    ...(ropeScaling.kind === 'default' ? {} : { ropeScaling }),
    ...(headNorm === 'none' ? {} : { headNorm }),
    ...(parallelResidual ? { parallelResidual } : {}),
    ...(mlp === 'gated' ? {} : { mlp }),
  }
  return JSON.stringify({
    kind,
    vision: { ...tower, dropClassToken: dropFirstRow },
    connector,
    text: { ...language, ...later },
    ...rest,
  })
}

const WHOLE_BYTES_MAX = 4096
const BLOCK_BYTES = 1024

function sampleBlocks(tensor: CheckpointTensor): CheckpointTensor[] {
  if (tensor.bytes <= WHOLE_BYTES_MAX) return [tensor]
  const last = tensor.bytes - BLOCK_BYTES
  return [0, Math.floor(last / 2), last].map(at => blockOf(tensor, at, BLOCK_BYTES))
}

/** `bytes` of a tensor, from `at` on. */
export function blockOf(tensor: CheckpointTensor, at: number, bytes: number): CheckpointTensor {
  return { ...tensor, offset: tensor.offset + at, bytes }
}
