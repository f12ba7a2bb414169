import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { decodeImage, IMAGE_LIMITS } from '../../src/ingest/image.ts'
import { readTensors } from '../goldens.ts'
import { shared } from '../support.ts'
import { hasCode, readFixture, sameBytes, sha256 } from './fixtures.ts'

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
