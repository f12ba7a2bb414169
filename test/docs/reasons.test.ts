import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { REASONS_OF } from '../../src/record.ts'
import { ROOT } from '../support.ts'

test('docs/selection.md explains every reason of every action and no other', () => {
  const text = readFileSync(join(ROOT, 'docs/selection.md'), 'utf8')
  const rows = text.matchAll(/^\| (`[a-z`, ]+`) \| `([a-z_]+)` \|/gm)
  const explained = [...rows].flatMap(([, actions, reason]) =>
    actions!.split(', ').map(action => `${action.replaceAll('`', '')} ${reason}`),
  )
  const real = Object.entries(REASONS_OF).flatMap(([action, reasons]) =>
    reasons.map(reason => `${action} ${reason}`),
  )
  assert.deepEqual(explained.sort(), real.sort())
})
