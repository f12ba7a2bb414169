import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import test from 'node:test'
import { ROOT } from '../support.ts'

/** XMASD_TEST_BIG=1: files of 3 GB, whose memory must be that of small ones. */
const MEGABYTES = process.env.XMASD_TEST_BIG === '1' ? 3000 : 20
const RESIDENT_MEGABYTES_MAX = 300

test('bench:produce streams JSONL and Parquet in flat memory and ends in one JSON object', () => {
  const script = join(ROOT, '.build/bench/produce.js')
  const output = execFileSync(process.execPath, [script, '--megabytes', String(MEGABYTES)], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const result = JSON.parse(output.trim().split('\n').at(-1)!)
  for (const kind of ['jsonl', 'parquet']) {
    const resident = result[`${kind}ResidentMegabytes`]
    assert.ok(resident > 0 && resident < RESIDENT_MEGABYTES_MAX, `${kind}: ${resident} MB`)
    assert.ok(result[`${kind}Rate`] > 0 && result[`${kind}CatRate`] > 0)
  }
})
