import assert from 'node:assert/strict'
import test from 'node:test'
import { type DemoRecord, demoExamples, demoStream } from '../../src/demo/stream.ts'

async function take(seed: number, count: number): Promise<DemoRecord[]> {
  const records: DemoRecord[] = []
  for await (const record of demoStream({ seed })) if (records.push(record) === count) break
  return records
}

test('the same seed gives the same stream, another seed another one', async () => {
  const [a, b, c] = [await take(1, 60), await take(1, 60), await take(2, 60)]
  assert.deepEqual(a, b)
  assert.notDeepEqual(a, c)
})

test('the stream holds duplicates, redeliveries, broken records and text-only examples', async () => {
  const records = (await take(3, 1_000)).map(({ value }) => Buffer.from(value).toString())
  const copies = records.filter(value => value.includes('"id":"copy-')).length
  const broken = records.filter(value => /"id": ?"broken-/.test(value)).length
  const repeated = records.length - new Set(records).size
  const textOnly = records.filter(
    value => value.includes('What is') && value.includes(' plus '),
  ).length
  for (const [count, least, most] of [
    [copies, 25, 80],
    [broken, 3, 25],
    [repeated, 8, 40],
    [textOnly, 30, 100],
  ] as const) {
    assert.ok(count >= least && count <= most, `${count} is not in ${least}..${most}`)
  }
})

test('training examples are sound and each stands once', async () => {
  const examples = await demoExamples(5, 200)
  assert.equal(new Set(examples.map(one => JSON.stringify(one))).size, 200)
})

test('night skies come in the stream, each another one, and in no training example', async () => {
  const isNight = (text: string): boolean => text.includes('night sky')
  const records = (await take(4, 500)).map(({ value }) => Buffer.from(value).toString())
  const nights = records.filter(isNight)
  assert.equal(nights.length, 6)
  assert.equal(new Set(nights).size, 6)
  assert.ok(records.findIndex(isNight) < 60)
  assert.equal((await demoExamples(5, 200)).filter(one => isNight(JSON.stringify(one))).length, 0)
})
