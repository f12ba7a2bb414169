/**
 * How long `xmasd replay` takes: the built command on a local log of synthetic assignments. The last
 * line is one JSON object.
 *
 *   npm run bench:replay -- [--examples 1000000] [--clusters 1000]
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { openBundle } from '../src/bundle/bundle.ts'
import { publishBundle } from '../src/bundle/publication.ts'
import { loadConfig } from '../src/config.ts'
import { openLog, topicSpecs } from '../src/log/open.ts'
import { fillAssignments } from './assignments.ts'

const { values } = parseArgs({
  options: {
    examples: { type: 'string', default: '1000000' },
    clusters: { type: 'string', default: '1000' },
    main: { type: 'string', default: 'dist/main.js' },
  },
})
const size = {
  examples: Number(values.examples),
  clusters: Number(values.clusters),
  checkpoints: 7,
}

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-replay-'))
try {
  const file = join(folder, 'xmasd.yaml')
  writeFileSync(file, `log: { path: ./log }\nbundle: ${resolve('config/demo/bundle')}\n`)
  const config = loadConfig(file, {})
  const log = await openLog(config.log)
  await log.ensureTopics(topicSpecs(config.log))
  process.stderr.write(`filling a log with ${size.examples} assignments …\n`)
  const bundle = await openBundle(config.bundle)
  await publishBundle(log, config.log.topics.bundles, bundle)
  await fillAssignments(log, { ...size, bundle: bundle.id })
  await log.close()
  const seconds = [10, 20, 50].map(percent => {
    const started = performance.now()
    const args = [values.main, 'replay', '--config', file, '--percent', String(percent), '--json']
    const { kept, examples } = JSON.parse(execFileSync(process.execPath, args).toString())
    const took = (performance.now() - started) / 1000
    process.stdout.write(`${percent} %: ${kept} of ${examples} kept, ${took.toFixed(1)} s\n`)
    return took
  })
  const median = seconds.toSorted((a, b) => a - b)[1]!
  const rate = Math.round(size.examples / median)
  process.stdout.write(
    `${JSON.stringify({ ...size, seconds, median, assignmentsPerSecond: rate })}\n`,
  )
} finally {
  rmSync(folder, { recursive: true, force: true })
}
