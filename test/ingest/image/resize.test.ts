import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { cropped, type Resample, resize } from '../../../src/ingest/image/resize.ts'
import { drawPixels, readFixture, sameBytes, sha256 } from '../fixtures.ts'

type Case = {
  seed: number
  from: [number, number]
  to: [number, number]
  resample: Resample
  sha256: string
}

test('every filter gives the bytes that Pillow gives, up and down, one-pixel sides included', () => {
  for (const { seed, from, to, resample, sha256: expected } of readFixture<Case>('resize.jsonl')) {
    const image = drawPixels(seed, ...from)
    const { width, height, data } = resize(image, { width: to[0], height: to[1], resample })
    assert.deepEqual([width, height], to)
    assert.equal(sha256(data), expected, `${from} -> ${to}, filter ${resample}`)
  }
})

test('a crop of the resize is the resize, cropped', () => {
  const side = fc.integer({ min: 1, max: 40 })
  const share = fc.double({ min: 0, max: 1, noNaN: true })
  const sizes = fc.tuple(side, side, side, side, share, share, share, share)
  fc.assert(
    fc.property(sizes, fc.constantFrom<Resample>(0, 1, 2, 3), (drawn, resample) => {
      const [fromWidth, fromHeight, width, height, a, b, c, d] = drawn
      const image = drawPixels(width * 41 + height, fromWidth, fromHeight)
      const left = Math.floor(a * (width - 1))
      const top = Math.floor(b * (height - 1))
      const crop = {
        left,
        top,
        width: 1 + Math.floor(c * (width - left - 1)),
        height: 1 + Math.floor(d * (height - top - 1)),
      }
      const whole = resize(image, { width, height, resample })
      const part = resize(image, { width, height, resample, crop })
      assert.ok(sameBytes(part.data, cropped(whole, crop).data))
    }),
    { numRuns: 300 },
  )
})

test('a crop outside the resized image is a programmer error', () => {
  const image = drawPixels(1, 4, 4)
  const crop = { left: 1, top: 0, width: 3, height: 3 }
  assert.throws(() => resize(image, { width: 3, height: 3, resample: 3, crop }), RangeError)
})
