/** Training samples: what ingest prepares for scoring, and which positions the loss is taken at. */
import { type ErrorCode, XmasdError } from '../errors.ts'
import { answerPositions } from '../ingest/answers.ts'
import { decodeExample } from '../ingest/form/decode.ts'
import type { Pictures } from '../ingest/image/picture.ts'
import { createPreparer, type PreparerOptions } from '../ingest/prepare.ts'
import { buildPrompt, type Template } from '../ingest/template.ts'
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

/** `indices`: which of the examples each sample is of. */
export type Samples = { samples: Sample[]; indices: number[]; failed: Map<ErrorCode, number> }

/** `positions`: of an example whose answers lie beyond the longest sequence, the length it needs. */
type LeftOut = { error: XmasdError; positions?: number }

/** Examples prepared at a time. */
const CONCURRENT = 4
/** What all samples may take. */
const BYTES_MAX = 2 * 2 ** 30

/**
 * Prepares every example, in order. Those that can't be used are counted by code, as the daemon
 * counts dead letters. Throws DATA_INVALID where more than half are left out, and where they take too
 * much memory.
 */
export async function prepareSamples(
  values: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: SampleOptions,
  onPrepared: (done: number) => void = () => {},
): Promise<Samples> {
  const prepare = createSampler(options)
  const failed = new Map<ErrorCode, number>()
  const samples: Sample[] = []
  const indices: number[] = []
  const budget = new ImageBudget()
  const needed: number[] = []
  let first: XmasdError | undefined
  let waiting: Promise<Sample | LeftOut>[] = []
  let done = 0
  const settle = async (): Promise<void> => {
    for (const [i, result] of (await Promise.all(waiting)).entries()) {
      if ('ids' in result) {
        samples.push(budget.share(result))
        indices.push(done + i)
      } else {
        const { error, positions } = result
        first ??= error
        failed.set(error.code, (failed.get(error.code) ?? 0) + 1)
        if (positions !== undefined) needed.push(positions)
      }
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
  if (samples.length > 0 && samples.length >= done / 2) return { samples, indices, failed }
  if (done === 0) {
    throw new XmasdError(
      'DATA_INVALID',
      'the data hold no example',
      'give a file in a form of docs/data.md',
    )
  }
  const codes = [...failed].map(([code, n]) => `${n} ${code}`).join(', ')
  const fits = fitsByLength(options.lengthMax, samples.length, needed)
  throw new XmasdError(
    'DATA_INVALID',
    `${done - samples.length} of ${done} examples cannot be trained on (${codes})`,
    fits === undefined
      ? `The first: ${first?.message}.\n${first?.hint}\n\`xmasd score\` on the same file says why, example by example.`
      : `train with a longest sequence that fits more: ${fits}`,
  )
}

/** How many examples fit which `--length`: doubled from the present one until all of them fit. */
function fitsByLength(
  length: number,
  fitting: number,
  needed: readonly number[],
): string | undefined {
  if (needed.length === 0) return undefined
  const counts: string[] = []
  for (let tried = length; ; tried *= 2) {
    const fit = fitting + needed.filter(positions => positions <= tried).length
    counts.push(`--length ${tried} fits ${fit}`)
    if (fit === fitting + needed.length) return counts.join(', ')
  }
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

/** Training renders prompts by a template of four pieces. `pictures` are the proxy's. */
export type SampleOptions = PreparerOptions & { template: Template; pictures: Pictures }

/** Examples are measured up to this length, in positions. */
const MEASURED_MAX = 1 << 16

function createSampler(options: SampleOptions): (value: Uint8Array) => Promise<Sample | LeftOut> {
  const sample = createSample(options)
  const unlimited = createSample({ ...options, lengthMax: MEASURED_MAX })
  return async value => {
    const result = await sample(value)
    if ('ids' in result || result.error.code !== 'NO_TEXT_ROWS') return result
    const whole = await unlimited(value)
    return 'ids' in whole ? { ...result, positions: whole.predictors[0]! + 2 } : result
  }
}

function createSample(options: SampleOptions): (value: Uint8Array) => Promise<Sample | LeftOut> {
  const preparer = createPreparer(options, options.pictures)
  const tokenizer = readTokenizer(options.checkpointDir)
  return async value => {
    try {
      const { sequence } = await preparer.prepare(value)
      const dialog = decodeExample(value, options.form)
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
      if (error instanceof XmasdError) return { error }
      throw error
    }
  }
}

function withAnswers(sample: Sample): Sample {
  if (sample.predictors.length > 0) return sample
  throw new XmasdError('NO_TEXT_ROWS', 'no answer lies within the longest sequence', 'shorten it')
}
