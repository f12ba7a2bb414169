import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { decodeImage, thumbnail } from '../../../src/ingest/image/decode.ts'
import { IMAGE_LIMITS } from '../../../src/ingest/image/pixels.ts'
import { readTensors } from '../../goldens.ts'
import { shared } from '../../support.ts'
import { hasCode, readFixture, sameBytes, sha256 } from '../fixtures.ts'

type Case = {
  name: string
  base64: string
  rgb: { width: number; height: number; sha256: string } | null
}

const cases = ['images.jsonl', 'gif.jsonl'].flatMap(name => readFixture<Case>(name))
for (const { name, base64, rgb } of cases) {
  const bytes = Buffer.from(base64, 'base64')
  if (rgb === null) {
    test(`${name} is refused, as Pillow refuses it`, () =>
      assert.rejects(decodeImage(bytes, IMAGE_LIMITS), hasCode('IMAGE_UNDECODABLE')))
  } else {
    test(`${name} decodes to the RGB bytes that Pillow makes of it`, async () => {
      const { width, height, data } = await decodeImage(bytes, IMAGE_LIMITS)
      assert.deepEqual({ width, height, sha256: sha256(data) }, rgb)
    })
  }
}

for (const { name, base64 } of readFixture<Case>('animated.jsonl')) {
  test(`an animated ${name} is refused`, () =>
    assert.rejects(
      decodeImage(Buffer.from(base64, 'base64'), IMAGE_LIMITS),
      hasCode('IMAGE_ANIMATED'),
    ))
}

for (const set of ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']) {
  test(`the images of ${set} decode to the golden pixels, CMYK and EXIF-rotated too`, async t => {
    const folder = shared(t, 'goldens', set)
    if (folder === undefined) return
    const tensors = readTensors(join(folder, 'expected.safetensors'))
    const data = JSON.parse(readFileSync(join(folder, 'data.json'), 'utf8'))
    let compared = 0
    for (const [name, golden] of tensors) {
      if (!name.startsWith('rgb.')) continue
      const { image } = data[Number(name.slice(4))]
      const rgb = await decodeImage(readFileSync(join(folder, image)), IMAGE_LIMITS)
      assert.deepEqual([rgb.height, rgb.width, 3], golden.shape)
      assert.ok(sameBytes(rgb.data, golden.data), `${set}/${image}`)
      compared++
    }
    assert.equal(compared, 6)
  })
}

test('the byte limit is checked before anything is read', async () => {
  const limits = { ...IMAGE_LIMITS, bytesMax: 10 }
  await assert.rejects(decodeImage(new Uint8Array(11), limits), hasCode('IMAGE_TOO_MANY_BYTES'))
})

test('a PNG of 30,000 × 30,000 pixels is refused by its header, quickly', async () => {
  const started = performance.now()
  const refused = hasCode('IMAGE_TOO_MANY_PIXELS')
  await assert.rejects(decodeImage(pngHeader(30_000, 30_000), IMAGE_LIMITS), refused)
  assert.ok(performance.now() - started < 2_000)
})

test('a GIF whose canvas is larger than what libvips makes of it is held to the limit too', async () => {
  const { base64 } = readFixture<Case>('gif.jsonl').find(({ name }) => name === 'screen.gif')!
  const limits = { ...IMAGE_LIMITS, pixelsMax: 640 * 480 - 1 }
  const refused = decodeImage(Buffer.from(base64, 'base64'), limits)
  await assert.rejects(refused, hasCode('IMAGE_TOO_MANY_PIXELS'))
})

test('decoding that takes too long is given up', async () => {
  const noise = { type: 'gaussian' as const, mean: 128, sigma: 60 }
  const create = { width: 4000, height: 4000, channels: 3 as const, background: 'red', noise }
  const bytes = await sharp({ create }).png({ compressionLevel: 1 }).toBuffer()
  const limits = { ...IMAGE_LIMITS, bytesMax: bytes.length, timeMsMax: 2 }
  await assert.rejects(decodeImage(bytes, limits), hasCode('IMAGE_TIMEOUT'))
})

test('formats that were not measured against Pillow are refused by name', async () => {
  const create = { width: 8, height: 8, channels: 3 as const, background: 'red' }
  const tiff = await sharp({ create }).tiff().toBuffer()
  await assert.rejects(decodeImage(tiff, IMAGE_LIMITS), hasCode('IMAGE_UNDECODABLE'))
  const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
  await assert.rejects(decodeImage(svg, IMAGE_LIMITS), hasCode('IMAGE_UNDECODABLE'))
})

/** A PNG that announces its size and stops in its first pixels. */
function pngHeader(width: number, height: number): Buffer {
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
    const frame = Buffer.alloc(8)
    frame.writeUInt32BE(data.length, 0)
    frame.writeUInt32BE(crc32(body), 4)
    return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)])
  }
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0])
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  const magic = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  const pixels = chunk('IDAT', deflateSync(Buffer.alloc(1000)))
  return Buffer.concat([magic, chunk('IHDR', header), pixels])
}

function crc32(bytes: Uint8Array): number {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

const TRUNCATED: [string, RegExp | null][] = [
  ['jpg-noeoi.jpg', /truncated: it ends at byte 13428 without an end marker/],
  ['jpg-trunc10.jpg', /truncated: it ends at byte 13420 without an end marker/],
  ['jpg-trunchalf.jpg', /truncated: it ends at byte 6715 without an end marker/],
  ['png-adler.png', /cannot be decoded/],
  ['png-short.png', null],
]
/** SHA-256 of the RGB that Pillow makes of each under LOAD_TRUNCATED_IMAGES. */
const FILLED: Record<string, string> = {
  'jpg-noeoi.jpg': '5ffcedbb',
  'jpg-trunc10.jpg': '8f6cecb3',
  'jpg-trunchalf.jpg': '07579b85',
  'png-adler.png': '5296ab8e',
  'png-short.png': '8b45bcb6',
}

for (const [name, message] of TRUNCATED) {
  test(`${name} is ${message === null ? 'read' : 'refused'} as Pillow does, and filled where that is asked for`, async t => {
    const file = shared(t, 'cases/truncated', name)
    if (file === undefined) return
    const bytes = readFileSync(file)
    const decoded = decodeImage(bytes, IMAGE_LIMITS)
    if (message === null) assert.equal(sha256((await decoded).data).slice(0, 8), FILLED[name])
    else await assert.rejects(decoded, message)
    const { data } = await decodeImage(bytes, { ...IMAGE_LIMITS, truncated: 'fill' })
    assert.equal(sha256(data).slice(0, 8), FILLED[name])
  })
}

const SVG =
  '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'
const OTHERS: [string, string | Buffer, RegExp][] = [
  ['an SVG', SVG, /its format is SVG/],
  ['an SVG behind the first bytes of a GIF', `GIF89a${SVG}`, /cannot be decoded/],
  ['a table', '1,2,3\n4,5,6\n', /first bytes are 312c/],
  ['nothing', '', /it is empty/],
]

for (const [what, content, message] of OTHERS) {
  test(`${what} is refused by its first bytes`, () =>
    assert.rejects(decodeImage(Buffer.from(content), IMAGE_LIMITS), message))
}

test('sharp reads no other format in this process, as picture or as thumbnail', async () => {
  await assert.rejects(decodeImage(Buffer.from(SVG), IMAGE_LIMITS))
  await assert.rejects(sharp(Buffer.from(SVG)).metadata())
  const tiff = sharp({ create: { width: 2, height: 2, channels: 3, background: 'red' } }).tiff()
  const bytes = await tiff.toBuffer()
  await assert.rejects(sharp(bytes).metadata())
  await assert.rejects(thumbnail(bytes, 8, IMAGE_LIMITS), hasCode('IMAGE_UNDECODABLE'))
})

test('every loader of the installed libvips but the four is blocked', () => {
  const readable = Object.entries(sharp.format).filter(
    ([, { input }]) => input.buffer || input.file,
  )
  const known = ['jpeg', 'png', 'webp', 'gif', 'tiff', 'svg', 'heif', 'vips', 'raw']
  assert.deepEqual(
    readable.map(([name]) => name).filter(name => !known.includes(name)),
    [],
  )
})

test('the pixels of an example are counted over its images, by the header', async () => {
  const bytes = await sharp({ create: { width: 40, height: 30, channels: 3, background: 'red' } })
    .png()
    .toBuffer()
  const limits = { ...IMAGE_LIMITS, examplePixelsMax: 2000 }
  assert.equal((await decodeImage(bytes, limits, 800)).width, 40)
  await assert.rejects(decodeImage(bytes, limits, 801), hasCode('IMAGE_TOO_MANY_PIXELS'))
})
