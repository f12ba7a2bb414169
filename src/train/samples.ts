/** Training samples: what ingest prepares for scoring, and which positions the loss is taken at. */
import { type ErrorCode, XmasdError } from '../errors.ts'
import { answerPositions } from '../ingest/answers.ts'
import { decodeExample } from '../ingest/decode.ts'
import { createPreparer, type PreparerOptions } from '../ingest/prepare.ts'
import { buildPrompt } from '../ingest/template.ts'
import { encodePrompt, readTokenizer } from '../ingest/tokenizer.ts'
import type { Sequence } from '../score/batch.ts'

/** A sequence, image or not, and the positions whose next token is an answer's. */
export type Sample = {
  ids: Int32Array
  /** None for a text-only example. */
  images: Sequence['images']
  columns: Int32Array
  /** Ascending; token p + 1 is what position p is to predict. */
  predictors: Int32Array
}

export type Samples = { samples: Sample[]; failed: Map<ErrorCode, number> }

/** Examples prepared at a time. */
const CONCURRENT = 4
/** What all samples may take. */
const BYTES_MAX = 2 * 2 ** 30

/**
 * Prepares every example, in order. Those that can't be used are counted by code, as the daemon
 * counts dead letters. Throws DATA_INVALID where none is left or they take too much memory.
 */
export async function prepareSamples(
  values: AsyncIterable<Uint8Array>,
  options: PreparerOptions,
  onPrepared: (done: number) => void = () => {},
): Promise<Samples> {
  const prepare = createSampler(options)
  const failed = new Map<ErrorCode, number>()
  const samples: Sample[] = []
  const budget = new ImageBudget()
  let waiting: Promise<Sample | XmasdError>[] = []
  let done = 0
  const settle = async (): Promise<void> => {
    for (const result of await Promise.all(waiting)) {
      if (result instanceof XmasdError) failed.set(result.code, (failed.get(result.code) ?? 0) + 1)
      else samples.push(budget.share(result))
    }
    done += waiting.length
    waiting = []
    onPrepared(done)
  }
  for await (const value of values) {
    waiting.push(prepare(value))
    if (waiting.length >= CONCURRENT) await settle()
  }
  await settle()
  if (samples.length > 0) return { samples, failed }
  throw new XmasdError(
    'DATA_INVALID',
    `none of ${done} examples can be trained on (${[...failed].map(([code, n]) => `${code} ${n}`)})`,
    'Check --data and --images; `xmasd score` on the same file says why, example by example.',
  )
}

/** Equal images are kept once; too many are refused. */
class ImageBudget {
  readonly #images = new Map<string, Sample['images'][number]>()
  #bytes = 0

  share(sample: Sample): Sample {
    this.#bytes += sample.ids.byteLength + sample.predictors.byteLength
    const images = sample.images.map(image => {
      const known = this.#images.get(image.hash)
      if (known !== undefined) return known
      this.#images.set(image.hash, image)
      this.#bytes += image.patches.byteLength
      return image
    })
    if (this.#bytes <= BYTES_MAX) return { ...sample, images }
    throw new XmasdError(
      'DATA_INVALID',
      `the training samples take more than ${BYTES_MAX / 2 ** 30} GiB`,
      'Train on fewer examples: --limit.',
    )
  }
}

function createSampler(
  options: PreparerOptions,
): (value: Uint8Array) => Promise<Sample | XmasdError> {
  const preparer = createPreparer(options)
  const tokenizer = readTokenizer(options.checkpointDir)
  return async value => {
    try {
      const { sequence } = await preparer.prepare(value)
      const dialog = decodeExample(value)
      const prompt = buildPrompt(options.template, dialog)
      const ids = sequence?.ids ?? encodePrompt(tokenizer, prompt, 0, options).ids
      const where = { ...options, start: 'from' } as const
      const answers = answerPositions(tokenizer, options.template, dialog, where)
      return withAnswers({
        ids,
        images: sequence?.images ?? [],
        columns: sequence?.columns ?? new Int32Array(0),
        predictors: answers.filter(p => p > 0).map(p => p - 1),
      })
    } catch (error) {
      if (error instanceof XmasdError) return error
      throw error
    }
  }
}

function withAnswers(sample: Sample): Sample {
  if (sample.predictors.length > 0) return sample
  throw new XmasdError('NO_TEXT_ROWS', 'no answer lies within the longest sequence', 'Shorten it.')
}
