/** What an example says, whatever it is called: the content hash behind keys and exact duplicates. */
import { createHash } from 'node:crypto'
import type { DialogTurn } from './decode.ts'
import type { Rgb } from './image.ts'

/** SHA-256, hex, of an image: its width and height, then its decoded RGB bytes. */
export function imageHash(rgb: Rgb): string {
  return createHash('sha256').update(`${rgb.width}x${rgb.height}\n`).update(rgb.data).digest('hex')
}

/**
 * SHA-256, hex, over the normalised conversation and the images' hashes, in order. Normalised:
 * canonical roles; NFC; CRLF as LF; trimmed. The framing is a JSON array followed by a line for each
 * image, so that no two contents have the same bytes.
 */
export function contentHash(turns: DialogTurn[], images: readonly string[]): string {
  const conversation = turns.map(turn => [turn.from, normalised(turn.value)])
  return createHash('sha256')
    .update(JSON.stringify(conversation))
    .update(images.map(hash => `\n${hash}`).join(''))
    .digest('hex')
}

function normalised(text: string): string {
  return text.normalize('NFC').replaceAll('\r\n', '\n').trim()
}
