/** Images whose path is spelled otherwise than the file: found where only one file can be meant. */
import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { readFileBelow } from '../../../src/ingest/fetch/file.ts'
import { IMAGE_LIMITS } from '../../../src/ingest/image/pixels.ts'
import { temporaryFolder } from '../../support.ts'
import { hasCode } from '../fixtures.ts'

const NAMES = ['p0.png', 'a b.png', 'cafe\u0301.png', 'Two.png', 'two.PNG', '100%.png']

function images(t: test.TestContext) {
  const folder = temporaryFolder(t)
  const root = join(folder, 'root')
  mkdirSync(join(root, 'Sub'), { recursive: true })
  for (const name of [...NAMES, 'Sub/p0.png', '../secret.png'])
    writeFileSync(join(root, name), name)
  symlinkSync(join(folder, 'secret.png'), join(root, 'Link.png'))
  const notes: string[] = []
  const source = {
    root,
    limits: IMAGE_LIMITS,
    hosts: [],
    addressesAllowed: [],
    onOtherName: (note: string) => void notes.push(note),
  }
  const read = async (path: string) => Buffer.from(await readFileBelow(path, source)).toString()
  return { read, notes }
}

test('a path in another spelling is the one file that it can mean, and is noted', async t => {
  const { read, notes } = images(t)
  const found = [
    ['sub\\p0.png', 'Sub/p0.png'],
    ['Sub\\P0.png', 'Sub/p0.png'],
    ['a%20b.png', 'a b.png'],
    ['caf\u00e9.png', 'cafe\u0301.png'],
    ['caf%C3%A9.png', 'cafe\u0301.png'],
    ['P0.PNG', 'p0.png'],
    ['100%.PNG', '100%.png'],
  ] as const
  for (const [path, file] of found) assert.equal(await read(path), file, path)
  assert.equal(notes.length, found.length)
  assert.match(notes[2]!, /there is no image "?a%20b\.png"?; "?a b\.png"? was read instead/)
})

test('an exact path is read as it is, without a note', async t => {
  const { read, notes } = images(t)
  for (const name of NAMES) assert.equal(await read(name), name)
  assert.deepEqual(notes, [])
})

test('a spelling of several files, of none, or of one outside the root is refused', async t => {
  const { read } = images(t)
  for (const path of [
    'TWO.png',
    'p1.png',
    'no/p0.png',
    '..%2fsecret.png',
    'p0.png/x',
    'x'.repeat(300),
  ]) {
    await assert.rejects(read(path), hasCode('IMAGE_NOT_FOUND'), path)
  }
  for (const path of ['../SECRET.png', 'LINK.png']) {
    await assert.rejects(read(path), hasCode('IMAGE_OUTSIDE_ROOT'), path)
  }
})
