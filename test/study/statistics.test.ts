import assert from 'node:assert/strict'
import test from 'node:test'
import type { Run } from '../../src/study/runs.ts'
import { intervalOf, judge, sentenceOf } from '../../src/study/statistics.ts'

const OPTIONS = { measure: 'exact', worth: 3 } as const

function run(seed: number, arm: string, percent: number, exact: Record<string, number>): Run {
  const families = Object.fromEntries(
    Object.entries(exact).map(([name, share]) => [
      name,
      { examples: 10, exact: share, tokens: share, loss: 1 - share },
    ]),
  )
  const about = { v: 1, settings: 's', data: 'd', pool: 100, selected: percent } as const
  return { ...about, seed, arm, percent, faults: {}, families, seconds: 1 }
}

/** Seeds of a full target at 0.8 and 0.4, random at a quarter of that, an arm at `over` points more. */
function study(over: readonly number[]): Run[] {
  return over.flatMap((points, i) => {
    const of = (share: number) => ({ a: 0.8 * share, b: 0.4 * share })
    return [
      run(i, 'full', 100, of(1)),
      run(i, 'random', 10, of(0.25)),
      run(i, 'sum', 10, of(0.25 + points / 100)),
    ]
  })
}

test('relative performance is the mean over families, each relative to the targets of everything', () => {
  const { cells } = judge(study([5, 5, 5]), OPTIONS)
  const means = Object.fromEntries(cells.map(({ arm, relative }) => [arm, relative.mean]))
  assert.ok(Math.abs(means.full! - 100) < 1e-9)
  assert.ok(Math.abs(means.random! - 25) < 1e-9)
  assert.ok(Math.abs(means.sum! - 30) < 1e-9)
})

test('a family that targets of everything never answer is left out', () => {
  const runs = study([5, 5, 5]).map(one => ({
    ...one,
    families: { ...one.families, hopeless: { examples: 10, exact: 0, tokens: 0, loss: 9 } },
  }))
  assert.ok(Math.abs(judge(runs, OPTIONS).cells[0]!.relative.mean - 25) < 1e-9)
})

test('where targets of everything answer nothing, the sentence says so and gives no number', () => {
  const runs = study([5, 5, 5]).map(one => ({ ...one, families: {} }))
  assert.match(sentenceOf(judge(runs, OPTIONS), 'sum', 10), /^Nothing can be compared: .*--steps/)
})

test('of the loss, less is better', () => {
  const { cells } = judge(study([5, 5, 5]), { measure: 'loss', worth: 3 })
  const of = (arm: string) => cells.find(cell => cell.arm === arm)!.relative.mean
  assert.ok(of('full') > of('sum') && of('sum') > of('random'))
})

test('the verdict follows from the interval of paired differences', () => {
  const verdictOf = (over: number[]) =>
    judge(study(over), OPTIONS).cells.find(({ arm }) => arm === 'sum')!.difference!
  assert.equal(verdictOf([5, 6, 7, 5, 6]).verdict, 'pays')
  assert.equal(verdictOf([0.5, -0.5, 0, 1, -1]).verdict, 'does not pay')
  assert.equal(verdictOf([9, -8, 4, 12, -3]).verdict, 'not enough seeds to tell')
  assert.equal(verdictOf([9]).verdict, 'not enough seeds to tell')
  assert.equal(verdictOf([9]).seedsWanted, undefined)
})

test('the seeds that are wanted find the difference with a probability of 80 %', () => {
  const spread = Array.from({ length: 30 }, (_, i) => (i % 2 === 0 ? 6 : -6))
  const { difference } = judge(study(spread), OPTIONS).cells.find(({ arm }) => arm === 'sum')!
  // n = ((1.96 + 0.84) * sd / worth)^2 with sd = 6 * sqrt(30 / 29)
  assert.equal(difference!.seedsWanted, Math.ceil((2.801585 * 6 * Math.sqrt(30 / 29)) ** 2 / 9))
})

test('fewer than three seeds give no number of seeds that would do', () => {
  const { difference } = judge(study([1, 1.2]), OPTIONS).cells.find(({ arm }) => arm === 'sum')!
  assert.equal(difference!.seedsWanted, undefined)
  const sentence = sentenceOf(judge(study([1, 1.2]), OPTIONS), 'sum', 10)
  assert.match(sentence, /no interval from 2 seeds\); at least 3 are needed/)
})

test('targets of everything that answer as one answer for all would are cautioned against', () => {
  const withCommon = (common: number) =>
    study([5, 5, 5]).map(one => ({
      ...one,
      families: Object.fromEntries(
        Object.entries(one.families).map(([name, family]) => [name, { ...family, common }]),
      ),
    }))
  const learned = judge(withCommon(0.1), OPTIONS)
  assert.equal(learned.caution, undefined)
  const { caution } = judge(withCommon(0.6), OPTIONS)
  assert.match(caution!, /give 60\.0 % of .* alone gives 60\.0 %\. .*raise --steps/)
  assert.equal(judge(withCommon(0.6), { measure: 'tokens', worth: 3 }).caution, undefined)
  assert.equal(judge(study([5, 5, 5]), OPTIONS).caution, undefined, 'files of earlier releases')
})

test('intervals cover the mean of small normal samples about as often as they say', () => {
  let covered = 0
  const rounds = 60
  let state = 1
  const uniform = (): number => {
    state = (state * 48271) % 2147483647
    return state / 2147483647
  }
  const deviate = (): number =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
  for (let i = 0; i < rounds; i++) {
    const { low, high } = intervalOf(Array.from({ length: 5 }, deviate))
    if (low <= 0 && high >= 0) covered++
  }
  assert.ok(covered >= 0.85 * rounds, `${covered} of ${rounds}`)
})

test('the sentence says what was found, from how many seeds, and how many would do', () => {
  const say = (over: number[]) => sentenceOf(judge(study(over), OPTIONS), 'sum', 10)
  assert.match(say([5, 6, 7, 5, 6]), /^Selecting by `sum` at 10 % pays: \+5\.8 points .* 5 seeds/)
  assert.match(say([0.5, -0.5, 0, 1, -1]), /does not pay: .*random is as good to within 3 points/)
  assert.match(say([9, -8, 4, 12, -3]), /^Not enough seeds to tell .*about \d+ would tell/)
  assert.match(say([9]), /no interval from 1 seed\); at least 3 are needed/)
  assert.match(sentenceOf(judge([], OPTIONS), 'sum', 10), /^There is no comparison/)
})
