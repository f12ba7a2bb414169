/** The bytes of a data file as a stream: from a file or a pipe, unpacked, looked at before they are read. */
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { Decompress } from 'fzstd'

export type Chunks = AsyncIterable<Uint8Array>

const READ_BYTES = 1 << 18

/** `onBytes` is told how many bytes of the file have been read. */
export async function* chunksOf(
  file: string,
  onBytes: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  const source =
    file === '-' ? process.stdin : createReadStream(file, { highWaterMark: READ_BYTES })
  let bytes = 0
  for await (const chunk of source) {
    bytes += chunk.length
    onBytes(bytes)
    yield chunk
  }
}

export type Peeked = { head: Buffer; isWhole: boolean; all: AsyncGenerator<Uint8Array> }

/** The first bytes, and all of it, the first bytes included. */
export async function peek(source: Chunks, bytes: number): Promise<Peeked> {
  const iterator = source[Symbol.asyncIterator]()
  const parts: Uint8Array[] = []
  let isWhole = false
  for (let size = 0; size < bytes && !isWhole; size += parts.at(-1)?.length ?? 0) {
    const { done, value } = await iterator.next()
    if (done === true) isWhole = true
    else parts.push(value)
  }
  const head = Buffer.concat(parts)
  return { head, isWhole, all: behind(head, iterator) }
}

async function* behind(head: Buffer, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield head
    for (let next = await rest.next(); next.done !== true; next = await rest.next())
      yield next.value
  } finally {
    await rest.return?.()
  }
}

/** What the bytes are packed with, by their first ones; undefined where they are not. */
export function packingOf(head: Buffer): 'gzip' | 'zstd' | undefined {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip'
  return head.subarray(0, 4).equals(ZSTD) ? 'zstd' : undefined
}

const ZSTD = Buffer.from('28b52ffd', 'hex')

export function unpacked(chunks: Chunks, packing: 'gzip' | 'zstd'): Chunks {
  if (packing === 'zstd') return unpackedZstd(chunks)
  const packed = Readable.from(chunks)
  const stream = createGunzip()
  packed.on('error', error => stream.destroy(error)).pipe(stream)
  return stream
}

/** Node 20 has no zstd. Throws where the last frame is cut. */
async function* unpackedZstd(chunks: Chunks): AsyncGenerator<Uint8Array> {
  let out: Uint8Array[] = []
  const stream = new Decompress(chunk => out.push(chunk))
  for await (const chunk of chunks) {
    stream.push(chunk)
    yield* out
    out = []
  }
  stream.push(new Uint8Array(0), true)
  yield* out
}

/** Writes a stream to a file of its own for `use`, which needs to read it out of order. */
export async function* spooled<T>(
  chunks: Chunks,
  use: (file: string) => AsyncIterable<T>,
): AsyncGenerator<T> {
  const folder = await mkdtemp(join(tmpdir(), 'xmasd-data-'))
  try {
    const file = join(folder, 'data')
    await pipeline(chunks, createWriteStream(file))
    yield* use(file)
  } finally {
    await rm(folder, { recursive: true })
  }
}
