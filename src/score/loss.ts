/**
 * The loss of an example: the mean cross-entropy of its answers' tokens, end tokens included (the
 * published code's `loss`). The language head runs over those alone, and over so few at a time that
 * its logits stay small.
 *
 * Shapes as in `batch.ts`, and Q predicting positions of a batch, C channels, V vocabulary.
 */
import type { HostTensor, Output, Program } from '../engine/engine.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { languageHead } from '../proxy/language.ts'
import type { Ops } from '../proxy/ops.ts'
import { runDecoder, type TokenInputs } from './attention.ts'
import type { PackedBatch, Sequence } from './batch.ts'

/** `predictors`: [1, Q] int32, the tokens whose next one is an answer's. */
type HiddenInputs<V> = TokenInputs<V> & { predictors: V }
/** `hidden`: [1, Q, C] as `predictorStates` gives them; `targets`: [1, Q] int32 token ids. */
export type HeadInputs<V> = { hidden: V; targets: V }

/** The decoder's output at the predicting positions, before the final norm: [1, Q, C]. */
export function predictorStates<V>(ops: Ops<V>, config: ProxyConfig, inputs: HiddenInputs<V>): V {
  const hidden = runDecoder(ops, config, inputs, () => {}, false) // [1, U, C]
  return ops.gatherFlatRows(hidden, inputs.predictors)
}

/** -log p(target): [1, Q, 1] */
export function tokenLosses<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  { hidden, targets }: HeadInputs<V>,
): V {
  const logits = languageHead(ops, config.text, hidden) // [1, Q, V]
  return ops.add(ops.logSumExp(logits), ops.scale(ops.pick(logits, targets), -1))
}

export type Predictions = {
  /** [1, Q] */
  predictors: HostTensor
  /** [1, Q] */
  targets: HostTensor
  /** [B]: how many of Q are each sequence's, in turn. */
  counts: number[]
}

/** What a batch's sequences predict: at least one token, that of no sequence where none has answers. Nothing predicts a sequence's first token. */
export function predictionsOf(
  sequences: readonly Sequence[],
  { tokens }: Pick<PackedBatch, 'tokens'>,
): Predictions {
  const predictors: number[] = []
  const targets: number[] = []
  const counts = sequences.map(({ ids, answers }, b) => {
    const before = predictors.length
    for (const position of answers) {
      if (position === 0) continue
      predictors.push(tokens[b]![position - 1]!)
      targets.push(ids[position]!)
    }
    return predictors.length - before
  })
  const row = (values: number[]): HostTensor => {
    const data = values.length === 0 ? new Int32Array(1) : Int32Array.from(values)
    return { data, shape: [1, data.length] }
  }
  return { predictors: row(predictors), targets: row(targets), counts }
}

/** The mean of each sequence's part of `losses` [Q]; NaN of none. */
export function meanLosses(losses: ArrayLike<number>, counts: readonly number[]): number[] {
  let at = 0
  return counts.map(count => {
    let sum = 0
    for (const end = at + count; at < end; at++) sum += losses[at]!
    return sum / count
  })
}

/** What the logits of one run of the head may take. */
export const LOGIT_BYTES_MAX = 64 * 2 ** 20

/** Predicting positions that the head takes at a time. */
export function headRows({ text }: ProxyConfig): number {
  return Math.max(16, Math.floor(LOGIT_BYTES_MAX / (4 * text.vocab)))
}

export type HeadProgram = Program<keyof HeadInputs<never>>

/** The mean loss of each sequence [B], of the states [1, Q, C] that predict its answers; null of none. */
export async function lossesOf(
  head: HeadProgram,
  config: ProxyConfig,
  { data, shape }: Output,
  { targets, counts }: Predictions,
): Promise<(number | null)[]> {
  const [, total, width] = shape as [number, number, number]
  const rowsMax = headRows(config)
  const losses = new Float32Array(total)
  for (let at = 0; at < total; at += rowsMax) {
    const count = Math.min(rowsMax, total - at)
    const part = await head.run({
      hidden: { data: data.subarray(at * width, (at + count) * width), shape: [1, count, width] },
      targets: { data: targets.data.subarray(at, at + count), shape: [1, count] },
    })
    losses.set(part.data, at)
  }
  return meanLosses(losses, counts).map((loss, b) => (counts[b] === 0 ? null : loss))
}
