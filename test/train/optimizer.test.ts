import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import {
  ADAMW,
  adamwStep,
  clipGradients,
  isDecayed,
  learningRateAt,
  newMoments,
} from '../../src/train/train.ts'

const numbers = fc.array(fc.double({ min: -10, max: 10, noNaN: true }), {
  minLength: 1,
  maxLength: 6,
})

test('a step is the published one, written naively in float64', () => {
  fc.assert(
    fc.property(numbers, numbers, fc.boolean(), (gradients, start, decays) => {
      const values = Float32Array.of(start[0]!)
      const moments = newMoments(1)
      let [theta, m, v] = [values[0]!, 0, 0]
      for (const [i, g] of gradients.entries()) {
        adamwStep(values, [g], moments, { ...ADAMW, learningRate: 0.1, decays })
        const t = i + 1
        if (decays) theta -= 0.1 * ADAMW.weightDecay * theta
        m = ADAMW.beta1 * m + (1 - ADAMW.beta1) * g
        v = ADAMW.beta2 * v + (1 - ADAMW.beta2) * g ** 2
        const corrected = v / (1 - ADAMW.beta2 ** t)
        theta -= (0.1 * (m / (1 - ADAMW.beta1 ** t))) / (Math.sqrt(corrected) + ADAMW.epsilon)
        assert.ok(Math.abs(values[0]! - theta) <= 1e-5 * (1 + Math.abs(theta)))
      }
    }),
  )
})

test('matrices decay; biases and norms do not', () => {
  assert.equal(isDecayed([3, 4]), true)
  assert.equal(isDecayed([4]), false)
})

test('the rate rises in a line to its peak and falls in a cosine to nothing', () => {
  const rate = (step: number): number =>
    learningRateAt(step, { peak: 1, steps: 110, warmupSteps: 10 })
  assert.deepEqual([rate(0), rate(4), rate(9)], [0.1, 0.5, 1])
  assert.equal(rate(10), 1)
  assert.ok(Math.abs(rate(60) - 0.5) < 1e-12)
  assert.ok(rate(109) < 0.001)
})

test('gradients over the limit are scaled together to it, others stay', () => {
  const [a, b] = [Float32Array.of(3, 0), Float32Array.of(4)]
  assert.equal(clipGradients([a, b], 10), 5)
  assert.deepEqual([...a, ...b], [3, 0, 4])
  assert.equal(clipGradients([a, b], 1), 5)
  assert.ok(Math.abs(Math.hypot(...a, ...b) - 1) < 1e-6)
})
