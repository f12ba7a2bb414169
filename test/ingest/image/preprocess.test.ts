import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { IMAGE_LIMITS, type Rgb } from '../../../src/ingest/image/pixels.ts'
import {
  normalise,
  patches,
  preprocess,
  readImageProcessor,
  resizeAndCrop,
} from '../../../src/ingest/image/preprocess.ts'
import { readTensors } from '../../goldens.ts'
import { shared, temporaryFolder } from '../../support.ts'
import { drawPixels, hasCode, readFixture, sameBytes, sha256 } from '../fixtures.ts'

type Case = { seed: number; from: [number, number]; config: object; sha256: string }

const square = { aspect: 'square' } as const

function folderWith(t: TestContext, config: unknown, name = 'preprocessor_config.json'): string {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, name), typeof config === 'string' ? config : JSON.stringify(config))
  return folder
}

test('pixel values equal Hugging Face processors, bit for bit, crops larger than the image too', t => {
  for (const { seed, from, config, sha256: expected } of readFixture<Case>('preprocess.jsonl')) {
    const processor = readImageProcessor(folderWith(t, config), square)
    const values = preprocess(drawPixels(seed, ...from), processor, IMAGE_LIMITS)
    assert.equal(sha256(values), expected, `${from} by ${JSON.stringify(config)}`)
  }
})

for (const set of ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']) {
  test(`resized bytes and pixel values of ${set} equal the goldens, padded ones too`, t => {
    const folder = shared(t, 'goldens', set)
    if (folder === undefined) return
    const tensors = readTensors(join(folder, 'expected.safetensors'))
    const { checkpoints } = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
    const checkpoint = join(folder, checkpoints[0])
    const plain = readImageProcessor(checkpoint, square)
    const padding = readImageProcessor(checkpoint, { aspect: 'pad' })
    let compared = 0
    for (const [name, { shape, data }] of tensors) {
      const [kind, index] = name.split('.')
      const golden = tensors.get(`rgb.${index}`)
      if (golden === undefined) continue
      const [height = 0, width = 0] = golden.shape
      const image: Rgb = { width, height, data: golden.data as Uint8Array }
      const processor = kind === 'pixel_values_pad' ? padding : plain
      const resized = resizeAndCrop(image, processor, IMAGE_LIMITS)
      if (kind === 'resized_u8') assert.ok(sameBytes(planar(resized), data), name)
      else if (kind?.startsWith('pixel_values')) {
        assert.deepEqual([3, resized.height, resized.width], shape)
        assert.ok(sameBytes(normalise(resized, processor), data), name)
      } else continue
      compared++
    }
    assert.ok(compared >= 12)
  })
}

function planar({ width, height, data }: Rgb): Uint8Array {
  const plane = width * height
  return Uint8Array.from(
    { length: 3 * plane },
    (_, i) => data[(i % plane) * 3 + Math.floor(i / plane)]!,
  )
}

test('patches go row by row, channel-major within a patch', () => {
  const values = Float32Array.from({ length: 3 * 4 * 4 }, (_, i) => i)
  assert.deepEqual(
    [...patches(values, { width: 4, height: 4 }, 2).subarray(0, 24)],
    [0, 1, 4, 5, 16, 17, 20, 21, 32, 33, 36, 37, 2, 3, 6, 7, 18, 19, 22, 23, 34, 35, 38, 39],
  )
})

test('a 1 × 1 image becomes one flat colour', t => {
  const processor = readImageProcessor(folderWith(t, siglip(8)), square)
  const values = preprocess(drawPixels(5, 1, 1), processor, IMAGE_LIMITS)
  assert.equal(new Set(values.subarray(0, 64)).size, 1)
})

test('an image that would grow past the pixel limit is refused before it grows', t => {
  const clip = { image_processor_type: 'CLIPImageProcessor', size: { shortest_edge: 56 } }
  const processor = readImageProcessor(folderWith(t, clip), square)
  const limits = { pixelsMax: 1_000_000 }
  const thin = drawPixels(1, 1, 10_000)
  assert.throws(() => resizeAndCrop(thin, processor, limits), hasCode('IMAGE_TOO_MANY_PIXELS'))
  const padding = { ...processor, aspect: 'pad' as const }
  assert.throws(() => resizeAndCrop(thin, padding, limits), hasCode('IMAGE_TOO_MANY_PIXELS'))
})

test('older and newer spellings of a processor mean the same', t => {
  const read = (config: unknown, name?: string) =>
    readImageProcessor(folderWith(t, config, name), square)
  const modern = read({
    image_processor_type: 'CLIPImageProcessor',
    size: { shortest_edge: 56 },
    crop_size: { height: 56, width: 56 },
  })
  const ancient = { feature_extractor_type: 'CLIPFeatureExtractor', size: 56, crop_size: 56 }
  assert.deepEqual(read(ancient), modern)
  const fast = { image_processor_type: 'CLIPImageProcessorFast', size: 56, crop_size: 56 }
  assert.deepEqual(read({ image_processor: fast }, 'processor_config.json'), modern)
})

test('a missing, broken or foreign processor is an error with its own code', t => {
  const read = (folder: string) => () => readImageProcessor(folder, square)
  assert.throws(read(temporaryFolder(t)), hasCode('PROXY_INVALID'))
  assert.throws(read(folderWith(t, '{')), hasCode('PROXY_INVALID'))
  assert.throws(read(folderWith(t, { ...siglip(8), resample: 9 })), hasCode('PROXY_INVALID'))
  const other = { ...siglip(8), image_processor_type: 'ViTImageProcessor' }
  assert.throws(read(folderWith(t, other)), hasCode('PROXY_UNSUPPORTED'))
})

test('a size with a key whose meaning varies is refused, and the key named', t => {
  const read = (size: unknown, own: object = {}) =>
    readImageProcessor(folderWith(t, { ...siglip(8), ...own, size }), square)
  const both = { shortest_edge: 8, longest_edge: 9 }
  const refused: [size: object, key: string][] = [
    [both, 'longest_edge'],
    [{ longest_edge: 9 }, 'longest_edge'],
    [{ max_height: 8, max_width: 8 }, 'max_height'],
    [{ min_pixels: 8, max_pixels: 8 }, 'min_pixels'],
    [{ height: 8, width: 8, longest_edge: 9 }, 'longest_edge'],
    [{ shortest_edge: 8, height: 8, width: 8 }, 'height'],
  ]
  for (const [size, key] of refused) {
    assert.throws(() => read(size), hasCode('PROXY_UNSUPPORTED'))
    assert.throws(() => read(size), new RegExp(`a size with ${key}`))
  }
  for (const size of [{}, { height: 8 }, { shortest_edge: 0 }]) {
    assert.throws(() => read(size), hasCode('PROXY_INVALID'))
  }
  const absent = { shortest_edge: 8, longest_edge: null, height: null }
  assert.deepEqual(read(absent).size, { shortestEdge: 8 })
  assert.equal(read(both, { do_resize: false }).size, null)
})

function siglip(side: number): Record<string, unknown> {
  return { image_processor_type: 'SiglipImageProcessor', size: { height: side, width: side } }
}
