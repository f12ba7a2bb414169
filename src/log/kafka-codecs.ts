/**
 * The compressions that Kafka knows, for reading: what a producer or a broker (`compression.type`)
 * chose. We write uncompressed and leave the choice to the topic.
 */
import { gunzipSync } from 'node:zlib'
import { decompress as unzstd } from 'fzstd'
import lz4 from 'lz4js'
import { uncompress as unsnappy } from 'snappyjs'
import { messageOf, XmasdError } from '../errors.ts'

/** What the records of one batch may grow to. */
const BYTES_MAX = 512 << 20

/** The uncompressed bytes. `codec` is the low 3 bits of a batch's attributes. */
export function decompress(codec: number, bytes: Buffer): Buffer {
  try {
    return asBuffer(DECOMPRESS[codec]!(bytes))
  } catch (error) {
    throw new XmasdError(
      'LOG_UNAVAILABLE',
      `a batch of records can't be decompressed (codec ${codec}): ${messageOf(error)}`,
      'check which producer wrote it; skip it by moving the group position behind it',
      { cause: error },
    )
  }
}

const DECOMPRESS: readonly ((bytes: Buffer) => Uint8Array)[] = [
  bytes => bytes,
  bytes => gunzipSync(bytes, { maxOutputLength: BYTES_MAX }),
  uncompressSnappy,
  bytes => lz4.decompress(bytes),
  bytes => unzstd(bytes),
]

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

const XERIAL_MAGIC = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])
const XERIAL_HEADER_BYTES = 16

/** Java's clients cut snappy into blocks: a header, then size and block, again and again. */
function uncompressSnappy(bytes: Buffer): Uint8Array {
  if (!bytes.subarray(0, XERIAL_MAGIC.length).equals(XERIAL_MAGIC)) return block(bytes)
  const blocks: Uint8Array[] = []
  for (let at = XERIAL_HEADER_BYTES; at < bytes.length; ) {
    const size = bytes.readInt32BE(at)
    blocks.push(block(bytes.subarray(at + 4, at + 4 + size)))
    at += 4 + size
  }
  return Buffer.concat(blocks)
}

function block(bytes: Buffer): Uint8Array {
  return unsnappy(bytes, BYTES_MAX)
}
