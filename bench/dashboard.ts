/**
 * The dashboard over many examples: first paint, frames a second of gallery and map in Chromium, and
 * the rate of the select role with open pages against without. The last line is one JSON object.
 *
 *   npm run bench:dashboard -- [--examples 100000] [--clusters 1000] [--pages 50] [--rounds 5]
 *   npm run bench:dashboard -- --examples 10000 --memory 240
 *
 * `--memory SECONDS` measures the memory of the page instead, over 15 times as long.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Browser, chromium, type Page } from 'playwright-core'
import { measureFold } from './dashboard/fold.ts'
import { measureMemory } from './dashboard/memory.ts'
import { type BenchSite, makeSite, startSelect } from './dashboard/site.ts'

const { values } = parseArgs({
  options: {
    examples: { type: 'string', default: '100000' },
    clusters: { type: 'string', default: '1000' },
    pages: { type: 'string', default: '50' },
    rounds: { type: 'string', default: '5' },
    memory: { type: 'string' },
    main: { type: 'string', default: 'dist/main.js' },
  },
})
const [examples, clusters, pages, rounds] = [
  values.examples,
  values.clusters,
  values.pages,
  values.rounds,
].map(Number)
const size = { examples: examples!, clusters: clusters!, checkpoints: 7 }
const FRAMES_MS = 3_000

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

function launch(): Promise<Browser> {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  return chromium.launch({ executablePath, args: ['--no-sandbox'] })
}

async function measureRates(site: BenchSite) {
  const fold = await measureFold(site, pages!, rounds!)
  const browser = await launch()
  const { child, url } = startSelect(site, 'with-0')
  const page = await measurePage(browser, await url)
  await browser.close()
  child.kill('SIGKILL')
  return { pages, ...fold, ...page }
}

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-dashboard-'))
try {
  const site = await makeSite(folder, values.main, size)
  const found =
    values.memory === undefined
      ? await measureRates(site)
      : await measureMemory(site, await launch(), Number(values.memory))
  await site.log.close()
  process.stdout.write(`${JSON.stringify({ ...size, ...found })}\n`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
