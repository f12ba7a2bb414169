import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sizeDependence } from '../../src/cluster/size-dependence.ts'

test("rank correlations with ties are Pearson's of mean ranks, and null where nothing varies", () => {
  const tokens = [64, 64, 128, 256, 64, 512]
  const sizes = tokens.map((imageTokens, i) => ({ imageTokens, textRows: 7, pixels: 100 - i ** 2 }))
  const score = [1, 2, 3, 9, 2, 8]
  const [byTokens, byRows, byPixels] = sizeDependence(sizes, {
    score,
    instability: [3, 3, 3, 3, 3, 3],
  })
  assert.ok(Math.abs(byTokens!.score! - 0.893259600269) < 1e-12, String(byTokens!.score))
  assert.deepEqual(byTokens!.instability, null)
  assert.deepEqual([byRows!.score, byRows!.instability], [null, null])
  assert.ok(Math.abs(byPixels!.score! + 0.637748139218) < 1e-12, String(byPixels!.score))
})
