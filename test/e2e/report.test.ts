import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { chromium, type Page } from 'playwright-core'
import { browser } from '../support.ts'
import { dataUrl, example, makeSite, picture, run, type Site, succeed } from './command.ts'

async function openPage(t: TestContext, executablePath: string): Promise<Page> {
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
  const opened = await chromium.launch({ executablePath, args })
  t.after(() => opened.close())
  return opened.newPage({ viewport: { width: 1000, height: 800 } })
}

/** A site whose log holds a run of the demo's stream. */
async function demoSite(t: TestContext): Promise<Site> {
  const site = makeSite(t)
  await succeed(['demo', '--examples', '400', '--path', site.folder])
  return site
}

test('the report counts what the topics hold, and export keeps as many', async t => {
  const site = await demoSite(t)
  const out = join(site.folder, 'report.html')
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
})

test('the report opens in a browser: charts drawn, pictures shown, nothing fetched (needs Chromium)', async t => {
  const executable = browser(t)
  if (executable === undefined) return
  const site = await demoSite(t)
  const out = join(site.folder, 'report.html')
  await succeed(['report', '--config', site.config, '--out', out])
  const page = await openPage(t, executable)
  const [problems, requests]: string[][] = [[], []]
  page.on('console', message => problems!.push(message.text()))
  page.on('pageerror', error => problems!.push(error.message))
  page.on('request', request => requests!.push(request.url()))
  await page.goto(`file://${out}`)
  assert.deepEqual(problems, [])
  assert.deepEqual(
    requests!.filter(url => !/^(file|data):/.test(url)),
    [],
  )
  const titles = await page.locator('h2').allTextContents()
  assert.deepEqual(titles, [
    'Clusters against their quotas',
    'How steady the kept ones are',
    'Trajectories by cluster',
    'What was decided, and why',
    'Examples',
  ])
  const boxes = await page.locator('section svg:last-of-type').all()
  for (const chart of boxes) assert.ok((await chart.boundingBox())!.height > 10)
  const widths = await page
    .locator('img')
    .evaluateAll(images => images.map(image => (image as { naturalWidth?: number }).naturalWidth))
  assert.ok(widths.length >= 6)
  for (const width of widths) assert.ok(width! > 0)
})

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
  assert.equal(await page.title(), 'xmasd report')
  assert.equal(await page.locator('script').count(), 0)
  assert.match((await page.locator('article').first().textContent())!, /<script>/)
})

test('a log without assignments gives a page that says so; a missing log is an error', async t => {
  const site = makeSite(t)
  const out = join(site.folder, 'report.html')
  const missing = await run(['report', '--config', site.config, '--out', out])
  assert.equal(missing.code, 1)
  assert.match(missing.stderr, /LOG_UNAVAILABLE/)
  await succeed(['run', '--config', site.config, '--until-idle'])
  await succeed(['report', '--config', site.config, '--out', out])
  assert.match(readFileSync(out, 'utf8'), /No example has been assigned yet/)
})
