/**
 * The dashboard over many examples: first paint, frames a second of gallery and map in Chromium, and
 * the rate of the select role with open pages against without. The last line is one JSON object.
 *
 *   npm run bench:dashboard -- [--examples 100000] [--clusters 1000] [--pages 50]
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Browser, chromium, type Page } from 'playwright-core'
import { type Bundle, openBundle, writeBundle } from '../src/bundle/bundle.ts'
import { publishBundle } from '../src/bundle/publication.ts'
import { loadConfig } from '../src/config.ts'
import type { Log } from '../src/log/log.ts'
import { openLog, topicSpecs } from '../src/log/open.ts'
import { seededRandom } from '../src/math/random.ts'
import { fillAssignments } from './assignments.ts'

const { values } = parseArgs({
  options: {
    examples: { type: 'string', default: '100000' },
    clusters: { type: 'string', default: '1000' },
    pages: { type: 'string', default: '50' },
    main: { type: 'string', default: 'dist/main.js' },
  },
})
const [examples, clusters, pages] = [values.examples, values.clusters, values.pages].map(Number)
const size = { examples: examples!, clusters: clusters!, checkpoints: 7 }
const FRAMES_MS = 3_000

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-dashboard-'))
const file = join(folder, 'xmasd.yaml')

/** Random centroids: the assignments name their clusters themselves. */
async function makeBundle(dir: string): Promise<Bundle> {
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
function start(group: string) {
  const topics = Object.fromEntries(
    ['DECISIONS', 'SUBSET', 'SHADOW'].map(name => [`XMASD_LOG_TOPICS_${name}`, `${group}-${name}`]),
  )
  const env = { ...process.env, ...topics, XMASD_SELECT_GROUP: group }
  const args = [values.main, 'run', '--config', file, '--roles', 'select']
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

/** Assignments a second, from the first commit to the last, with so many open pages. */
async function rateOf(log: Log, group: string, open: number): Promise<number> {
  const { child, url } = start(group)
  const at = await url
  for (let i = 0; i < open; i++) get(`${at}/api/v1/events`, response => response.resume())
  const position = async (): Promise<number> => (await log.committed(group, 'assignments'))[0] ?? 0
  let first: { at: number; offset: number } | undefined
  for (;;) {
    const offset = await position()
    if (first === undefined && offset > 0) first = { at: performance.now(), offset }
    if (first !== undefined && offset >= size.examples) {
      child.kill('SIGKILL')
      return (1000 * (offset - first.offset)) / (performance.now() - first.at)
    }
    await sleep(10)
  }
}

/** Frames a second while `move` runs. */
async function framesOf(page: Page, move: (share: number) => Promise<void>): Promise<number> {
  await page.evaluate(`(() => {
    globalThis.frames_ = 0
    const count = () => { globalThis.frames_++; requestAnimationFrame(count) }
    requestAnimationFrame(count)
  })()`)
  const started = performance.now()
  while (performance.now() - started < FRAMES_MS)
    await move((performance.now() - started) / FRAMES_MS)
  const frames = (await page.evaluate('globalThis.frames_')) as number
  return (1000 * frames) / (performance.now() - started)
}

async function measurePage(browser: Browser, url: string) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    bypassCSP: true,
  })
  const page = await context.newPage()
  await page.goto(url)
  await page.locator('.tile').first().waitFor({ timeout: 120_000 })
  const paint = await page.evaluate(
    `performance.getEntriesByName('first-contentful-paint')[0].startTime`,
  )
  await page.locator('.tile a').first().click()
  await page.locator('.card').first().waitFor()
  const gallery = await framesOf(page, () => page.mouse.wheel(0, 120))
  await page.goto(`${url}/#/map`)
  await page.getByText(/variance/).waitFor({ timeout: 60_000 })
  const box = (await page.locator('canvas').boundingBox())!
  await page.mouse.move(box.x + 50, box.y + 50)
  await page.mouse.down()
  const map = await framesOf(page, share =>
    page.mouse.move(box.x + 50 + 400 * share, box.y + 50 + 200 * Math.sin(6 * share)),
  )
  await context.close()
  return { firstPaintMs: paint as number, galleryFps: gallery, mapFps: map }
}

try {
  mkdirSync(join(folder, 'images'))
  const yaml = 'log: { path: ./log }\nhttp: { port: 0 }\nimages: { root: ./images }\n'
  writeFileSync(file, `${yaml}bundle: ./bundle\n`)
  const config = loadConfig(file, {})
  const log = await openLog(config.log)
  await log.ensureTopics(topicSpecs(config.log))
  process.stderr.write(`filling a log with ${size.examples} assignments …\n`)
  const bundle = await makeBundle(join(folder, 'bundle'))
  await publishBundle(log, config.log.topics.bundles, bundle)
  await fillAssignments(log, { ...size, bundle: bundle.id })
  const without = await rateOf(log, 'without', 0)
  const withPages = await rateOf(log, 'with', pages!)
  process.stderr.write(`${Math.round(without)}/s without, ${Math.round(withPages)}/s with pages\n`)
  const { child, url } = start('with')
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
  const page = await measurePage(browser, await url)
  await browser.close()
  child.kill('SIGKILL')
  await log.close()
  const rates = { perSecondWithout: without, perSecondWith: withPages, share: withPages / without }
  process.stdout.write(`${JSON.stringify({ ...size, pages, ...rates, ...page })}\n`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
