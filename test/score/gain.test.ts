import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ENGINES } from '../../src/engine/engine.ts'
import { seededRandom } from '../../src/math/random.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { type ProxyConfig, patchesPerImage } from '../../src/proxy/config.ts'
import { type Sequence, sequenceKey, withoutImages } from '../../src/score/batch.ts'
import { METRICS } from '../../src/score/metric.ts'
import { loadScorer, type Scored, type ScorerOptions } from '../../src/score/scorer.ts'
import { randomSequence, writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'
import { referenceLoss } from './reference.ts'

/** In nats: float32 against float64. */
const TOLERANCE = 1e-5

/** Sequences whose pictures leave nothing behind; the fourth has no answers. */
function sequences(config: ProxyConfig): Sequence[] {
  const random = seededRandom(4)
  const patchValues = patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2
  return Array.from({ length: 5 }, (_, i) => {
    const shape = { before: 3 + i, after: 4 + 3 * i, imageTokens: config.imageTokens, patchValues }
    const sequence = randomSequence(random, { ...shape, images: 1 + (i % 2) })
    const isImage = new Set(sequence.columns)
    const kept = Array.from(sequence.ids.keys()).filter(at => !isImage.has(at))
    const answers = i === 3 ? new Int32Array(0) : sequence.answers
    const bare = {
      ids: Int32Array.from(kept, at => sequence.ids[at]!),
      answers: Int32Array.from(answers, at => kept.indexOf(at)),
    }
    return { ...sequence, answers, bare }
  })
}

function gainsOf(scored: Scored): number[] | null | undefined {
  assert.ok(!('error' in scored), JSON.stringify(scored))
  return scored.gains
}

async function scoreAll(
  options: Omit<ScorerOptions, 'mode' | 'threads'>,
  passes: readonly (readonly Sequence[])[],
): Promise<Scored[]> {
  const scorer = await loadScorer({ mode: 'reference', threads: 1, ...options })
  const scored = await scorer.score(passes)
  await scorer.close()
  return scored
}

for (const engine of ENGINES) {
  for (const metric of METRICS) {
    test(`gains are the naive float64 losses' differences, ${metric}, ${engine}`, async t => {
      const dir = temporaryFolder(t)
      const weights = writeTinyProxy(dir, { reach: 'logits' })
      const schedule = openSchedule(dir, 'logits')
      const all = sequences(schedule.config)
      const batch = metric === 'loss' ? all.filter(one => one.answers.length > 0) : all
      const each = await scoreAll({ schedule, engine, metric, gain: 'each' }, [batch])
      const last = await scoreAll({ schedule, engine, metric, gain: true }, [batch])
      for (const [i, sequence] of batch.entries()) {
        const bare = withoutImages(sequence)
        const exact =
          bare === undefined
            ? null
            : weights.map(
                w =>
                  referenceLoss(w, schedule.config, bare) -
                  referenceLoss(w, schedule.config, sequence),
              )
        const found = gainsOf(each[i]!)
        assert.equal(found?.length, exact?.length)
        for (const [t, gain] of (found ?? []).entries()) {
          assert.ok(Math.abs(gain - exact![t]!) <= TOLERANCE, `${gain} is not ${exact![t]}`)
        }
        assert.deepEqual(gainsOf(last[i]!), found?.slice(-1) ?? null)
      }
    })
  }
}

test('a batch gives to the last bit the gain that every example has alone', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { reach: 'logits' })
  const schedule = openSchedule(dir, 'logits')
  const batch = sequences(schedule.config)
  const options = { schedule, gain: true }
  const together = await scoreAll(options, [batch])
  const alone = batch.map(sequence => [sequence])
  assert.deepEqual(await scoreAll(options, alone), together)
  assert.deepEqual(await scoreAll(options, [batch.slice(0, 2), batch.slice(2)]), together)
})

test('scores are the same with gains and without', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { reach: 'logits' })
  const schedule = openSchedule(dir, 'logits')
  const batch = sequences(schedule.config)
  const scored = await scoreAll({ schedule, gain: true }, [batch])
  const rest = scored.map(one => ({ ...one, gains: undefined }))
  const plain = await scoreAll({ schedule }, [batch])
  assert.deepEqual(
    rest,
    plain.map(one => ({ ...one, gains: undefined })),
  )
})

test('examples that differ without their pictures alone are not one', () => {
  const [first] = sequences({
    imageTokens: 3,
    vision: { imageSize: 4, patchSize: 4 },
  } as ProxyConfig)
  const { bare } = first!
  const other = { ...first!, bare: { ...bare!, ids: Int32Array.of(1, 2, 3) } }
  assert.notEqual(sequenceKey(first!), sequenceKey(other))
  assert.equal(sequenceKey(first!), sequenceKey({ ...first! }))
})
