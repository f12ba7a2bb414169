/** The examples behind the report's `ends`: their text and a small picture, from the log itself. */
import sharp from 'sharp'
import { messageOf } from '../errors.ts'
import { fetchImage, type ImageSource } from '../ingest/fetch-image.ts'
import type { Log } from '../log/log.ts'
import type { Turn } from '../record.ts'
import type { Drawn } from './collect.ts'

export type Picture = {
  drawn: Drawn
  question: string
  answer: string
  /** A data: URL, or why there is none. */
  image: { url: string } | { missing: string }
}

const SIDE_PIXELS = 144
const TEXT_MAX = 160

/** One picture an example, in order; what can't be read says so in its place. */
export async function picturesOf(
  log: Log,
  source: ImageSource,
  ends: readonly Drawn[],
): Promise<Picture[]> {
  const pictures: Picture[] = []
  for (const drawn of ends) pictures.push(await pictureOf(log, source, drawn))
  return pictures
}

async function pictureOf(log: Log, source: ImageSource, drawn: Drawn): Promise<Picture> {
  const { topic, partition, offset } = drawn.source
  const record = await log.get(topic, partition, offset)
  if (record === undefined || record.value === null) {
    const missing = `${topic}/${partition}@${offset} is no longer on the log`
    return { drawn, question: '', answer: '', image: { missing } }
  }
  const example = JSON.parse(Buffer.from(record.value).toString()) as {
    image?: string | string[]
    conversations: Turn[]
  }
  const said = (roles: string[]): string => {
    const text = example.conversations.find(({ from }) => roles.includes(from))?.value ?? ''
    const plain = text.replaceAll('<image>', '').trim()
    return plain.length > TEXT_MAX ? `${plain.slice(0, TEXT_MAX - 1)}…` : plain
  }
  const reference = [example.image ?? []].flat()[0]
  const image =
    reference === undefined ? { missing: 'text only' } : await thumbnail(reference, source)
  return { drawn, question: said(['human', 'user']), answer: said(['gpt', 'assistant']), image }
}

async function thumbnail(reference: string, source: ImageSource): Promise<Picture['image']> {
  try {
    const bytes = await fetchImage(reference, source)
    const small = await sharp(bytes, { limitInputPixels: source.limits.pixelsMax })
      .resize(SIDE_PIXELS, SIDE_PIXELS, { fit: 'inside', withoutEnlargement: true })
      .webp({ quality: 75 })
      .toBuffer()
    return { url: `data:image/webp;base64,${small.toString('base64')}` }
  } catch (error) {
    return { missing: messageOf(error) }
  }
}
