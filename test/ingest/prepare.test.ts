import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import type { ErrorCode } from '../../src/errors.ts'
import { IMAGE_LIMITS } from '../../src/ingest/image/pixels.ts'
import { identify } from '../../src/ingest/prepare.ts'
import { TEMPLATES } from '../../src/ingest/template.ts'
import { readTensors } from '../goldens.ts'
import { shared, temporaryFolder } from '../support.ts'
import { hasCode, readFixture, type SquareOptions, sameBytes, squarePreparer } from './fixtures.ts'

type Stored = { name: string; base64: string }

const NO_STAGES = {
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
}

/** A tokenizer of single letters, an 8-pixel SigLIP processor, and images with and without faults. */
function smallOptions(t: TestContext): SquareOptions {
  const folder = temporaryFolder(t)
  const imageRoot = join(folder, 'images')
  mkdirSync(imageRoot)
  for (const { name, base64 } of readFixture<Stored>('images.jsonl')) {
    writeFileSync(join(imageRoot, name), Buffer.from(base64, 'base64'))
  }
  const gif = readFixture<Stored>('animated.jsonl').find(({ name }) => name === 'gif')!
  writeFileSync(join(imageRoot, 'animated.gif'), Buffer.from(gif.base64, 'base64'))
  const vocab = Object.fromEntries(
    ['<unk>', ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)), '\n'].map(
      (letter, id) => [letter, id],
    ),
  )
  const model = { type: 'BPE', vocab, merges: [], unk_token: '<unk>', byte_fallback: false }
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ model, ...NO_STAGES }))
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}')
  const processor = {
    image_processor_type: 'SiglipImageProcessor',
    size: { height: 8, width: 8 },
  }
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(processor))
  return {
    imageRoot,
    limits: IMAGE_LIMITS,
    hosts: [],
    addressesAllowed: [],
    checkpointDir: folder,
    template: TEMPLATES.llama!,
    imageTokens: 4,
    imageTokenId: -200,
    lengthMax: 400,
    imageSize: 8,
    patchSize: 4,
    aspect: 'square',
  }
}

function example(image: string | undefined, question = '<image>\nWhat?', id = 'a'): Buffer {
  const conversations = [
    { from: 'human', value: question },
    { from: 'gpt', value: 'A cat.' },
  ]
  return Buffer.from(JSON.stringify({ id, image, conversations }))
}

for (const set of ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']) {
  test(`every example of ${set} becomes the golden sequence and patches`, async t => {
    const folder = shared(t, 'goldens', set)
    if (folder === undefined) return
    const golden = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
    const tensors = readTensors(join(folder, 'expected.safetensors'))
    const checkpointDir = join(folder, golden.checkpoints[0])
    const { vision_config } = JSON.parse(readFileSync(join(checkpointDir, 'config.json'), 'utf8'))
    const options: SquareOptions = {
      ...smallOptions(t),
      imageRoot: folder,
      checkpointDir,
      template: golden.template,
      imageTokens: golden.image_tokens,
      imageTokenId: golden.image_token_id,
      lengthMax: golden.max_length ?? 2048,
      imageSize: vision_config.image_size,
      patchSize: vision_config.patch_size,
    }
    const preparer = squarePreparer(structuredClone(options))
    const data = JSON.parse(readFileSync(join(folder, 'data.json'), 'utf8'))
    for (const expected of golden.examples) {
      const value = Buffer.from(JSON.stringify(data[expected.index]))
      const { id, truncated, sequence } = await preparer.prepare(value)
      assert.equal(id, String(expected.id))
      if (!expected.has_image) assert.equal(sequence, null)
      else {
        assert.deepEqual([...sequence!.ids], expected.input_ids)
        assert.equal(sequence!.rows[0], expected.text_rows[0])
        assert.equal(truncated, expected.length < expected.length_untruncated)
        const pixels = tensors.get(`pixel_values.${expected.index}`)
        const sorted = (data: Float32Array) => Float32Array.from(data).sort()
        // The patches are the pixel values in another order, which has its own test.
        if (pixels) {
          const all = sorted(pixels.data as Float32Array)
          assert.ok(sameBytes(sorted(sequence!.images[0]!.patches), all))
        }
      }
    }
  })
}

test('the key is the id and the content: another id, another key; the same content, the same hash', async t => {
  const preparer = squarePreparer(smallOptions(t))
  const a = await preparer.prepare(example('rgb.png'))
  const b = await preparer.prepare(example('rgb.png', '<image>\nWhat?', 'b'))
  const again = await preparer.prepare(example('profile.png'))
  const other = await preparer.prepare(example('grey.png'))
  assert.equal(a.key, `a@${a.content.slice(0, 16)}`)
  assert.equal(b.key, `b@${a.content.slice(0, 16)}`)
  assert.equal(again.content, a.content)
  assert.notEqual(other.content, a.content)
  assert.equal(again.sequence?.images[0]?.hash, a.sequence?.images[0]?.hash)
})

test('identify gives the key that prepare gives, without a proxy', async t => {
  const options = smallOptions(t)
  const prepared = await squarePreparer(options).prepare(example('rgb.png'))
  const source = { ...options, root: options.imageRoot }
  const { key, content } = await identify(example('rgb.png'), source, () => undefined)
  assert.deepEqual({ key, content }, { key: prepared.key, content: prepared.content })
})

test('a text-only example has an identity and no sequence', async t => {
  const prepared = await squarePreparer(smallOptions(t)).prepare(example(undefined, 'Hi'))
  assert.equal(prepared.sequence, null)
  assert.equal(prepared.truncated, false)
})

test('several images are prepared in their order, and one too many is refused', async t => {
  const options = smallOptions(t)
  const { prepare } = squarePreparer(options)
  const several = (...image: string[]): Buffer => {
    const conversations = [
      { from: 'human', value: `${'<image>'.repeat(image.length)}Which?` },
      { from: 'gpt', value: 'None.' },
    ]
    return Buffer.from(JSON.stringify({ id: 'a', image, conversations }))
  }
  const { sequence, content } = await prepare(several('rgb.png', 'grey.png', 'rgb.png'))
  const { columns, rows, images, ids } = sequence!
  assert.equal(columns.length, 3 * 4)
  assert.deepEqual([rows[0], rows.at(-1)], [columns.at(-1)! + 2, ids.length - 1])
  const [rgb] = (await prepare(example('rgb.png'))).sequence!.images
  const [grey] = (await prepare(example('grey.png'))).sequence!.images
  assert.deepEqual(images, [rgb, grey, rgb])
  assert.notEqual((await prepare(several('grey.png', 'rgb.png', 'rgb.png'))).content, content)
  const one = squarePreparer({ ...options, limits: { ...options.limits, countMax: 2 } })
  await assert.rejects(one.prepare(several('a', 'b', 'c')), hasCode('IMAGES_TOO_MANY'))
})

test('a 1 × 1 image is scored as any other', async t => {
  const { sequence } = await squarePreparer(smallOptions(t)).prepare(example('one-pixel.png'))
  const [image] = sequence!.images
  assert.equal(image?.patches.length, 4 * 3 * 16)
  assert.ok(image.patches.every(Number.isFinite))
})

test('text over the model’s length is cut and said to be', async t => {
  const prepare = squarePreparer({ ...smallOptions(t), lengthMax: 180 }).prepare
  const { sequence, truncated } = await prepare(example('rgb.png', `<image>${'x'.repeat(500)}`))
  assert.equal(sequence?.ids.length, 180)
  assert.equal(sequence.rows.at(-1), 179)
  assert.equal(truncated, true)
})

test('an example without a text row left is refused', async t => {
  const { prepare } = squarePreparer({ ...smallOptions(t), lengthMax: 20 })
  await assert.rejects(prepare(example('rgb.png')), hasCode('NO_TEXT_ROWS'))
})

const BAD: [string, Buffer, ErrorCode][] = [
  ['not JSON', Buffer.from('{'), 'NOT_JSON'],
  ['another placeholder', example('rgb.png', '<|image|>What?'), 'IMAGE_WITHOUT_PLACEHOLDER'],
  ['no image', example(undefined), 'PLACEHOLDER_WITHOUT_IMAGE'],
  ['an image outside', example('../tokenizer.json'), 'IMAGE_OUTSIDE_ROOT'],
  ['a missing image', example('none.png'), 'IMAGE_NOT_FOUND'],
  ['text for an image', example('text.png'), 'IMAGE_UNDECODABLE'],
  ['an empty image', example('empty.png'), 'IMAGE_UNDECODABLE'],
  ['a truncated JPEG', example('cut-50-q90-444.jpg'), 'IMAGE_UNDECODABLE'],
  ['an animated GIF', example('animated.gif'), 'IMAGE_ANIMATED'],
  ['a loopback URL', example('http://127.0.0.1/a.png'), 'IMAGE_ADDRESS_FORBIDDEN'],
  ['a data: URL of text', example('data:,hello'), 'IMAGE_UNDECODABLE'],
]

test('each bad example has its code, and the good ones around them are prepared', async t => {
  const preparer = squarePreparer(smallOptions(t))
  for (const [what, value, code] of BAD) {
    await assert.rejects(preparer.prepare(value), hasCode(code), what)
    assert.ok((await preparer.prepare(example('rgb.png'))).sequence)
  }
})

test('limits on bytes and pixels reach the image', async t => {
  const options = smallOptions(t)
  const few = { ...options, limits: { ...IMAGE_LIMITS, pixelsMax: 100 } }
  const short = { ...options, limits: { ...IMAGE_LIMITS, bytesMax: 100 } }
  const value = example('rgb.png')
  await assert.rejects(squarePreparer(few).prepare(value), hasCode('IMAGE_TOO_MANY_PIXELS'))
  await assert.rejects(squarePreparer(short).prepare(value), hasCode('IMAGE_TOO_MANY_BYTES'))
})

test('a processor that does not fit the vision tower, and a bad range, stop the start', t => {
  const options = smallOptions(t)
  assert.throws(() => squarePreparer({ ...options, imageSize: 16 }), hasCode('PROXY_INVALID'))
  const ranges = { ...options, addressesAllowed: ['nonsense'] }
  assert.throws(() => squarePreparer(ranges), hasCode('CONFIG_INVALID'))
})
