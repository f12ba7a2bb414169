import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { isTextOnly, namesOf, uniqueIds } from '../../src/cluster/interchange.ts'
import { shared } from '../support.ts'

test('unique ids are id::image, id alone for text-only, numbered where they repeat', () => {
  const ids = uniqueIds([
    { id: 'a', image: 'x.png' },
    { id: 'a' },
    { id: 7, image: ['x.png', 'y.png'] },
    { id: 'a', image: 'x.png' },
    { id: 'b', image: '' },
    { id: 'a', image: 'x.png' },
  ])
  const repeated = ['a::x.png#0', 'a::x.png#1', 'a::x.png#2']
  assert.deepEqual(ids, [repeated[0], 'a', '7::x.png,y.png', repeated[1], 'b', repeated[2]])
})

test('ids that the data has itself count', () => {
  const own = [
    { id: 'a', image: 'x.png', unique_idx: 'first' },
    { id: 'a', image: 'x.png', unique_idx: 'second' },
  ]
  assert.deepEqual(uniqueIds(own), ['first', 'second'])
})

test('an example that is none has no names, and one without an image is text-only', () => {
  assert.deepEqual(namesOf(Buffer.from('{"id":')), { id: undefined })
  const named = namesOf(Buffer.from('{"id": 3, "image": null, "conversations": []}'))
  assert.deepEqual([named.id, isTextOnly(named)], [3, true])
})

for (const set of ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']) {
  test(`the unique ids of ${set} equal the goldens`, t => {
    const folder = shared(t, 'goldens', set)
    if (folder === undefined) return
    const { examples } = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
    const data = JSON.parse(readFileSync(join(folder, 'data.json'), 'utf8'))
    assert.deepEqual(
      uniqueIds(data),
      examples.map(({ unique_id }: { unique_id: string }) => unique_id),
    )
  })
}
