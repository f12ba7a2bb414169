/**
 * Random records, images, URLs and texts through one preparer: each is prepared or an XmasdError, soon.
 * Runs with a fixed seed and a fresh one, which the output names; XMASD_TEST_FUZZ_MS sets for how long.
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import fc from 'fast-check'
import sharp from 'sharp'
import { XmasdError } from '../../src/errors.ts'
import { IMAGE_LIMITS } from '../../src/ingest/image/pixels.ts'
import { hostileRecords } from '../e2e/hostile.ts'
import { temporaryFolder } from '../support.ts'
import { demoPreparer } from './fixtures.ts'

const FUZZ_MS = Number(process.env.XMASD_TEST_FUZZ_MS ?? 4_000)
/** Processor time of one call on at most 1 MB. */
const CPU_MS_MAX = 1_000
const FIXED_SEED = 20_261_129

const HOSTILE = hostileRecords()
  .map(({ bytes }) => bytes)
  .filter(bytes => bytes.length < 50_000)

const word = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 6 }),
  fc.constantFrom(
    '<image>',
    '</s>',
    '<|im_end|>',
    ' ',
    '\n',
    '.',
    "'",
    '-',
    'a',
    '1',
    '\u0301',
    '的',
  ),
)
/** Text of a few words, one of them perhaps very often. */
const text = fc.oneof(
  fc.array(word, { maxLength: 8 }).map(words => words.join('')),
  fc.tuple(word, fc.integer({ min: 1, max: 20_000 }), word).map(([a, n, b]) => a.repeat(n) + b),
)
const url = fc.oneof(
  fc.webUrl({ withQueryParameters: true, withFragments: true }),
  fc
    .tuple(
      fc.constantFrom(
        'data:',
        'data:image/png;base64,',
        'http://',
        'https://[',
        'file:',
        '../',
        '/',
      ),
      text,
    )
    .map(parts => parts.join('')),
  text,
)
const turn = fc.record({
  from: fc.oneof(fc.constantFrom('human', 'gpt', 'system'), fc.string()),
  value: fc.oneof(text, fc.jsonValue()),
})
const dialog = fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 40 }).map(pairs =>
  pairs.flatMap(([question, answer]) => [
    { from: 'human', value: question },
    { from: 'gpt', value: answer },
  ]),
)

/** Bytes of a good file with some of them changed, or cut. */
function damaged(files: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const change = fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 }))
  return fc
    .tuple(fc.constantFrom(...files), fc.array(change, { maxLength: 6 }), fc.nat({ max: 8 }))
    .map(([file, changes, cut]) => {
      const bytes = Buffer.from(file.subarray(0, cut === 0 ? file.length >> 1 : file.length))
      // The headers are at the front: half of the changes go there.
      for (const [i, [at, value]] of changes.entries())
        bytes[at % (i % 2 === 0 ? 64 : bytes.length)] = value
      return bytes
    })
}

async function goodFiles(): Promise<Buffer[]> {
  const noise = Buffer.from(Array.from({ length: 24 * 18 * 3 }, (_, i) => (i * i * 31) & 255))
  const image = () => sharp(noise, { raw: { width: 24, height: 18, channels: 3 } })
  return Promise.all([
    image().png().toBuffer(),
    image().jpeg().toBuffer(),
    image().jpeg({ progressive: true }).toBuffer(),
    image().webp().toBuffer(),
    image().webp({ lossless: true }).toBuffer(),
    image().gif().toBuffer(),
  ])
}

/** Records as bytes: examples of random parts, JSON of any kind, hostile records with bytes changed. */
function records(files: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const picture = damaged(files).map(bytes => `data:image/png;base64,${bytes.toString('base64')}`)
  const marked = dialog.map(turns =>
    turns.map((one, i) => (i === 0 ? { ...one, value: `<image>${one.value}` } : one)),
  )
  const id = fc.oneof(fc.string({ minLength: 1 }), fc.integer(), fc.jsonValue())
  const asBytes = (value: unknown) => Buffer.from(JSON.stringify(value))
  return fc.oneof(
    fc.record({ id, conversations: dialog }).map(asBytes),
    fc.record({ id, image: picture, conversations: marked }).map(asBytes),
    fc.record({ id, image: fc.oneof(url, fc.array(url)), conversations: marked }).map(asBytes),
    fc
      .record({ id, image: fc.jsonValue(), conversations: fc.array(turn), extra: fc.jsonValue() })
      .map(asBytes),
    fc.json().map(json => Buffer.from(json)),
    fc.uint8Array({ maxLength: 200 }).map(bytes => Buffer.from(bytes)),
    damaged(HOSTILE),
  )
}

for (const seed of [FIXED_SEED, Date.now() % 2 ** 31]) {
  test(`random records are prepared or refused in time, seed ${seed}`, async t => {
    t.diagnostic(`seed ${seed}`)
    const imageRoot = temporaryFolder(t)
    writeFileSync(join(imageRoot, 'a.png'), 'no image')
    const preparers = [true, false].map(answers =>
      demoPreparer({
        imageRoot,
        limits: { ...IMAGE_LIMITS, pixelsMax: 1_000_000, timeMsMax: 60_000 },
        answers,
      }),
    )
    let runs = 0
    const property = fc.asyncProperty(records(await goodFiles()), async bytes => {
      const before = process.cpuUsage()
      await preparers[runs++ % 2]!.prepare(bytes).catch((error: unknown) => {
        assert.ok(error instanceof XmasdError, String((error as Error).stack))
        assert.ok(error.message.length < 2_000 && error.hint.length > 0)
      })
      const { user, system } = process.cpuUsage(before)
      assert.ok((user + system) / 1000 < CPU_MS_MAX, `${(user + system) / 1000} ms`)
    })
    const limits = { interruptAfterTimeLimit: FUZZ_MS / 2, markInterruptAsFailure: false }
    await fc.assert(property, { seed, numRuns: 10_000_000, endOnFailure: true, ...limits })
    assert.ok(runs > 5, `${runs} runs`)
  })
}
