/** The page in a real browser: what each view shows, how fast, and what hostile input does to it. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import test, { type TestContext } from 'node:test'
import { type Browser, chromium, type Page } from 'playwright-core'
import type { ClusterSummary } from '../../src/dashboard/model.ts'
import type { Drift as DriftDocument } from '../../src/dashboard/schemas.ts'
import { jsonOf, readTopic, succeed } from '../e2e/command.ts'
import { browser } from '../support.ts'
import { ask, type DashboardSite, demoSite } from './site.ts'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const VIEWS = [
  '/',
  '/clusters',
  '/map',
  '/what-if',
  '/drift',
  '/pipeline',
  '/dead-letters',
  '/export',
]

type Opened = { page: Page; problems: string[]; requests: string[] }

async function launch(t: TestContext): Promise<Browser | undefined> {
  const executablePath = browser(t)
  if (executablePath === undefined) return undefined
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
  const opened = await chromium.launch({ executablePath, args })
  t.after(() => opened.close())
  return opened
}

async function openPage(of: Browser, options: object = {}): Promise<Opened> {
  const context = await of.newContext({ viewport: { width: 1200, height: 900 }, ...options })
  const page = await context.newPage()
  const [problems, requests]: string[][] = [[], []]
  page.on('console', message => message.type() === 'error' && problems!.push(message.text()))
  page.on('pageerror', error => problems!.push(error.message))
  page.on('request', made => requests!.push(made.url()))
  return { page, problems: problems!, requests: requests! }
}

test('the dashboard in a browser (needs Chromium)', async t => {
  const chrome = await launch(t)
  if (chrome === undefined) return
  const site = await demoSite(t)
  const opened = await openPage(chrome)
  const { page, problems, requests } = opened
  const go = async (route: string): Promise<void> => {
    await page.goto(`${site.url}/#${route}`)
    await page.locator('.panel').first().waitFor()
  }

  await t.test('header, wall and ticker show what report and the log say', () =>
    shows(site, page, go),
  )
  await t.test('a gallery and an example show what explain says', () => explains(site, page, go))
  await t.test('/ leads to the search, which says where else to look', () => finds(page, go))
  await t.test('the chosen order of clusters stays', () => ordersStay(page, go))
  await t.test('what-if shows the figures of replay', () => replays(site, page, go))
  await t.test('map, drift, pipeline and dead letters are drawn', () => draws(site, page, go))
  await t.test('a decision is shown within a second', () => isQuick(t, site, page, go))
  await t.test('hostile ids, questions and pictures do nothing', () => isSafe(site, page, go))
  await t.test('nothing was asked of another host, and no error was logged', () => {
    const elsewhere = requests.filter(url => !url.startsWith(site.url) && !url.startsWith('data:'))
    assert.deepEqual(elsewhere, [])
    // Broken pictures of hostile examples are answered 404.
    assert.deepEqual(
      problems.filter(text => !/status of 404/.test(text)),
      [],
    )
  })
  await t.test('no view has a serious violation, light or dark, wide or narrow', () =>
    isAccessible(site, chrome),
  )
  await t.test('the page goes on by itself after a restart of the daemon', async () => {
    await go('/')
    await site.restart()
    const key = await site.arrive('after-restart', 'is it back?')
    await page.locator(`.ticker [data-key="${key}"]`).waitFor({ timeout: 60_000 })
    assert.equal(await page.locator('[data-figure=health] b').textContent(), 'ready')
  })
})

type Go = (route: string) => Promise<void>

async function shows(site: DashboardSite, page: Page, go: Go): Promise<void> {
  await go('/')
  const out = `${site.folder}/report.html`
  const report = JSON.parse(
    (await succeed(['report', '--config', site.config, '--out', out, '--json'])).stdout,
  )
  await page.locator('.tile').first().waitFor()
  const kept = await page.locator('[data-figure=kept] b').textContent()
  assert.equal(kept, `${report.kept} of ${report.budget}`)
  const tiles = await page.locator('.tile').count()
  assert.equal(tiles, report.clusters.length)
  for (const { cluster, size, kept, quota } of report.clusters as ClusterSummary[]) {
    const text = (await page.locator(`.tile[data-cluster="${cluster}"]`).textContent())!
    assert.ok(text.includes(`${kept} of ${size}`), text)
    assert.ok(text.includes(`quota ${quota}`), text)
  }
  const decisions = await readTopic(site.log, 'decisions')
  const newest = jsonOf<{ key: string; action: string }>(decisions.at(-1)!)
  const line = page.locator('.ticker li').first()
  assert.equal(await line.getAttribute('data-key'), newest.key)
}

async function explains(site: DashboardSite, page: Page, go: Go): Promise<void> {
  const { clusters } = await ask<{ clusters: ClusterSummary[] }>(site.url, 'clusters')
  const largest = clusters.find(({ cluster }) => cluster !== 'text')!
  await go(`/cluster/${largest.cluster}`)
  await page.locator('.card:not(.empty)').first().waitFor()
  const titles = await page.locator('h2').allTextContents()
  assert.ok(titles.includes(`Above the line: ${largest.quota}`), titles.join())
  assert.ok(titles.includes(`Below the line: ${largest.size - largest.quota}`), titles.join())
  await page.getByText('After each settlement the subset holds those above the line.').waitFor()
  await page.locator('.card.keep, .card.restore').first().click()
  await page.locator('.because').waitFor()
  const key = (await page.locator('h1').textContent())!
  const said = JSON.parse(
    (await succeed(['explain', key, '--config', site.config, '--json'])).stdout,
  )
  assert.match((await page.locator('.because').textContent())!, new RegExp(said.because))
  const facts = (await page.locator('dl.facts').textContent())!
  assert.ok(facts.includes(`${said.rank} of ${said.clusterSize}`), facts)
  assert.equal(await page.locator('.history li').count(), said.decisions.length)
  const width = await page
    .locator('.pictures img')
    .evaluate(image => (image as unknown as { naturalWidth: number }).naturalWidth)
  assert.ok(width > 0)
}

async function finds(page: Page, go: Go): Promise<void> {
  await go('/')
  await page.getByRole('link', { name: 'Clusters' }).click()
  await page.keyboard.press('/')
  await page.keyboard.type('demo-no-such')
  await page.keyboard.press('Enter')
  await page.getByText('Found 0').waitFor()
  await page.locator('main').getByRole('link', { name: 'dead letters' }).waitFor()
  await page.locator('#search').fill('what/is')
  await page.locator('#search').press('/')
  assert.equal(await page.locator('#search').inputValue(), 'what/is/')
  await go('/search/demo-')
  await page.getByText('Found 60 or more').waitFor()
}

async function ordersStay(page: Page, go: Go): Promise<void> {
  await go('/')
  await page.getByLabel('order').selectOption('redundant')
  await page.locator('.tile a').first().click()
  await page.getByRole('link', { name: 'all clusters' }).click()
  assert.equal(await page.getByLabel('order').inputValue(), 'redundant')
  await page.getByLabel('order').selectOption('size')
}

async function replays(site: DashboardSite, page: Page, go: Go): Promise<void> {
  await go('/what-if')
  await page.getByLabel('percent').fill('10')
  await page.getByRole('button', { name: 'replay' }).click()
  const found = page.locator('[data-result=what-if]')
  await found.waitFor({ timeout: 30_000 })
  const args = ['replay', '--percent', '10', '--config', site.config, '--json']
  const { today, kept } = JSON.parse((await succeed(args)).stdout)
  const text = (await found.textContent())!
  for (const part of [
    `kept then${kept}`,
    `would leave${today.onlyToday}`,
    `in both${today.both}`,
  ]) {
    assert.ok(text.includes(part), `${part} in ${text}`)
  }
  assert.ok((await page.locator('.card').count()) > 0)
}

async function draws(site: DashboardSite, page: Page, go: Go): Promise<void> {
  await go('/map')
  await page.locator('canvas').waitFor()
  for (let waited = 0; !(await isDrawn(page)); waited += 100) {
    assert.ok(waited < 10_000, 'the map stays empty')
    await page.waitForTimeout(100)
  }
  const box = (await page.locator('canvas').boundingBox())!
  await page.mouse.move(box.x + 2, box.y + 2)
  await page.mouse.down()
  await page.mouse.move(box.x + box.width - 2, box.y + 2)
  await page.mouse.move(box.x + box.width - 2, box.y + box.height - 2)
  await page.mouse.move(box.x + 2, box.y + box.height - 2)
  await page.mouse.up()
  await page.getByText(/^In the lasso: \d+/).waitFor()
  await go('/drift')
  await showsNew(site, page, go)
  await go('/pipeline')
  assert.match((await page.locator('.flow').first().textContent())!, /assignments/)
  await go('/dead-letters')
  const { codes } = await ask<{ codes: { code: string; count: number }[] }>(
    site.url,
    'dead-letters',
  )
  for (const { code, count } of codes) {
    await page.getByRole('button', { name: `${code} ${count}` }).waitFor()
  }
}

async function showsNew(site: DashboardSite, page: Page, go: Go): Promise<void> {
  const drift = await ask<DriftDocument>(site.url, 'drift')
  const isNight = ({ question }: { question: string }): boolean => /night sky/.test(question)
  assert.ok(drift.far.slice(0, 3).every(isNight), 'the nights of the stream lie farthest out')
  const panel = page.locator('.panel').filter({ hasText: 'Never seen before' })
  for (const [i, { question, times }] of drift.far.entries()) {
    const text = (await panel.locator('.card').nth(i).textContent())!
    assert.ok(text.includes(question) && text.includes(`${times!.toFixed(1)} radii`), text)
  }
  // Of a bundle without radii nothing may be called new, and no distance is in radii.
  const far = drift.far.map(one => ({ ...one, times: null }))
  const json = { ...drift, beyondShare: undefined, far }
  await page.route('**/api/v1/drift', route => route.fulfill({ json }))
  await go('/')
  await go('/drift')
  await page.getByText('Farthest from all that was seen').waitFor()
  await page
    .locator('.card')
    .filter({ hasText: /distance \d/ })
    .first()
    .waitFor()
  assert.equal(await page.getByText(/\d radii/).count(), 0)
  await page.unroute('**/api/v1/drift')
}

type Canvas = {
  width: number
  height: number
  getContext(kind: '2d'): {
    getImageData(x: number, y: number, width: number, height: number): { data: Uint8ClampedArray }
  }
}

function isDrawn(page: Page): Promise<boolean> {
  return page.locator('canvas').evaluate(element => {
    const canvas = element as unknown as Canvas
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
    return data.some(value => value !== 0)
  })
}

async function isQuick(t: TestContext, site: DashboardSite, page: Page, go: Go): Promise<void> {
  await go('/')
  const times: number[] = []
  for (let i = 0; i < 5; i++) {
    const started = performance.now()
    const key = await site.arrive(`quick-${i}`, `how quick is number ${i}?`)
    await page.locator(`.ticker [data-key="${key}"]`).first().waitFor({ timeout: 10_000 })
    times.push(performance.now() - started)
  }
  times.sort((a, b) => a - b)
  t.diagnostic(`shown after ${times.map(Math.round).join(', ')} ms`)
  assert.ok(times[2]! < 1_000, `median ${times[2]} ms`)
}

const MEAN = '<img src=x onerror="document.title=1"><script>document.title="taken"</script>'

async function isSafe(site: DashboardSite, page: Page, go: Go): Promise<void> {
  const images = [
    '"><script>alert(1)</script>',
    '../../etc/passwd',
    'file:///etc/passwd',
    'http://127.0.0.1:1/x',
  ]
  const keys: string[] = []
  for (const [i, image] of images.entries()) {
    keys.push(await site.arrive(`${MEAN}${i}/..%2f'"&?#`, `${MEAN}\u202e\u0007${i}`, image))
  }
  await go('/')
  const line = page.locator('.ticker li').filter({ hasText: 'onerror' }).first()
  await line.waitFor({ timeout: 10_000 })
  await line.locator('a').first().click()
  await page.locator('.because').waitFor()
  assert.ok(keys.includes((await page.locator('h1').textContent())!))
  assert.match((await page.locator('.turn').first().textContent())!, /<script>.*\\u202e/)
  await go(`/search/${encodeURIComponent(MEAN)}`)
  await page.locator('.card').first().waitFor()
  assert.match(await page.title(), /^xmasd/)
  assert.equal(await page.locator('main script').count(), 0)
}

type Violation = { id: string; impact: string; nodes: { html: string }[] }

async function isAccessible(site: DashboardSite, chrome: Browser): Promise<void> {
  const { clusters } = await ask<{ clusters: (ClusterSummary & { cover: string })[] }>(
    site.url,
    'clusters',
  )
  const { cluster, cover } = clusters[0]!
  const routes = [...VIEWS, `/cluster/${cluster}`, `/example/${encodeURIComponent(cover)}`]
  // The page's policy would refuse the test's own script.
  const { page } = await openPage(chrome, { bypassCSP: true })
  await page.goto(site.url)
  await page.evaluate(AXE)
  for (const route of routes) {
    await page.goto(`${site.url}/#${route}`)
    await page.locator('.panel').first().waitFor()
    for (const { theme, width } of [
      { theme: 'dark', width: 390 },
      { theme: 'light', width: 1_600 },
    ]) {
      await page.setViewportSize({ width, height: 900 })
      await page.getByRole('button', { name: theme, exact: true }).click()
      const { violations } = (await page.evaluate('axe.run()')) as { violations: Violation[] }
      const serious = violations.filter(({ impact }) => /serious|critical/.test(impact))
      const said = serious.map(({ id, nodes }) => `${id}: ${nodes[0]!.html}`)
      assert.deepEqual(said, [], `${route} ${theme}`)
      const isWide = await page.evaluate('document.documentElement.scrollWidth > innerWidth')
      assert.equal(isWide, false, `${route} is wider than a window of ${width}`)
    }
  }
}
