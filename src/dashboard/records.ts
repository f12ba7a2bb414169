/** Conversation and pictures of an example, read from its record on the log when somebody looks. */
import { LRUCache } from 'lru-cache'
import { messageOf, XmasdError } from '../errors.ts'
import { fetchImage } from '../ingest/fetch/image.ts'
import { decodeExample } from '../ingest/form/decode.ts'
import { IMAGE_MARK } from '../ingest/form/example.ts'
import { thumbnail } from '../ingest/image/decode.ts'
import type { ExampleSource } from '../ingest/prepare.ts'
import type { Log } from '../log/log.ts'
import { printable, redacted } from '../observe/text.ts'
import type { Model } from './model.ts'
import type { ExampleDocument } from './schemas.ts'

type Conversation = ExampleDocument['conversation']

const QUESTION_CHARACTERS_MAX = 300
const TURN_CHARACTERS_MAX = 8_000
const QUESTIONS_MAX = 20_000
const PICTURE_BYTES_MAX = 48 << 20
/** Pictures that are decoded at the same time: the daemon's own work goes first. */
const DECODING_MAX = 2
export const SIDES = [96, 160, 320, 640] as const

export class Records {
  readonly #log: Log
  readonly #topic: string
  readonly #source: ExampleSource
  readonly #model: Model
  readonly #questions = new LRUCache<string, { question: string; images: number }>({
    max: QUESTIONS_MAX,
  })
  readonly #pictures = new LRUCache<string, Buffer>({
    maxSize: PICTURE_BYTES_MAX,
    sizeCalculation: bytes => bytes.length + 64,
  })
  #decoding = 0
  readonly #queue: (() => void)[] = []

  constructor(log: Log, topic: string, source: ExampleSource, model: Model) {
    this.#log = log
    this.#topic = topic
    this.#source = source
    this.#model = model
  }

  async #decode(row: number) {
    const { columns } = this.#model
    const [partition, offset] = [columns.sourcePartition.get(row), columns.sourceOffset.get(row)]
    const record = await this.#log.get(this.#topic, partition, offset)
    if (record?.value == null)
      throw new Error(`${this.#topic}/${partition}@${offset} is no longer on the log`)
    return decodeExample(record.value, this.#source.form)
  }

  async conversation(row: number): Promise<Conversation> {
    try {
      const { turns, images } = await this.#decode(row)
      const shown = turns.map(({ role, text }) => ({
        role,
        text: readable(text.replaceAll(IMAGE_MARK, '').trim().slice(0, TURN_CHARACTERS_MAX)),
      }))
      return { turns: shown, images: images.length }
    } catch (error) {
      return { turns: [], images: 0, missing: readable(redacted(messageOf(error))) }
    }
  }

  /** The first question, cut; and how many pictures there are. */
  async question(row: number): Promise<{ question: string; images: number }> {
    const key = this.#model.columns.keys[row]!
    const known = this.#questions.get(key)
    if (known !== undefined) return known
    const { turns, images, missing } = await this.conversation(row)
    const question = (turns.find(({ role }) => role === 'user')?.text ?? missing ?? '').slice(
      0,
      QUESTION_CHARACTERS_MAX,
    )
    this.#questions.set(key, { question, images })
    return { question, images }
  }

  /**
   * The `n`th picture as WebP of at most `side` pixels, fetched by the rules of ingest. Throws what
   * fetching and decoding throw; IMAGE_NOT_FOUND where there is no such picture.
   */
  async picture(row: number, n: number, side: number): Promise<Buffer> {
    const name = `${side}/${n}/${this.#model.columns.keys[row]}`
    const known = this.#pictures.get(name)
    if (known !== undefined) return known
    const reference = (await this.#decode(row)).images[n]
    if (reference === undefined) {
      throw new XmasdError(
        'IMAGE_NOT_FOUND',
        'the example has no such picture',
        'ask for a lower number',
      )
    }
    await this.#enter()
    try {
      const bytes = await thumbnail(
        await fetchImage(reference, this.#source),
        side,
        this.#source.limits,
      )
      this.#pictures.set(name, bytes)
      return bytes
    } finally {
      this.#decoding--
      this.#queue.shift()?.()
    }
  }

  async #enter(): Promise<void> {
    while (this.#decoding >= DECODING_MAX) {
      await new Promise<void>(resolve => this.#queue.push(resolve))
    }
    this.#decoding++
  }
}

/** `text` with its lines, and without characters that act on a page. */
export function readable(text: string): string {
  return text.split(/\r?\n/).map(printable).join('\n')
}
