/** What the dashboard's benchmarks run on: a log of synthetic assignments, and daemons that fold it. */
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Bundle, openBundle, writeBundle } from '../../src/bundle/bundle.ts'
import { publishBundle } from '../../src/bundle/publication.ts'
import { loadConfig } from '../../src/config.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog, topicSpecs } from '../../src/log/open.ts'
import { seededRandom } from '../../src/math/random.ts'
import { fillAssignments, type Size } from '../assignments.ts'

export type BenchSite = { file: string; main: string; size: Size; log: Log }

/** Fills a log in `folder`, which is empty. `main` is the built command. */
export async function makeSite(folder: string, main: string, size: Size): Promise<BenchSite> {
  const file = join(folder, 'xmasd.yaml')
  mkdirSync(join(folder, 'images'))
  const yaml = 'log: { path: ./log }\nhttp: { port: 0 }\nimages: { root: ./images }\n'
  writeFileSync(file, `${yaml}bundle: ./bundle\n`)
  const config = loadConfig(file, {})
  const log = await openLog(config.log)
  await log.ensureTopics(topicSpecs(config.log))
  process.stderr.write(`filling a log with ${size.examples} assignments …\n`)
  const bundle = await makeBundle(join(folder, 'bundle'), size)
  await publishBundle(log, config.log.topics.bundles, bundle)
  await fillAssignments(log, { ...size, bundle: bundle.id })
  return { file, main, size, log }
}

/** Random centroids: the assignments name their clusters themselves. */
async function makeBundle(dir: string, size: Size): Promise<Bundle> {
  const { clusters: count, checkpoints: dimensions } = size
  const random = seededRandom(2)
  await writeBundle(dir, {
    schedule: { fingerprint: null, steps: null, T: dimensions },
    mode: 'reference',
    signature: 'sum',
    radii: new Array<number>(count).fill(0.9),
    baseline: { examples: count, textOnly: 0, sizes: new Array<number>(count).fill(1) },
    centroids: {
      data: Float32Array.from({ length: count * dimensions }, () => 40 * random()),
      ...{ count, dimensions },
    },
    members: {
      cluster: Int32Array.from({ length: count }, (_, i) => i),
      instability: new Float32Array(count),
    },
  })
  return openBundle(dir)
}

/** Starts a select role with a group of its own, which folds the whole log. */
export function startSelect({ file, main }: BenchSite, group: string) {
  const topics = Object.fromEntries(
    ['DECISIONS', 'SUBSET', 'SHADOW'].map(name => [`XMASD_LOG_TOPICS_${name}`, `${group}-${name}`]),
  )
  const env = { ...process.env, ...topics, XMASD_SELECT_GROUP: group }
  const args = [main, 'run', '--config', file, '--roles', 'select']
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'ignore', 'pipe'] })
  const url = new Promise<string>((resolve, reject) => {
    let seen = ''
    child.once('exit', code => reject(new Error(`the daemon ended with ${code}:\n${seen}`)))
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (seen.length < 4_000) seen += text
      const found = /"http":"([^"]+)"/.exec(text)
      if (found !== null) resolve(found[1]!)
    })
  })
  return { child, url }
}
