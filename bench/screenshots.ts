/**
 * Pictures of the dashboard for README.md and docs: the demo in a real browser.
 *
 *     npm run build && npm run build:test && node .build/bench/screenshots.js docs
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { chromium } from 'playwright-core'
import { ROOT } from '../test/support.ts'

/** Examples that are decided before the pictures are taken. */
const EXAMPLES = 400
const SETTLE_MS = 4_000

type Shot = { name: string; route: string; width: number; height: number; theme: 'light' | 'dark' }

const SHOTS: Shot[] = [
  { name: 'dashboard', route: '/', width: 1280, height: 800, theme: 'light' },
  { name: 'dashboard-dark', route: '/map', width: 1280, height: 800, theme: 'dark' },
  { name: 'dashboard-phone', route: '/', width: 390, height: 800, theme: 'light' },
]

async function main(folder: string): Promise<void> {
  const demo = spawn(process.execPath, [join(ROOT, 'dist/main.js'), 'demo'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  try {
    const url = await new Promise<string>((resolve, reject) => {
      demo.once('exit', code => reject(new Error(`the demo ended with ${code}`)))
      demo.stderr.setEncoding('utf8').on('data', (text: string) => {
        const found = /see it at (http:[^\s;]+)/.exec(text)
        if (found !== null) resolve(found[1]!)
      })
    })
    while ((await historyOf(url)) < EXAMPLES || !(await isRead(url))) await sleep(500)
    await shoot(url, folder)
  } finally {
    demo.kill('SIGTERM')
  }
}

async function historyOf(url: string): Promise<number> {
  const answer = await fetch(`${url}/api/v1/figures`)
  return ((await answer.json()) as { history: number }).history
}

/** Whether the dashboard has read the log to its end. */
async function isRead(url: string): Promise<boolean> {
  const answer = await fetch(`${url}/api/v1/clusters`)
  return answer.ok && ((await answer.json()) as { isCaughtUp: boolean }).isCaughtUp
}

async function shoot(url: string, folder: string): Promise<void> {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
  for (const { name, route, width, height, theme } of SHOTS) {
    const page = await browser.newPage({ viewport: { width, height }, colorScheme: theme })
    await page.goto(`${url}/#${route}`)
    await page.locator('.tile, canvas').first().waitFor({ timeout: 60_000 })
    await sleep(SETTLE_MS)
    await page.screenshot({ path: join(folder, `${name}.png`) })
    await page.close()
  }
  await browser.close()
}

await main(process.argv[2] ?? join(ROOT, 'docs'))
