/** A bundle from outside, through the built commands: native code never reads its files. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { Manifest, writeBundle } from '../../src/bundle/bundle.ts'
import { addIndexFile } from '../bundle/hostile.ts'
import { ROOT, temporaryFolder } from '../support.ts'
import { DEMO_PROXY, run, succeed } from './command.ts'

test('a bundle with a hostile index.hnsw and mostly small clusters is swapped in with a warning', async t => {
  const folder = temporaryFolder(t)
  execFileSync('tar', ['-xzf', join(ROOT, 'test/fixtures/upgrade/half.tar.gz'), '-C', folder])
  const { schedule, mode } = Manifest.parse(
    JSON.parse(readFileSync(join(folder, 'bundle/bundle.json'), 'utf8')),
  )
  const hostile = join(folder, 'hostile')
  const { T } = schedule
  await writeBundle(hostile, {
    schedule,
    mode,
    signature: 'sum',
    baseline: { examples: 13, textOnly: 0, sizes: [9, 2, 2] },
    centroids: {
      data: Float32Array.from({ length: 3 * T }, (_, i) => i),
      count: 3,
      dimensions: T,
    },
  })
  // A real index with another offset of its first level, which ended 0.1.0 with SIGSEGV.
  const index = readFileSync(join(folder, 'bundle/index.hnsw'))
  index.writeUInt32LE(0x7fffffff, 0)
  const id = addIndexFile(hostile, index)
  const config = (name: string, bundle: string): string => {
    const lines = [
      `log: { path: ${join(folder, 'log')} }`,
      `proxy: { path: ${DEMO_PROXY} }`,
      `bundle: ${join(folder, bundle)}`,
      'http: { enabled: false }',
      'select: { settleEvery: 4, percent: 20, controlPercent: 10, nearDuplicates: { enabled: true, exemplarsMax: 1000 } }',
    ]
    writeFileSync(join(folder, name), lines.join('\n'))
    return join(folder, name)
  }
  const site = config('site.yaml', 'bundle')
  const swapped = await succeed(['bundle', 'swap', '--config', site, '--bundle', hostile])
  assert.match(
    swapped.stderr,
    new RegExp(`${id}: 31 % of the examples lie in clusters of at most 2`),
  )
  await succeed(['run', '--config', site, '--roles', 'select', '--until-idle'])
  assert.match(
    (await succeed(['bundle', 'list', '--config', site])).stdout,
    new RegExp(`${id}.*active`),
  )
  const checked = await run([
    'doctor',
    '--roles',
    'select',
    '--config',
    config('other.yaml', 'hostile'),
  ])
  assert.match(checked.stdout, /^! bundle .*31 % of the examples lie in clusters of at most 2/m)
})
