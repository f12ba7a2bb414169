import assert from 'node:assert/strict'
import test from 'node:test'
import type { Turn } from '../../src/ingest/form/example.ts'
import { contentHash, imageHash } from '../../src/ingest/prepare.ts'
import { drawPixels } from './fixtures.ts'

const turns = (...values: string[]): Turn[] =>
  values.map((text, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', text }))

test('the same content hashes alike however it is written', () => {
  const one = contentHash(turns('Où est\nle café?', 'Ici.'), [])
  assert.equal(contentHash(turns('  Ou\u0300 est\r\nle cafe\u0301?\n', ' Ici. '), []), one)
  assert.match(one, /^[0-9a-f]{64}$/)
})

test('different conversations, images and image shapes hash apart', () => {
  const image = imageHash(drawPixels(1, 2, 3))
  const turned = imageHash({ ...drawPixels(1, 2, 3), width: 3, height: 2 })
  const hashes = [
    contentHash(turns('a', 'b'), []),
    contentHash(turns('a', 'b'), [image]),
    contentHash(turns('a', 'b'), [turned]),
    contentHash(turns('a', 'b'), [imageHash(drawPixels(2, 2, 3))]),
    contentHash(turns('a', 'b'), [image, turned]),
    contentHash(turns('a', 'b'), [turned, image]),
    contentHash(turns('a', 'b'), [image, image]),
    contentHash(turns('ab', ''), []),
    contentHash(turns('a","b', 'b'), []),
    contentHash(turns('a', 'b', 'c', 'd'), []),
    contentHash(turns('A', 'b'), []),
  ]
  assert.equal(new Set(hashes).size, hashes.length)
})

test('the hash is stable: keys on the log depend on it', () => {
  assert.equal(
    contentHash(turns('Hi', 'Hello'), []),
    '8544a65060cbb6b87b73ef4e5697ee07191b53e8aa49d89694975ccef112b267',
  )
  assert.equal(
    contentHash(turns('<image>\nHi', 'Hello'), [imageHash(drawPixels(1, 2, 3))]),
    '2f83642fa86f67d25b849e207aae6c23fdaa54d360aecfeab7f8c6b05acfa2aa',
  )
})
