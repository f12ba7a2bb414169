/** What goes wrong at the doors of data, and what commands say of it. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { parquetMetadata } from 'hyparquet'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { EXAMPLE_CODES } from '../../src/errors.ts'
import {
  DEMO_PROXY,
  distinct,
  makeSite,
  readTopic,
  run,
  type Site,
  succeed,
  writeLines,
} from './command.ts'

/** 30 text-only rows in three groups, of which the second is broken. */
function brokenParquet({ folder }: Site): string {
  const rows = Array.from({ length: 30 }, (_, i) => i)
  const columnData = [
    { name: 'id', data: rows.map(i => `r${i}`), type: 'STRING' as const },
    { name: 'prompt', data: rows.map(i => `What is ${i}?`), type: 'STRING' as const },
    { name: 'completion', data: rows.map(i => `The number ${i}.`), type: 'STRING' as const },
  ]
  const bytes = Buffer.from(parquetWriteBuffer({ columnData, rowGroupSize: 10 }))
  const metadata = parquetMetadata(new Uint8Array(bytes).buffer)
  const page = Number(metadata.row_groups[1]!.columns[0]!.meta_data!.data_page_offset)
  bytes.fill(0xff, page, page + 8)
  const file = join(folder, 'rows.parquet')
  writeFileSync(file, bytes)
  return file
}

test('rows left out of a broken Parquet file are counted in the totals of commands', async t => {
  const site = makeSite(t)
  const file = brokenParquet(site)
  const data = ['--data', file]
  const produce = ['produce', '--config', site.config, ...data]
  const produced = await succeed(produce)
  assert.match(
    produced.stdout,
    /^20 examples appended to examples in .*, 10 left out of the files\n/,
  )
  const json = JSON.parse((await succeed([...produce, '--json'])).stdout)
  assert.deepEqual([json.produced, json.leftOut], [20, 10])

  const at = ['--images', site.images]
  const out = join(site.folder, 'scores.jsonl')
  const score = ['score', '--proxy', DEMO_PROXY, ...data, ...at, '--out', out]
  const scored = await succeed(score)
  assert.match(scored.stdout, /20 text-only, 0 failed, 10 left out of the files; /)
  assert.equal(JSON.parse((await succeed([...score, '--json'])).stdout).leftOut, 10)

  const tiny = ['--image-size', '16', '--patch-size', '8', '--width', '16', '--layers', '1']
  const steps = ['--steps', '4', '--batch', '4', '--checkpoints', '2,4']
  const proxy = join(site.folder, 'proxy')
  const trained = await succeed(['train', ...data, ...at, '--out', proxy, ...tiny, ...steps])
  assert.match(trained.stdout, /^trained on 20 examples, 10 left out of the files, /)
})

test('produce refuses what score wrote, and says how to append it', async t => {
  const site = makeSite(t)
  const data = writeLines(site, 'data.jsonl', await distinct(3))
  const out = join(site.folder, 'scores.jsonl')
  const from = ['--data', data, '--images', site.images]
  await succeed(['score', '--proxy', DEMO_PROXY, ...from, '--out', out])
  const { code, stderr } = await run(['produce', '--config', site.config, '--data', out])
  assert.equal(code, 1)
  assert.match(stderr, /scores\.jsonl holds scores and no conversations \[DATA_INVALID\]/)
  assert.match(stderr, /xmasd produce --trajectories FILE/)
  assert.deepEqual(await readTopic(site.log, 'examples'), [])
})

test('redrive refuses an unknown code with the list of codes', async t => {
  const site = makeSite(t)
  const { code, stderr } = await run(['redrive', '--config', site.config, '--code', 'NOPE'])
  assert.equal(code, 2)
  assert.match(stderr, /'--code <code>' argument 'NOPE' is invalid/)
  for (const one of EXAMPLE_CODES) assert.ok(stderr.includes(one), one)
})
