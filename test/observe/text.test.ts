import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import test from 'node:test'
import { shellWord } from '../../src/observe/text.ts'

test('a printed word is read by a shell as what it was', () => {
  assert.equal(shellWord('./data/v1.2/train+dev.jsonl'), './data/v1.2/train+dev.jsonl')
  for (const word of [
    '',
    'my data',
    "it's",
    '$HOME/`id`',
    'a;b',
    '"',
    '~/x',
    '*',
    'a\nb',
    'größe',
  ]) {
    const read = execFileSync('sh', ['-c', `printf %s ${shellWord(word)}`])
    assert.equal(read.toString(), word)
  }
})
