/** The programs of one checkpoint, and what they give of a batch, by metric. */
import type { Engine, HostTensor, InputSpec, Output, Program } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { seededRandom } from '../math/random.ts'
import { largestSingularValues } from '../math/singular-values.ts'
import { encodeDirection } from '../math/vectors.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import type { Checkpoint } from '../proxy/checkpoint/schedule.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { float32, int32 } from '../proxy/ops.ts'
import { crossModalAttention, type Mode, type ScoreInputs, type TokenInputs } from './attention.ts'
import { ownPart, type PackedBatch, type Sequence } from './batch.ts'
import { type HeadProgram, lossesOf, predictionsOf, predictorStates, tokenLosses } from './loss.ts'

export type VisionProgram = Program<string>
type ScoreProgram = Program<keyof ScoreInputs<never>>

export type Batch = { packed: PackedBatch; sequences: readonly Sequence[] }

/**
 * The 5 singular values, or the loss alone; the embeddings of text and question, and the loss of the
 * answers (null where there are none), where the attention is asked for them.
 */
export type Row = {
  values: number[]
  embedding?: string | undefined
  question?: string | undefined
  loss?: number | null | undefined
}

export interface CheckpointScore {
  /** Of each sequence, or why it has none. `features` of `packed.images`. Throws ENGINE_FAILED. */
  rows(batch: Batch, features: HostTensor): Promise<(Row | XmasdError)[]>
  /**
   * The loss alone, also of sequences without images, whose batch may have any `features`; null where there
   * are no answers. Only of scores that go on to the head.
   */
  losses(batch: Batch, features: HostTensor): Promise<(number | null)[]>
  release(): Promise<void>
}

export type AttentionOptions = {
  withStates?: boolean
  /** Goes on to the language head, at the answers' positions. */
  withLosses?: boolean
}

export async function attentionScore(
  engine: Engine,
  config: ProxyConfig,
  mode: Mode,
  checkpoint: Checkpoint,
  options: AttentionOptions,
): Promise<CheckpointScore> {
  const { withStates, withLosses } = options
  const program = await compileScore(engine, config, mode, checkpoint, options)
  const head = withLosses ? await headBeside(program, engine, config, checkpoint) : undefined
  const parts = { program, head, config, withStates }
  return {
    rows: (batch, features) => attentionRows(parts, batch, features),
    losses: async (batch, features) => (await runAttention(parts, batch, features)).losses!,
    release: async () => {
      await program.release()
      await head?.release()
    },
  }
}

type AttentionParts = Pick<AttentionOptions, 'withStates'> & {
  program: ScoreProgram
  head: HeadProgram | undefined
  config: ProxyConfig
}

/** Runs the program, and the head where there is one. */
async function runAttention(
  { program, head, config, withStates = false }: AttentionParts,
  { packed, sequences }: Batch,
  features: HostTensor,
): Promise<{ attention: Output; pooled: Pooled[]; losses?: (number | null)[] }> {
  const asked = withStates ? questionsOf(sequences, packed) : undefined
  const predictions = head && predictionsOf(sequences, packed)
  const attention = await program.run({
    ...{ ...packed.inputs, features },
    ...(asked && { questions: asked.questions }),
    ...(predictions && { predictors: predictions.predictors }),
  })
  const pooled = asked === undefined ? [] : pooledOf(sequences, attention.others, asked.counts)
  if (head === undefined || predictions === undefined) return { attention, pooled }
  const losses = await lossesOf(head, config, attention.others.at(-1)!, predictions)
  return { attention, pooled, losses }
}

async function attentionRows(
  parts: AttentionParts,
  batch: Batch,
  features: HostTensor,
): Promise<(Row | XmasdError)[]> {
  const { attention, pooled, losses } = await runAttention(parts, batch, features)
  return batch.sequences.map((sequence, i) => {
    const { columns, rows } = sequence
    const own = ownPart(attention, i, sequence)
    return orError(() => ({
      values: largestSingularValues(own, columns.length, rows.length),
      ...pooled[i],
      loss: losses && finite(losses[i]!),
    }))
  })
}

export async function lossScore(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<CheckpointScore> {
  const inputs = { ...tokenInputs(config), predictors: int32(1, 'Q') }
  const hidden = await engine.compile(checkpoint, inputs, (ops, values) =>
    predictorStates(ops, config, values),
  )
  const head = await headBeside(hidden, engine, config, checkpoint)
  const losses: CheckpointScore['losses'] = async ({ packed, sequences }, features) => {
    const { padding: _, rows: __, columns: ___, ...tokens } = packed.inputs
    const predictions = predictionsOf(sequences, packed)
    const { predictors } = predictions
    const states = await hidden.run({ ...tokens, features, predictors })
    return lossesOf(head, config, states, predictions)
  }
  return {
    rows: async (batch, features) =>
      (await losses(batch, features)).map(loss =>
        orError(() => ({ values: [finite(loss ?? Number.NaN)!], loss })),
      ),
    losses,
    release: async () => {
      await hidden.release()
      await head.release()
    },
  }
}

/** A loss, null where there is none. Throws SCORE_NOT_FINITE. */
export function finite(loss: number | null): number | null {
  if (loss === null || Number.isFinite(loss)) return loss
  throw new XmasdError(
    'SCORE_NOT_FINITE',
    'the loss is not finite',
    'The checkpoint overflows on this example; check its weights for NaN and infinities.',
  )
}

export function orError<Value>(make: () => Value): Value | XmasdError {
  try {
    return make()
  } catch (error) {
    if (error instanceof XmasdError) return error
    throw error
  }
}

/*
 * The embedding of an example: the mean over its text rows of the states that the last layer's projections
 * read at the last checkpoint, which the score's forward pass has anyway. That of its question: the same mean
 * over the text tokens of the user turns. Large ones are projected to 64 components with random signs, which
 * keeps distances between examples (Johnson and Lindenstrauss; Achlioptas 2003), and kept as a direction.
 */

type Pooled = { embedding: string; question: string }

/** Where the questions' tokens of a batch stand: [1, H], one that nobody reads where there are none. */
function questionsOf(
  sequences: readonly Sequence[],
  { tokens }: Pick<PackedBatch, 'tokens'>,
): { questions: HostTensor; counts: number[] } {
  const own = sequences.map(({ questions = [] }, b) => Array.from(questions, at => tokens[b]![at]!))
  const all = own.flat()
  const data = Int32Array.from(all.length === 0 ? [0] : all)
  return { questions: { data, shape: [1, data.length] }, counts: own.map(({ length }) => length) }
}

/** `counts` [B]: how many of the question's states are each sequence's, in turn. */
function pooledOf(
  sequences: readonly Sequence[],
  [states, questions]: readonly Output[],
  counts: readonly number[],
): Pooled[] {
  const [, rowsMax] = states!.shape as [number, number, number]
  let at = 0
  return sequences.map(({ rows }, i) => {
    const from = at
    at += counts[i]!
    return {
      embedding: embeddingOf(states!, i * rowsMax, rows.length),
      question: embeddingOf(questions!, from, counts[i]!),
    }
  })
}

export const EMBEDDING_VALUES = 64
/** Part of the format: embeddings of another projection are not comparable. */
const PROJECTION_SEED = 64

/** The mean of `count` of the states [B, R, C], from the state `first` on; zeros of none. Base64. */
export function embeddingOf(
  { data, shape }: Pick<Output, 'data' | 'shape'>,
  first: number,
  count: number,
): string {
  const width = shape[2]!
  const pooled = new Float64Array(width)
  for (let row = first; row < first + count; row++) {
    for (let c = 0; c < width; c++) pooled[c]! += data[row * width + c]! / count
  }
  return encodeDirection(projected(pooled))
}

/** [C] -> [min(C, 64)] */
export function projected(values: Float64Array): Float64Array {
  const width = values.length
  if (width <= EMBEDDING_VALUES) return values
  const signs = signsOf(width)
  const found = new Float64Array(EMBEDDING_VALUES)
  for (let c = 0, at = 0; c < width; c++) {
    for (let d = 0; d < EMBEDDING_VALUES; d++) found[d]! += signs[at++]! * values[c]!
  }
  return found
}

const known = new Map<number, Int8Array>()

/** [C, 64] of ±1, the same everywhere. */
function signsOf(width: number): Int8Array {
  const found = known.get(width)
  if (found !== undefined) return found
  const random = seededRandom(PROJECTION_SEED)
  const signs = Int8Array.from({ length: width * EMBEDDING_VALUES }, () =>
    random() < 0.5 ? -1 : 1,
  )
  known.set(width, signs)
  return signs
}

/* The programs. */

/** The levels of features of M tiles, each [M, n, W]. */
export function compileVision(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<VisionProgram> {
  const { tower } = familyOf(config)
  return engine.compile(checkpoint, tower.inputs(config), (ops, inputs) =>
    tower.run(ops, config, inputs),
  )
}

/**
 * The attention [B, I, R]; `withStates` also the states of the text rows [B, R, C] and of the questions
 * [1, H, C]; `withLosses` also those that predict answers [1, Q, C].
 */
export function compileScore(
  engine: Engine,
  config: ProxyConfig,
  mode: Mode,
  checkpoint: Checkpoint,
  { withStates = false, withLosses: goesOn = false }: AttentionOptions = {},
): Promise<ScoreProgram> {
  const inputs = {
    ...tokenInputs(config),
    padding: float32('B', 1, 'T'),
    rows: int32('B', 'R'),
    columns: int32('B', 'I'),
    ...(withStates && { questions: int32(1, 'H') }),
    ...(goesOn && { predictors: int32(1, 'Q') }),
  } as Record<keyof ScoreInputs<never> | 'questions' | 'predictors', InputSpec>
  return engine.compile(checkpoint, inputs, (ops, values) => {
    const found = crossModalAttention(ops, config, mode, values, { goesOn })
    const { attention, states, hidden } = found
    const others = [
      ...(withStates
        ? [values.rows, values.questions].map(rows => ops.gatherFlatRows(states, rows))
        : []),
      ...(hidden === undefined ? [] : [ops.gatherFlatRows(hidden, values.predictors)]),
    ]
    return [attention, ...others]
  })
}

/** The head that goes on from `program`, which is released where the head can't be compiled. */
async function headBeside(
  program: Pick<Program<never>, 'release'>,
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<HeadProgram> {
  const inputs = { hidden: float32(1, 'Q', config.text.width), targets: int32(1, 'Q') }
  try {
    return await engine.compile(checkpoint, inputs, (ops, values) =>
      tokenLosses(ops, config, values),
    )
  } catch (error) {
    await program.release()
    throw error
  }
}

/** Without those that the proxy has no use for. */
function tokenInputs(config: ProxyConfig): Record<keyof TokenInputs<never>, InputSpec> {
  const inputs = {
    ids: int32(1, 'U'),
    cos: float32(1, 'U', config.text.rotaryDims / 2),
    sin: float32(1, 'U', config.text.rotaryDims / 2),
    features: float32(1, 'M', familyOf(config).tower.width(config)),
    imageRows: int32(1, 'U'),
    isImage: float32(1, 'U', 1),
    prefixes: int32('F', 'P'),
    suffixes: int32('B', 'S'),
    origin: int32(1, 'U'),
    sequences: int32('B', 'T'),
    seen: float32('B', 1, 'S', 'T'),
  }
  const blends = { blendRows: int32(1, 'W'), blendWeights: float32(1, 'W', 1) }
  return { ...inputs, ...(config.blends ? blends : {}) } as typeof inputs & typeof blends
}
