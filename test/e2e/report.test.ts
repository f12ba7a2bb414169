import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { chromium, type Page } from 'playwright-core'
import { browser } from '../support.ts'
import {
  dataUrl,
  example,
  makeDemoSite,
  makeSite,
  picture,
  run,
  type Site,
  succeed,
} from './command.ts'

const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

async function openPage(t: TestContext, executablePath: string): Promise<Page> {
  const opened = await chromium.launch({ executablePath, args: ARGS })
  t.after(() => opened.close())
  return opened.newPage({ viewport: { width: 1000, height: 800 } })
}

test('the report of a run of the demo', async t => {
  const site = await makeDemoSite(t, 240)
  const out = join(site.folder, 'report.html')
  await t.test('it counts what the topics hold, and export keeps as many', () => counts(site, out))
  await t.test('charts are drawn, pictures shown, nothing fetched (needs Chromium)', t =>
    isDrawn(t, out),
  )
  await t.test('no serious violation, and it fits a window of 390 pixels (needs Chromium)', t =>
    isAccessible(t, out),
  )
})

async function counts(site: Site, out: string): Promise<void> {
  const report = await succeed(['report', '--config', site.config, '--out', out, '--json'])
  const counted = JSON.parse(report.stdout)
  const keys = join(site.folder, 'keys.json')
  await succeed(['export', '--config', site.config, '--out', keys])
  assert.equal(counted.kept, JSON.parse(readFileSync(keys, 'utf8')).length)
  assert.equal(counted.kept, counted.budget)
  const rows = counted.clusters as { size: number; kept: number; quota: number }[]
  const sum = (key: 'size' | 'kept'): number => rows.reduce((total, row) => total + row[key], 0)
  assert.equal(sum('size'), counted.examples)
  assert.equal(sum('kept'), counted.kept)
  for (const { kept, quota } of rows) assert.equal(kept, quota)
  assert.ok(counted.duplicates > 0)
}

async function isDrawn(t: TestContext, out: string): Promise<void> {
  const executable = browser(t)
  if (executable === undefined) return
  const page = await openPage(t, executable)
  const [problems, requests]: string[][] = [[], []]
  page.on('console', message => problems!.push(message.text()))
  page.on('pageerror', error => problems!.push(error.message))
  page.on('request', request => requests!.push(request.url()))
  await page.goto(`file://${out}`)
  assert.deepEqual(problems, [])
  await page.locator('.plot svg').nth(5).waitFor()
  const titles = await page.locator('h2').allTextContents()
  assert.deepEqual(titles, [
    'Clusters against their quotas',
    'Instability of kept and dropped examples',
    'Trajectories by cluster',
    'Decisions and their reasons',
    'Examples',
  ])
  const boxes = await page.locator('section .plot svg').all()
  for (const chart of boxes) assert.ok((await chart.boundingBox())!.height > 10)
  const widths = await page
    .locator('img')
    .evaluateAll(images => images.map(image => (image as { naturalWidth?: number }).naturalWidth))
  assert.ok(widths.length >= 6)
  for (const width of widths) assert.ok(width! > 0)
  await exploresCopy(page)
  assert.deepEqual(
    requests!.filter(url => !/^(file|data):/.test(url)),
    [],
  )
  assert.deepEqual(problems, [])
}

/** Search, an example, a cluster and the map, from the file alone. */
async function exploresCopy(page: Page): Promise<void> {
  await page.locator('.card.keep').first().click()
  await page.locator('.because').waitFor()
  const key = (await page.locator('h1').textContent())!
  await page.locator('.plot .band').first().waitFor()
  await page.locator('#search').fill(key)
  await page.locator('#search').press('Enter')
  await page.getByText('Found 1').waitFor()
  await page.goto(`${page.url().split('#')[0]}#/clusters`)
  await page.locator('.tile a').first().click()
  await page.getByText(/^Above the line: \d+/).waitFor()
  await page.locator('.card img').first().waitFor()
  await page.goto(`${page.url().split('#')[0]}#/map`)
  await page.getByText(/variance/).waitFor()
  for (const view of ['drift', 'dead-letters', 'export']) {
    await page.goto(`${page.url().split('#')[0]}#/${view}`)
    await page.locator('.panel').first().waitFor()
  }
}

type Violation = { id: string; impact: string; nodes: { html: string }[] }

async function isAccessible(t: TestContext, out: string): Promise<void> {
  const executable = browser(t)
  if (executable === undefined) return
  const opened = await chromium.launch({ executablePath: executable, args: ARGS })
  t.after(() => opened.close())
  for (const colorScheme of ['light', 'dark'] as const) {
    const viewport = { width: colorScheme === 'dark' ? 390 : 1200, height: 800 }
    // The report's policy would refuse the test's own script.
    const context = await opened.newContext({ viewport, colorScheme, bypassCSP: true })
    const page = await context.newPage()
    await page.goto(`file://${out}`)
    await page.evaluate(AXE)
    for (const view of ['', 'clusters', 'cluster/0', 'map', 'drift']) {
      await page.goto(`file://${out}#/${view}`)
      await page.locator('.panel').first().waitFor()
      const { violations } = (await page.evaluate('axe.run()')) as { violations: Violation[] }
      const serious = violations.filter(({ impact }) => /serious|critical/.test(impact))
      const said = serious.map(({ id, nodes }) => `${id}: ${nodes[0]!.html}`)
      assert.deepEqual(said, [], `${view} ${colorScheme}`)
      const isWide = await page.evaluate('document.documentElement.scrollWidth > innerWidth')
      assert.equal(isWide, false, `${view} is wider than the window`)
    }
  }
}

test('ids and texts that look like markup are shown as text (needs Chromium)', async t => {
  const executable = browser(t)
  if (executable === undefined) return
  const site = makeSite(t, 'select: { percent: 50 }')
  const mean = '<script>document.title = "taken"</script><img src=x onerror="document.title=1">'
  const records = await Promise.all(
    [1, 2, 3, 4, 5, 6].map(async n => example(`${mean}${n}`, dataUrl(await picture(n)), mean)),
  )
  const data = join(site.folder, 'data.json')
  writeFileSync(data, JSON.stringify(records))
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const out = join(site.folder, 'report.html')
  await succeed(['report', '--config', site.config, '--out', out])
  const page = await openPage(t, executable)
  await page.goto(`file://${out}`)
  await page.locator('.card').first().waitFor()
  assert.equal(await page.title(), 'xmasd report')
  assert.equal(await page.locator('main script').count(), 0)
  assert.match((await page.locator('.card').first().textContent())!, /<script>/)
  await page.locator('.card').first().click()
  await page.locator('.because').waitFor()
  assert.match(await page.title(), /^xmasd · /)
  assert.equal(await page.locator('main script').count(), 0)
})

test('a log without assignments gives a page that says so; a missing log is an error', async t => {
  const site = makeSite(t)
  const out = join(site.folder, 'report.html')
  const missing = await run(['report', '--config', site.config, '--out', out])
  assert.equal(missing.code, 1)
  assert.match(missing.stderr, /LOG_UNAVAILABLE/)
  await succeed(['run', '--config', site.config, '--until-idle'])
  await succeed(['report', '--config', site.config, '--out', out])
  const html = readFileSync(out, 'utf8')
  assert.match(html, /<p>[^<]*No example has been assigned yet/)
  assert.match(html, /"says":"No example has been assigned yet/)
})
