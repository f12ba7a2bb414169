import assert from 'node:assert/strict'
import test from 'node:test'
import { readTrajectoryLines, type Trajectories } from '../../src/cluster/trajectories.ts'
import { XmasdError } from '../../src/errors.ts'
import { encodeDirection } from '../../src/math/vectors.ts'
import { checkLabels, type Pool, parseArm, selectArm, signalsOf } from '../../src/study/arms.ts'
import { labelsOf, splitByPicture } from '../../src/study/data.ts'

const SOURCES = ['many', 'many', 'many', 'many', 'many', 'many', 'few', 'few']
const COUNT = 160

const labels = Array.from({ length: COUNT }, (_, i) => ({
  source: SOURCES[i % SOURCES.length]!,
  fault: i % 5 === 0 ? 'swapped' : undefined,
  length: i % 8 < 4 ? 20 : 200,
}))

/** Two well separated groups, later examples less steady. */
async function trajectories(): Promise<Trajectories> {
  const lines = labels.map((_, i) =>
    JSON.stringify({
      id: `e${i}`,
      trajectory: [i % 4 === 0 ? 9 : 1, 1 + i / 1000],
      singularValues: [0, 1].map(() => [5, i % 4 === 0 ? 4 : 2, 1, 0, 0]),
      embedding: encodeDirection([1, i % 4 === 0 ? 0 : 9, 3]),
      question: encodeDirection([1, i % 4 === 0 ? 9 : 0]),
      gain: i % 5 === 0 ? -1 : i,
    }),
  )
  return readTrajectoryLines(
    (async function* () {
      yield* lines
    })(),
    'pool',
    { signatures: ['sum', 'question', 'joint'] },
  )
}

async function pool(): Promise<Pool> {
  return { labels, passes: new Map([['reference', await trajectories()]]), clusters: 2, seed: 1 }
}

test('every arm takes the budget, the same under the same seed, and nothing twice', async () => {
  for (const name of ['random', 'length', 'source', 'source+clean', 'sum']) {
    const taken = selectArm(await pool(), parseArm(name), 10)
    assert.equal(taken.length, COUNT / 10, name)
    assert.equal(new Set(taken).size, taken.length, name)
    assert.deepEqual(selectArm(await pool(), parseArm(name), 10), taken, name)
  }
  assert.equal(selectArm(await pool(), parseArm('full'), 10).length, COUNT)
  const other = { ...(await pool()), seed: 2 }
  const random = parseArm('random')
  assert.notDeepEqual(selectArm(other, random, 10), selectArm(await pool(), random, 10))
})

test('arms balance what their name says', async () => {
  const countOf = async (name: string, is: (i: number) => boolean) =>
    selectArm(await pool(), parseArm(name), 10).filter(is).length
  assert.equal(await countOf('source', i => labels[i]!.source === 'few'), COUNT / 20)
  assert.equal(await countOf('source+clean', i => labels[i]!.fault !== undefined), 0)
  assert.equal(await countOf('length', i => labels[i]!.length === 20), COUNT / 20)
  for (const name of ['sum', 'question', 'joint']) {
    assert.equal(await countOf(name, i => i % 4 === 0), COUNT / 20, name)
  }
  const lacking = selectArm.bind(null, await pool(), parseArm('embedding'), 10)
  assert.throws(lacking, { code: 'DATA_INVALID', message: /lack embedding/ })
})

test('the paper rule keeps the steadiest of each cluster', async () => {
  const taken = selectArm(await pool(), parseArm('sum'), 10)
  const others = taken.filter(i => i % 4 !== 0).sort((a, b) => a - b)
  assert.deepEqual(others, [1, 2, 3, 5, 6, 7, 9, 10])
})

test('+random keeps as many of each cluster, whichever they are', async () => {
  const counts = (taken: readonly number[]): number[] =>
    [0, 1, 2, 3].map(cluster => taken.filter(i => i % 4 === cluster).length).toSorted()
  const steadiest = selectArm(await pool(), parseArm('sum'), 10)
  const drawn = selectArm(await pool(), parseArm('sum+random'), 10)
  assert.deepEqual(selectArm(await pool(), parseArm('sum+random'), 10), drawn)
  assert.deepEqual(counts(drawn), counts(steadiest))
  assert.notDeepEqual(drawn.toSorted(), steadiest.toSorted())
})

test('gain ranks the highest first, both the highest and steadiest, and aligned leaves out what the picture misleads', async () => {
  const best = selectArm(await pool(), parseArm('random+gain'), 10)
  assert.deepEqual(best.slice(0, 4), [159, 158, 157, 156])
  const both = await pool()
  const { gain, instability } = both.passes.get('reference')!
  const order = (i: number): number => instability[i]! * Math.exp(-gain[i]!)
  const lowest = labels.map((_, i) => i).sort((a, b) => order(a) - order(b))
  assert.deepEqual(selectArm(both, parseArm('random+both'), 10), lowest.slice(0, COUNT / 10))
  const aligned = selectArm(await pool(), parseArm('sum+aligned'), 50)
  assert.equal(aligned.filter(i => i % 5 === 0).length, 0)
  assert.ok(aligned.length > 0)
})

test('an arm names the passes that it needs; one that does not exist is refused', () => {
  assert.deepEqual(signalsOf(parseArm('random')), [])
  assert.deepEqual(signalsOf(parseArm('random+dedup')), ['reference'])
  assert.deepEqual(signalsOf(parseArm('loss+dedup')), ['reference', 'loss'])
  assert.deepEqual(signalsOf(parseArm('length+gain')), ['reference'])
  for (const name of ['nonsense', 'sum+nonsense', '']) {
    assert.throws(() => parseArm(name), { code: 'CONFIG_INVALID' }, name)
  }
})

test('an arm that reads labels is refused where there are none', () => {
  const bare = [{ source: 'all', fault: undefined, length: 1 }]
  checkLabels([parseArm('sum')], bare)
  for (const name of ['source', 'random+clean']) {
    assert.throws(() => checkLabels([parseArm(name)], bare), XmasdError, name)
  }
})

function record(id: string, images: string[], source?: string): Uint8Array {
  const marks = images.map(() => '<image>').join('')
  const conversations = [
    { from: 'human', value: `${marks}\nWhat?` },
    { from: 'gpt', value: 'that' },
  ]
  return Buffer.from(JSON.stringify({ id, images, source, conversations }))
}

test('no picture is in the pool and held out, and about the share that is asked for is', () => {
  const values = Array.from({ length: 300 }, (_, i) => {
    const pictures = [`p${i % 100}.png`, ...(i % 10 === 0 ? [`p${(i + 7) % 100}.png`] : [])]
    return record(`e${i}`, pictures)
  })
  const parts = splitByPicture(values, 1, 20)
  const picturesOf = (some: readonly Uint8Array[]): Set<string> =>
    new Set(some.flatMap(value => JSON.parse(Buffer.from(value).toString()).images as string[]))
  const [inPool, out] = [picturesOf(parts.pool), picturesOf(parts.heldOut)]
  assert.equal([...inPool].filter(name => out.has(name)).length, 0)
  assert.ok(out.size > 8 && out.size < 35, `${out.size}`)
  assert.deepEqual(splitByPicture(values, 1, 20), parts)
  assert.notDeepEqual(splitByPicture(values, 2, 20), parts)
  assert.throws(() => splitByPicture(values, 1, 0), { code: 'DATA_INVALID' })
})

test('labels are the source, the fault and the length without marks of pictures', () => {
  assert.deepEqual(labelsOf(record('a', ['x.png'], 'count')), {
    source: 'count',
    fault: undefined,
    length: '\nWhat?'.length + 'that'.length,
  })
  assert.equal(labelsOf(record('a', ['x.png'])).source, 'all')
})

test('data of which most cannot be read are refused with the first reason', () => {
  const values = Array.from({ length: 20 }, (_, i) => Buffer.from(JSON.stringify({ id: `e${i}` })))
  assert.throws(() => splitByPicture(values, 1, 20), {
    code: 'DATA_INVALID',
    message: /^20 of 20 examples cannot be read; the first: conversations is undefined/,
    hint: /conversations or messages/,
  })
})
