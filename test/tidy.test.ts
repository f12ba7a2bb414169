import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import test from 'node:test'
import { ROOT } from './support.ts'

const SRC = join(ROOT, 'src')
const FUNCTION_LINES_MAX = 70
const FILE_LINES_MAX = 350
/** Stages in the order of the flow; what runs them comes last. */
const STAGES = [
  'observe',
  'log',
  'ingest',
  'proxy',
  'engine',
  'score',
  'train',
  'demo',
  'cluster',
  'select',
  'role',
  'report',
  'command',
]

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts'))
  .map(name => ({ name, text: readFileSync(join(SRC, name), 'utf8') }))

test('a stage never imports a later one', () => {
  const stageOf = (name: string): number => STAGES.indexOf(name.split('/')[0]!)
  for (const { name, text } of files.filter(file => file.name.includes('/'))) {
    assert.ok(stageOf(name) >= 0, `${name} is in no stage`)
    for (const [, target] of text.matchAll(/from '(\.[^']+)'/g)) {
      const imported = relative(SRC, join(SRC, dirname(name), target!))
      assert.ok(stageOf(imported) <= stageOf(name), `${name} imports ${imported}`)
    }
  }
})

test(`functions have at most ${FUNCTION_LINES_MAX} lines, files ${FILE_LINES_MAX}`, () => {
  for (const { name, text } of files) {
    const lines = text.split('\n')
    assert.ok(lines.length <= FILE_LINES_MAX, `${name} has ${lines.length} lines`)
    for (const [start, line] of lines.entries()) {
      const indent =
        /^(\s*)(?:export )?(?:async )?(?:function\b|(?:static |get |set |async )*\*?#?\w+(?:<[^>]*>)?\(.*\{$)/.exec(
          line,
        )?.[1]
      if (indent === undefined) continue
      const end = lines.findIndex((other, i) => i > start && other === `${indent}}`)
      assert.ok(
        end - start < FUNCTION_LINES_MAX,
        `${name}:${start + 1} has ${end - start + 1} lines`,
      )
    }
  }
})
