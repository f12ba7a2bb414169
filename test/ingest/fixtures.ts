/** What the tests of the ingest stage share: fixtures written by Pillow, pixels drawn alike on both sides. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ErrorCode, XmasdError } from '../../src/errors.ts'
import type { Rgb } from '../../src/ingest/image/pixels.ts'
import { createPreparer, type Preparer, type PreparerOptions } from '../../src/ingest/prepare.ts'
import { TEMPLATES } from '../../src/ingest/template.ts'
import type { ProxyConfig } from '../../src/proxy/config.ts'
import { squarePictures } from '../../src/proxy/family/pictures.ts'
import { ROOT } from '../support.ts'

/** For a proxy that takes squares of `imageSize`. */
export type SquareOptions = PreparerOptions & {
  imageSize: number
  patchSize: number
  aspect: 'square' | 'pad'
}

export function squarePreparer({
  imageSize,
  patchSize,
  aspect,
  ...options
}: SquareOptions): Preparer {
  const { checkpointDir, imageTokens } = options
  const config = { vision: { imageSize, patchSize }, aspect, imageTokens } as ProxyConfig
  const pictures = squarePictures(config, checkpointDir)
  return createPreparer(options, pictures)
}

/** Prepares for the demo's proxy, images from `imageRoot` alone. */
export function demoPreparer(
  options: Pick<PreparerOptions, 'imageRoot' | 'limits' | 'answers'>,
): Preparer {
  return squarePreparer({
    ...options,
    hosts: [],
    addressesAllowed: [],
    checkpointDir: join(ROOT, 'config/demo/proxy/checkpoint-100'),
    template: TEMPLATES.llama!,
    imageTokens: 9,
    imageTokenId: 1,
    lengthMax: 2048,
    imageSize: 56,
    patchSize: 8,
    aspect: 'square',
  })
}

/** The rows of a fixture that test/fixtures/make-pillow.py wrote. */
export function readFixture<T>(name: string): T[] {
  const lines = readFileSync(join(ROOT, 'test/fixtures', name), 'utf8')
    .trim()
    .split('\n')
  return lines.map(line => JSON.parse(line) as T)
}

/** The top bytes of xorshift32, as `pixels` in make-pillow.py draws them. */
export function drawPixels(seed: number, width: number, height: number): Rgb {
  const data = new Uint8Array(width * height * 3)
  let x = seed
  for (let i = 0; i < data.length; i++) {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    data[i] = x >>> 24
  }
  return { width, height, data }
}

export function sha256(data: Uint8Array | Float32Array): string {
  return createHash('sha256').update(data).digest('hex')
}

/** For assert.rejects and assert.throws: an XmasdError of this code with something to do in its hint. */
export function hasCode(code: ErrorCode): (error: unknown) => boolean {
  return error => {
    assert.ok(error instanceof XmasdError, String(error))
    assert.equal(error.code, code, error.message)
    assert.ok(error.hint.length > 10)
    return true
  }
}

/** Are two typed arrays the same bytes. */
export function sameBytes(a: NodeJS.TypedArray, b: NodeJS.TypedArray): boolean {
  const bytes = (of: NodeJS.TypedArray) => Buffer.from(of.buffer, of.byteOffset, of.byteLength)
  return bytes(a).equals(bytes(b))
}
