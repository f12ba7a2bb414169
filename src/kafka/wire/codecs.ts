/**
 * The compressions that Kafka knows, for reading: what a producer or a broker (`compression.type`)
 * chose. We write uncompressed and leave the choice to the topic.
 */
import { gunzipSync } from 'node:zlib'
import { Decoder } from '@toondepauw/node-zstd'
import { decompressFrameSync } from 'lz4-napi'
import { uncompressSync } from 'snappy'

/** What the records of one gzip batch may grow to. */
const BYTES_MAX = 512 << 20
const CODECS = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const

/** The uncompressed bytes. `codec` is the low 3 bits of a batch's attributes. Throws where they are damaged. */
export function decompress(codec: number, bytes: Buffer): Buffer {
  switch (CODECS[codec]) {
    case 'none':
      return bytes
    case 'gzip':
      return gunzipSync(bytes, { maxOutputLength: BYTES_MAX })
    case 'snappy':
      return uncompressSnappy(bytes)
    case 'lz4':
      return Buffer.concat(lz4Frames(bytes).map(frame => decompressFrameSync(frame)))
    case 'zstd':
      return new Decoder().decodeSync(bytes)
    default:
      throw new Error(`unknown compression ${codec}`)
  }
}

const XERIAL_MAGIC = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])
const XERIAL_HEADER_BYTES = 16

/** Java's clients cut snappy into blocks: a header, then size and block, again and again. */
function uncompressSnappy(bytes: Buffer): Buffer {
  if (!bytes.subarray(0, XERIAL_MAGIC.length).equals(XERIAL_MAGIC)) return snappyBlock(bytes)
  const blocks: Buffer[] = []
  for (let at = XERIAL_HEADER_BYTES; at < bytes.length; ) {
    const end = at + 4 + bytes.readUInt32BE(at)
    if (end > bytes.length) throw new Error(`a snappy block ends at ${end} of ${bytes.length}`)
    blocks.push(snappyBlock(bytes.subarray(at + 4, end)))
    at = end
  }
  return Buffer.concat(blocks)
}

function snappyBlock(bytes: Buffer): Buffer {
  return uncompressSync(bytes, { asBuffer: true }) as Buffer
}

const LZ4_MAGIC = 0x184d2204
const LZ4 = { dictionary: 1, contentChecksum: 4, contentSize: 8, blockChecksum: 16 } as const

/**
 * The library reads one frame; producers may write several, one after the other. A frame: magic u32, flags u8, block size
 * u8, [content size u64], [dictionary u32], header checksum u8, (block size u32, block, [checksum u32])…, 0 u32, [checksum u32].
 */
function lz4Frames(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = []
  for (let start = 0; start < bytes.length; ) {
    if (bytes.readUInt32LE(start) !== LZ4_MAGIC) throw new Error(`no LZ4 frame at ${start}`)
    const flags = bytes[start + 4]!
    const optional = (flag: number, size: number): number => ((flags & flag) === 0 ? 0 : size)
    let at = start + 7 + optional(LZ4.contentSize, 8) + optional(LZ4.dictionary, 4)
    for (let size = -1; size !== 0; ) {
      size = bytes.readUInt32LE(at) & 0x7fffffff
      at += 4 + (size === 0 ? 0 : size + optional(LZ4.blockChecksum, 4))
    }
    at += optional(LZ4.contentChecksum, 4)
    frames.push(bytes.subarray(start, at))
    start = at
  }
  return frames
}
