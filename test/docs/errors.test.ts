import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { ERROR_CODES } from '../../src/errors.ts'
import { ROOT } from '../support.ts'

test('docs/errors.md has one row for every error code and no other', () => {
  const text = readFileSync(join(ROOT, 'docs/errors.md'), 'utf8')
  const documented = [...text.matchAll(/^\| `([A-Z0-9_]+)` \|/gm)].map(([, code]) => code)
  assert.deepEqual([...documented].sort(), [...ERROR_CODES].sort())
})
