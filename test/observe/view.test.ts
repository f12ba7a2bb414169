import assert from 'node:assert/strict'
import test from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import { renderWindow, type Snapshot } from '../../src/observe/view.ts'

const NOW: Snapshot = {
  title: 'xmasd watch · http://127.0.0.1:9464 · revisable · bundle dbf09e348c95',
  health: 'ready: every check passes',
  ...{ examples: 123_456, ratePerSecond: 512, deadLetters: 7, duplicates: 801, redelivered: 12 },
  ...{ kept: 24_691, history: 123_456, percent: 20 },
  decisions: { keep: 25_000, drop: 98_000, evict: 600, restore: 291 },
  clusters: Array.from({ length: 40 }, (_, i) => ({
    cluster: i,
    size: 4_000 - 90 * i,
    quota: 300,
  })),
  recent: Array.from({ length: 30 }, (_, i) => ({
    ...{ action: 'drop', reason: 'over_quota', id: `e${i}` },
    question: `what is number ${i}?\u001b[2J`,
  })),
}

const linesOf = (columns: number, rows: number, now = NOW): string[] =>
  stripVTControlCharacters(renderWindow(now, columns, rows)).split('\n')

test('a window of 60 by 15 holds every figure and the largest clusters', () => {
  const lines = linesOf(60, 14)
  assert.ok(lines.length <= 14, `${lines.length} rows`)
  for (const line of lines) assert.ok([...line].length <= 60, line)
  const text = lines.join('\n')
  for (const part of [
    'ready',
    '123456 decided',
    '24691 of 123456',
    'restore 291',
    ' 300 of 4000',
  ]) {
    assert.ok(text.includes(part), part)
  }
})

test('a tall window holds more clusters, a wide one decisions beside them', () => {
  const clusters = (lines: string[]): number => lines.filter(line => / 300 of /.test(line)).length
  const [small, tall] = [linesOf(60, 20), linesOf(60, 50)]
  assert.ok(clusters(tall) > clusters(small))
  assert.equal(tall.length, 50)
  const wide = linesOf(160, 24)
  assert.ok(wide.length <= 24)
  assert.ok(wide.some(line => / 300 of .*drop .*e\d+ .*others fill/.test(line)))
  for (const line of wide) assert.ok([...line].length <= 160, line)
})

test('text from outside cannot act on the terminal', () => {
  assert.ok(!renderWindow(NOW, 200, 50).includes('\u001b[2J'))
})
