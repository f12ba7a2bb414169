import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { ROOT } from '../../support.ts'

/**
 * Every promise in the workers' rooms that only a foreign event settles, and what bounds the wait. A new
 * one must name its bound here.
 */
const BOUNDS: Record<string, string> = {
  'host.ts: exited (thread)':
    'END_MS_MAX, then terminate(); the process kills itself after EXIT_MS_MAX',
  'host.ts: exited (process)': 'SIGKILL',
  'loop.ts: reserve': 'the clock of whoever holds the memory; owners that are gone are forgotten',
  'loop.ts: first message': 'the clock of loading, LOAD_MS_MAX; disconnect ends the process',
  'pool.ts: loading': 'the clock of loading, LOAD_MS_MAX',
  'pool.ts: run': 'the clock of the job, its msMax',
  'replaceable.ts: drained': 'a timer; the jobs that it looks for have their clocks',
}

test('every wait on a foreign event in score/workers is known and bounded', () => {
  const folder = join(ROOT, 'src/score/workers')
  const found = readdirSync(folder).flatMap(name => {
    const text = readFileSync(join(folder, name), 'utf8')
    const made = text.match(/new Promise\b|\bonce\(\w+,|events\.once|for await/g) ?? []
    return made.map(() => name)
  })
  const known = Object.keys(BOUNDS).map(key => key.split(':')[0]!)
  assert.deepEqual(found.sort(), known.sort())
})
