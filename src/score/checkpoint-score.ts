/** What one checkpoint gives of a batch, by metric. */
import type { Engine, HostTensor } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import type { Checkpoint } from '../proxy/schedule.ts'
import type { Mode } from './attention.ts'
import { ownPart, type PackedBatch, type Sequence } from './batch.ts'
import { embeddingOf } from './embedding.ts'
import { headRows, meanLosses, predictionsOf } from './loss.ts'
import {
  compileHead,
  compileHidden,
  compileScore,
  type HeadProgram,
  type HiddenProgram,
  type ScoreProgram,
} from './programs.ts'
import { largestSingularValues } from './singular.ts'

export type Batch = { packed: PackedBatch; sequences: readonly Sequence[] }

/** The 5 singular values, or the loss alone; the embedding where the attention is asked for it. */
export type Row = { values: number[]; embedding?: string | undefined }

export interface CheckpointScore {
  /** Of each sequence, or why it has none. `features` of `packed.images`. Throws ENGINE_FAILED. */
  rows(batch: Batch, features: HostTensor): Promise<(Row | XmasdError)[]>
  release(): Promise<void>
}

export async function attentionScore(
  engine: Engine,
  config: ProxyConfig,
  mode: Mode,
  checkpoint: Checkpoint,
  options: { withStates: boolean },
): Promise<CheckpointScore> {
  const program = await compileScore(engine, config, mode, checkpoint, options)
  return {
    rows: (batch, features) => attentionRows(program, batch, features),
    release: () => program.release(),
  }
}

async function attentionRows(
  program: ScoreProgram,
  { packed, sequences }: Batch,
  features: HostTensor,
): Promise<(Row | XmasdError)[]> {
  const attention = await program.run({ ...packed.inputs, features })
  const [states] = attention.others
  return sequences.map((sequence, i) => {
    const { columns, rows } = sequence
    const own = ownPart(attention, i, sequence)
    return orError(() => ({
      values: largestSingularValues(own, columns.length, rows.length),
      embedding: states && embeddingOf(states, i, rows.length),
    }))
  })
}

export async function lossScore(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<CheckpointScore> {
  const hidden = await compileHidden(engine, config, checkpoint)
  const head = await compileHead(engine, config, checkpoint).catch(async error => {
    await hidden.release()
    throw error
  })
  return {
    rows: (batch, features) => lossRows({ hidden, head }, headRows(config), batch, features),
    release: async () => {
      await hidden.release()
      await head.release()
    },
  }
}

async function lossRows(
  programs: { hidden: HiddenProgram; head: HeadProgram },
  rowsMax: number,
  { packed, sequences }: Batch,
  features: HostTensor,
): Promise<(Row | XmasdError)[]> {
  const { padding: _, rows: __, columns: ___, ...tokens } = packed.inputs
  const { predictors, targets, counts } = predictionsOf(sequences, packed)
  const states = await programs.hidden.run({ ...tokens, features, predictors })
  const [, total, width] = states.shape as [number, number, number]
  const losses = new Float32Array(total)
  for (let at = 0; at < total; at += rowsMax) {
    const count = Math.min(rowsMax, total - at)
    const hidden = states.data.subarray(at * width, (at + count) * width)
    const part = await programs.head.run({
      hidden: { data: hidden, shape: [1, count, width] },
      targets: { data: targets.data.subarray(at, at + count), shape: [1, count] },
    })
    losses.set(part.data, at)
  }
  return meanLosses(losses, counts).map(loss => orError(() => ({ values: [finite(loss)] })))
}

function finite(loss: number): number {
  if (Number.isFinite(loss)) return loss
  throw new XmasdError(
    'SCORE_NOT_FINITE',
    'the loss is not finite',
    'The checkpoint overflows on this example; check its weights for NaN and infinities.',
  )
}

function orError<Value>(make: () => Value): Value | XmasdError {
  try {
    return make()
  } catch (error) {
    if (error instanceof XmasdError) return error
    throw error
  }
}
