import assert from 'node:assert/strict'
import test from 'node:test'
import { differenceOf, recordedIdentity, type ScoreIdentity } from '../../src/score/identity.ts'

const preparation = {
  prompt: 'USER: a ASSISTANT: b</s>',
  tokenizer: 'f00',
  images: '{"mean":[0.5]}',
}
const scores = {
  schedule: { fingerprint: 'abc', steps: [1, 2] },
  mode: 'reference',
  metric: 'attention',
  precision: 'float32',
  preparation,
}
const identity = recordedIdentity(scores)

test('every field that decides a score is compared, and both values of it are named', () => {
  const others: [change: Partial<ScoreIdentity>, one: RegExp, other: RegExp][] = [
    [{ checkpoints: '3' }, /^2 checkpoints$/, /^3 checkpoints$/],
    [{ schedule: 'def' }, /^schedule abc$/, /^schedule def$/],
    [{ metric: 'loss' }, /^metric attention$/, /^metric loss$/],
    [{ mode: 'paper' }, /^mode reference$/, /^mode paper$/],
    [{ gain: 'on' }, /^gain off$/, /^gain on$/],
    [{ precision: 'bfloat16' }, /^precision float32$/, /^precision bfloat16$/],
    [{ tokenizer: 'f01' }, /^tokenizer f00$/, /^tokenizer f01$/],
    [{ images: '{"mean":[0.4]}' }, /^images ".*0\.5/, /^images ".*0\.4/],
    [
      { prompt: 'USER: a ASSISTANT: b<|im_end|>' },
      /^prompt ".*<\/s>"$/,
      /^prompt ".*<\|im_end\|>"$/,
    ],
  ]
  for (const [change, one, other] of others) {
    const difference = differenceOf(identity, { ...identity, ...change })
    assert.match(difference!.one, one)
    assert.match(difference!.other, other)
  }
  assert.equal(differenceOf(identity, { ...identity }), undefined)
})

test('a field that one side does not know equals anything', () => {
  const old = recordedIdentity({ schedule: { fingerprint: null, T: 2 }, mode: null })
  const known = { checkpoints: '2', metric: 'attention', precision: 'float32', gain: 'off' }
  assert.deepEqual(old, known)
  assert.equal(differenceOf(old, identity), undefined)
  assert.equal(differenceOf(identity, old), undefined)
})
