import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Compared, judgeSignatures } from '../../src/cluster/compare.ts'
import { explainedSize } from '../../src/cluster/size-dependence.ts'
import { seededRandom } from '../../src/math/random.ts'
import { smallClustersWarning } from '../../src/select/rule/quotas.ts'

const isSmall = (sizes: readonly number[]): boolean => smallClustersWarning(sizes) !== undefined
const of = (
  signature: Compared['signature'],
  stability: number,
  more: Partial<Compared> = {},
): Compared => ({ signature, stability, sizes: [50, 50], explained: null, ...more })

test('the verdict is the most stable signature, the simplest where others are hardly more stable', () => {
  const clear = judgeSignatures([of('sum', 0.4), of('spectrum', 0.7), of('question', 0.6)], isSmall)
  assert.equal(clear.take, 'spectrum')
  assert.match(
    clear.reasons.join('\n'),
    /most stable .*\(0\.70\)\nnot sum \(0\.40\).*\nnot question/,
  )
  const close = judgeSignatures([of('sum', 0.4), of('spectrum', 0.69), of('joint', 0.7)], isSmall)
  assert.equal(close.take, 'spectrum')
  assert.match(close.reasons[0]!, /about as stable .*0\.69, 0\.70.*simplest/)
})

test('clusters of one size, small or unstable ones are not taken, unless all have as many faults', () => {
  const bySize = of('sum', 0.9, { explained: { size: 'textRows', share: 0.8 } })
  const small = of('spectrum', 0.8, { sizes: [...Array(20).fill(2), 60] })
  const found = judgeSignatures([bySize, small, of('embedding', 0.3)], isSmall)
  assert.equal(found.take, 'embedding')
  assert.match(found.reasons.join('\n'), /not sum \(0\.90\): .*mostly follow text rows \(0\.80\)/)
  assert.match(found.reasons.join('\n'), /not spectrum \(0\.80\): .*too small/)
  const none = judgeSignatures([bySize, of('spectrum', 0.1)], isSmall)
  assert.equal(none.take, 'sum')
  assert.match(
    none.reasons.join('\n'),
    /\nbut .*text rows.*\nnot spectrum \(0\.10\): .*other seeds/,
  )
})

test('clusters explain the size that they follow, and nothing by chance', () => {
  const random = seededRandom(3)
  const sizes = Array.from({ length: 400 }, (_, i) => ({
    imageTokens: 64,
    textRows: 10 * (i % 4) + Math.floor(4 * random()),
    pixels: Math.floor(1e6 * random()),
  }))
  const followed = explainedSize(
    sizes,
    sizes.map((_, i) => i % 4),
  )!
  assert.equal(followed.size, 'textRows')
  assert.ok(followed.share > 0.9 && followed.share < 1, String(followed.share))
  const chance = explainedSize(
    sizes,
    sizes.map(() => Math.floor(40 * random())),
  )!
  assert.ok(Math.abs(chance.share) < 0.1, String(chance.share))
  const equal = [1, 2].map(() => ({ imageTokens: 64, textRows: 8, pixels: 100 }))
  assert.equal(explainedSize(equal, [0, 1]), null)
  // Ranks 0 1 2 3 in clusters a a b b: 16/20 between, corrected by 3/2.
  const ranked = [1, 2, 3, 4].map(textRows => ({ imageTokens: 64, textRows, pixels: 100 }))
  assert.ok(Math.abs(explainedSize(ranked, [0, 0, 1, 1])!.share - (1 - 0.2 * 1.5)) < 1e-12)
})
