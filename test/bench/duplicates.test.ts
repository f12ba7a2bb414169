import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const BENCH = join(dirname(fileURLToPath(import.meta.url)), '../../bench/duplicates.js')

test("bench:duplicates runs on the demo's pictures and ends in one JSON object", () => {
  const sizes = ['--train', '150', '--originals', '60', '--exemplars', '3000']
  sizes.push('--protected', '30')
  const args = [BENCH, '--data', '/nonexistent', ...sizes]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  const { recall, precision, kinds, leaks, index } = JSON.parse(stdout.trim().split('\n').at(-1)!)
  assert.ok(recall > 0.7 && precision > 0.9, `recall ${recall}, precision ${precision}`)
  assert.equal(kinds['jpeg 75'].taken, kinds['jpeg 75'].examples)
  assert.ok(leaks.recall >= 0.95 && leaks.precision >= 0.99, JSON.stringify(leaks))
  assert.deepEqual([leaks.questions, leaks.keptOfProtected], [30, 0])
  assert.equal(index.exemplars, 3000)
  assert.ok(index.copiesFound > 0.9 && index.bytesPerExemplar < 600)
})
