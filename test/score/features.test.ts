import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { HostTensor } from '../../src/engine/engine.ts'
import type { Image } from '../../src/score/batch.ts'
import { createFeatureCache } from '../../src/score/features.ts'

const SIZE = 6
const BYTES = SIZE * 4

/** A "tower" whose features are the image's number and its own. */
function towerOf(
  tower: number,
  asked: string[],
): (images: readonly Image[]) => Promise<HostTensor[]> {
  return async images => {
    asked.push(...images.map(({ hash }) => `${tower} ${hash}`))
    return images.map(({ hash }) => {
      const data = new Float32Array(SIZE).fill(100 * tower + Number(hash))
      return { data, shape: [2, 3] }
    })
  }
}

function imageOf(hash: number): Image {
  return { hash: String(hash), patches: new Float32Array(1) }
}

test('features are those of each image and tower, in order, however small the cache', async () => {
  const asks = fc.array(
    fc.tuple(fc.nat(1), fc.uniqueArray(fc.nat(8), { minLength: 1, maxLength: 6 })),
    { maxLength: 20 },
  )
  await fc.assert(
    fc.asyncProperty(asks, fc.nat(10), async (rounds, room) => {
      const cache = createFeatureCache(room * BYTES)
      for (const [tower, hashes] of rounds) {
        const images = hashes.map(imageOf)
        const { data, shape } = await cache.stacked(tower, images, towerOf(tower, []))
        assert.deepEqual(shape, [1, 2 * hashes.length, 3])
        const expected = hashes.flatMap(hash => Array<number>(SIZE).fill(100 * tower + hash))
        assert.deepEqual([...data], expected)
      }
    }),
  )
})

test('an image that is known is not computed again, the least recently used is forgotten', async () => {
  const cache = createFeatureCache(2 * BYTES)
  const asked: string[] = []
  const ask = (tower: number, ...hashes: number[]): Promise<HostTensor> =>
    cache.stacked(tower, hashes.map(imageOf), towerOf(tower, asked))
  await ask(0, 1, 2)
  await ask(0, 2, 1)
  assert.deepEqual(asked.splice(0), ['0 1', '0 2'])
  await ask(0, 1, 3) // 2 is forgotten
  await ask(0, 1)
  assert.deepEqual(asked.splice(0), ['0 3'])
  await ask(0, 2)
  await ask(1, 1)
  assert.deepEqual(asked.splice(0), ['0 2', '1 1'])
})
