/** A real Prometheus over a real daemon. Skipped loudly where they are not installed; REQUIRE_PROMETHEUS=1 forbids it. */
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { demoStream } from '../../src/demo/stream.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import { DEMO_PROXY, makeSite, type Site, servedAt, start, succeed } from '../e2e/command.ts'
import { program, ROOT, temporaryFolder } from '../support.ts'

const RULES = join(ROOT, 'deploy/prometheus/rules.yaml')
const tool = (t: TestContext, name: string) => program(t, name, 'REQUIRE_PROMETHEUS')

test('promtool: every alert fires on what it is for, a healthy deployment fires none', t => {
  const promtool = tool(t, 'promtool')
  if (promtool === undefined) return
  const { status, stdout, stderr } = spawnSync(
    promtool,
    ['test', 'rules', join(ROOT, 'deploy/prometheus/rules_test.yaml')],
    { encoding: 'utf8' },
  )
  assert.equal(status, 0, stdout + stderr)
})

test('every alert has a summary, what to do, and the URL of a runbook that begins with a command', () => {
  const text = readFileSync(RULES, 'utf8')
  const alerts = text.split(/^ {6}- alert: /m).slice(1)
  const page = readFileSync(join(ROOT, 'docs/operating.md'), 'utf8')
  const { homepage } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const runbook = homepage.replace('#readme', '/blob/main/docs/operating.md')
  assert.ok(alerts.length >= 10)
  for (const alert of alerts) {
    const name = alert.split('\n')[0]!
    assert.match(alert, /summary: .{10}/, name)
    assert.match(alert, /description: >-\n.{60}/, name)
    assert.ok(alert.includes(`runbook_url: ${runbook}#${name.toLowerCase()}\n`), name)
    assert.ok(page.includes(`\n### ${name}\n\n\`\`\`sh\n`), `docs/operating.md: ${name}`)
    assert.ok(readFileSync(join(ROOT, 'deploy/prometheus/rules_test.yaml'), 'utf8').includes(name))
  }
})

test('a real Prometheus scrapes the daemon, its rules hold, and every query of the dashboard returns data', async t => {
  const [prometheus, promtool] = [tool(t, 'prometheus'), tool(t, 'promtool')]
  if (prometheus === undefined || promtool === undefined) return
  const site = makeSite(t, WITH_GAIN)
  await fitWithGain(site)
  const { child, ended } = start(['run', '--config', site.config])
  t.after(() => child.kill('SIGKILL'))
  const daemon = await servedAt(child)
  const query = await startPrometheus(t, prometheus, new URL(daemon).host)
  // Rates want counters that move between two scrapes.
  await until(async () => (await query('xmasd_build_info')).length > 0, 'the first scrape')
  await feed(site, 480)
  await until(async () => (await query('xmasd_history_examples > 400')).length > 0)
  await until(async () => (await query('xmasd_backlog_records > 0')).length === 0)

  const body = await (await fetch(`${daemon}/metrics`)).text()
  const checked = spawnSync(promtool, ['check', 'metrics'], { input: body, encoding: 'utf8' })
  assert.equal(checked.status, 0, checked.stdout + checked.stderr)

  const queries = dashboardQueries()
  assert.ok(queries.length > 30)
  for (const expr of queries) {
    await until(async () => {
      const found = await query(expr)
      return found.some(({ value: [, value] }) => Number.isFinite(Number(value)))
    }, `data of ${expr}`)
  }
  for (const [, name] of readFileSync(RULES, 'utf8').matchAll(/record: (\S+)/g)) {
    await until(async () => (await query(name!)).length > 0, name)
  }
  assert.deepEqual(await query('ALERTS{alertstate="firing"}'), [])
  const drained = 'max(job_role:xmasd_backlog_seconds:max) == 0'
  await until(async () => (await query(drained)).length > 0, drained)
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
})

test('the configuration of compose is one that Prometheus takes', t => {
  const promtool = tool(t, 'promtool')
  if (promtool === undefined) return
  const text = readFileSync(join(ROOT, 'deploy/prometheus/prometheus.yaml'), 'utf8')
  const file = join(temporaryFolder(t), 'prometheus.yml')
  writeFileSync(file, text.replace('/etc/prometheus/rules.yaml', RULES))
  assert.match(execFileSync(promtool, ['check', 'config', file], { encoding: 'utf8' }), /SUCCESS/)
})

type Sample = { metric: Record<string, string>; value: [at: number, value: string] }

/** Every metric has a series only where image gains are measured; the demo's bundle is for none. */
const WITH_GAIN = [
  'http: { port: 0 }',
  `proxy: { path: ${DEMO_PROXY}, workers: 1, gain: true }`,
  'bundle: ./bundle',
].join('\n')

const FITTED_EXAMPLES = 200
const FITTED_CLUSTERS = 12

async function fitWithGain({ folder, images }: Site): Promise<void> {
  const [data, scored] = ['history.jsonl', 'scored.jsonl'].map(name => join(folder, name))
  const lines: string[] = []
  for await (const { value } of demoStream({ seed: 2 })) {
    lines.push(`${Buffer.from(value)}\n`)
    if (lines.length === FITTED_EXAMPLES) break
  }
  writeFileSync(data!, lines.join(''))
  const proxy = ['--proxy', DEMO_PROXY, '--images', images]
  await succeed(['score', ...proxy, '--gain', '--data', data!, '--out', scored!])
  const clusters = ['--clusters', String(FITTED_CLUSTERS)]
  await succeed(['fit', '--trajectories', scored!, ...clusters, '--out', join(folder, 'bundle')])
}

/** Scrapes `target` every second; returns what asks it an instant query. */
async function startPrometheus(
  t: TestContext,
  prometheus: string,
  target: string,
): Promise<(expr: string) => Promise<Sample[]>> {
  const folder = temporaryFolder(t)
  const every = '{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }'
  const scrape = `[{ job_name: xmasd, static_configs: [{ targets: ['${target}'] }] }]`
  const file = join(folder, 'prometheus.yml')
  writeFileSync(file, `global: ${every}\nrule_files: ['${RULES}']\nscrape_configs: ${scrape}\n`)
  const address = `127.0.0.1:${await freePort()}`
  const args = ['--config.file', file, '--storage.tsdb.path', join(folder, 'data')]
  const server = spawn(prometheus, [...args, '--web.listen-address', address], { stdio: 'ignore' })
  t.after(
    () =>
      new Promise(resolve => {
        server.once('exit', resolve)
        server.kill('SIGKILL')
      }),
  )
  await until(() => fetch(`http://${address}/-/ready`).then(({ ok }) => ok, () => false)) // biome-ignore format: short
  return async expr => {
    const url = `http://${address}/api/v1/query?query=${encodeURIComponent(expr)}`
    const answer = (await (await fetch(url)).json()) as {
      status: string
      error?: string
      data: { result: Sample[] }
    }
    assert.equal(answer.status, 'success', `${expr}: ${answer.error}`)
    return answer.data.result
  }
}

/** The demo's stream, in parts, so that counters move between scrapes. */
async function feed(site: Site, count: number): Promise<void> {
  const log = await openLocalLog({ path: site.log })
  let batch: { topic: string; key: string | null; value: Uint8Array }[] = []
  let left = count
  for await (const { key, value } of demoStream({ seed: 1 })) {
    batch.push({ topic: 'examples', key, value })
    if (batch.length < 40) continue
    await log.append(batch)
    left -= batch.length
    batch = []
    if (left <= 0) break
    await sleep(500)
  }
  await log.close()
}

function dashboardQueries(): string[] {
  const text = readFileSync(join(ROOT, 'deploy/grafana/dashboard.json'), 'utf8')
  const { panels } = JSON.parse(text) as { panels: { targets?: { expr: string }[] }[] }
  return panels
    .flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
    .map(expr =>
      expr
        .replaceAll('$job', '.*')
        .replaceAll('$__rate_interval', '2m')
        .replaceAll('$__range', '5m'),
    )
}

function freePort(): Promise<number> {
  return new Promise(resolve => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

async function until(condition: () => Promise<boolean>, what = 'it'): Promise<void> {
  const deadline = performance.now() + 60_000
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `${what} did not come within a minute`)
    await sleep(100)
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
