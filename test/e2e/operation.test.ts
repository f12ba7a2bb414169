/** The daemon as a service: HTTP limits, a log that cannot be written, SIGHUP, the last line. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { MAIN } from '../support.ts'
import {
  dataUrl,
  distinct,
  example,
  makeSite,
  picture,
  readTopic,
  run,
  type Site,
  servedAt,
  start,
  succeed,
  writeLines,
} from './command.ts'

const HTTP = 'http: { port: 0 }'

async function startSelect(t: TestContext, more = HTTP) {
  const site = makeSite(t, more)
  const { child, ended } = start(['run', '--config', site.config, '--roles', 'select'])
  const lines: { msg: string; level: string; [field: string]: unknown }[] = []
  child.stderr!.on('data', (text: string) => {
    for (const line of text.split('\n')) if (line.startsWith('{')) lines.push(JSON.parse(line))
  })
  const url = await servedAt(child)
  t.after(() => child.kill('SIGKILL'))
  return { site, child, ended, url, lines }
}

/** The status of `/healthz` for that Host header. */
function statusFor(url: string, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    request(`${url}/healthz`, { headers: { host } }, response => {
      response.resume()
      resolve(response.statusCode!)
    })
      .on('error', reject)
      .end()
  })
}

async function until(what: string, isDone: () => boolean): Promise<void> {
  for (let waited = 0; !isDone(); waited += 50) {
    assert.ok(waited < 30_000, `waited 30 s for ${what}`)
    await sleep(50)
  }
}

test('HTTP answers addresses, localhost and http.hosts, and refuses any other Host with 421', async t => {
  const { url, child, ended } = await startSelect(t, 'http: { port: 0, hosts: [xmasd.internal] }')
  const port = new URL(url).port
  for (const host of [
    `127.0.0.1:${port}`,
    `localhost:${port}`,
    'xmasd.internal',
    `[::1]:${port}`,
  ]) {
    assert.equal(await statusFor(url, host), 200, host)
  }
  for (const host of ['evil.example', `evil.example:${port}`, 'localhost.evil.example']) {
    assert.equal(await statusFor(url, host), 421, host)
  }
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
})

test('20,000 pipelined scrapes are cut off, and others are answered meanwhile', async t => {
  const { url, child, ended } = await startSelect(t)
  const { hostname, port } = new URL(url)
  const scrape = `GET /metrics HTTP/1.1\r\nHost: ${hostname}\r\n\r\n`
  const socket = connect(Number(port), hostname)
  let received = ''
  socket.on('data', data => {
    received += data.toString('latin1')
  })
  socket.on('error', () => {}) // it is reset
  const closed = new Promise(resolve => socket.once('close', resolve))
  socket.write(scrape.repeat(20_000))
  const started = performance.now()
  assert.equal(await statusFor(url, hostname), 200)
  const seconds = (performance.now() - started) / 1000
  t.diagnostic(`/healthz answered after ${seconds.toFixed(2)} s`)
  await closed
  assert.ok((received.match(/HTTP\/1\.1 200/g) ?? []).length <= 1_000)
  assert.ok((await (await fetch(`${url}/metrics`)).text()).includes('xmasd_build_info'))
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
})

test('a request whose header is too long, or never ends, is ended', async t => {
  const { url } = await startSelect(t)
  const { hostname, port } = new URL(url)
  const answerTo = (text: string): Promise<string> =>
    new Promise(resolve => {
      let received = ''
      const socket = connect(Number(port), hostname, () => socket.write(text))
      socket.on('data', data => {
        received += data.toString('latin1')
      })
      socket.on('error', () => {})
      socket.on('close', () => resolve(received))
    })
  assert.match(await answerTo(`GET /metrics HTTP/1.1\r\nX: ${'x'.repeat(10_000)}\r\n\r\n`), / 431 /)
  assert.match(await answerTo('GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: '), / 408 /)
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** Devices on which every write fails: with ENOSPC, and with EIO at address 0 of this process. */
const FAILING: [what: string, file: string, mode: string][] = [
  ['is a full disk', '/dev/full', 'w'],
  ['reports i/o errors', '/proc/self/mem', 'r+'],
]

for (const [what, file, mode] of FAILING) {
  test(`run whose stderr ${what} goes on, counts the lines, and exits 0`, async t => {
    const port = await freePort()
    const site = makeSite(t, `http: { port: ${port} }`)
    const failing = openSync(file, mode)
    const args = [MAIN, 'run', '--config', site.config, '--roles', 'select']
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', failing] })
    closeSync(failing)
    t.after(() => child.kill('SIGKILL'))
    const exited = once(child, 'exit')
    const scrape = async (): Promise<string> => {
      try {
        return await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
      } catch {
        return ''
      }
    }
    let dropped = 0
    for (let waited = 0; dropped === 0; waited += 100) {
      assert.ok(waited < 60_000 && child.exitCode === null, `ended with ${child.exitCode}`)
      await sleep(100)
      dropped = Number(/^xmasd_log_lines_dropped_total (\d+)$/m.exec(await scrape())?.[1] ?? 0)
    }
    child.kill('SIGTERM')
    assert.deepEqual(await exited, [0, null])
  })

  test(`run whose stdout ${what} ends with a code and a hint`, async t => {
    const site = makeSite(t)
    const failing = openSync(file, mode)
    const args = [
      MAIN,
      'run',
      '--config',
      site.config,
      '--roles',
      'select',
      '--until-idle',
      '--json',
    ]
    const child = spawn(process.execPath, args, { stdio: ['ignore', failing, 'pipe'] })
    closeSync(failing)
    let stderr = ''
    child.stderr!.on('data', chunk => {
      stderr += chunk
    })
    assert.deepEqual(await once(child, 'close'), [1, null])
    assert.match(stderr, /^xmasd: (ENOSPC|EIO): .*\[(DISK_FULL|DISK_FAILED)\]\n {2}\S/m)
    assert.doesNotMatch(stderr, /^ +at /m)
  })
}

test('SIGHUP reloads what can change, names what needs a restart, and refuses mistakes', async t => {
  const { site, child, ended, url, lines } = await startSelect(t)
  const said = (text: string) => () => lines.some(({ msg }) => msg.includes(text))
  const text = readFileSync(site.config, 'utf8')
  const reload = (more: string): void => {
    writeFileSync(site.config, `${text.replace(HTTP, '')}\n${more}\n`)
    child.kill('SIGHUP')
  }
  assert.equal(await statusFor(url, 'other.internal'), 421)
  reload(
    'http: { port: 0, hosts: [other.internal] }\nlogging: { level: debug }\nselect: { percent: 30 }',
  )
  await until('the reload', said('reload: http.hosts, logging.level changed'))
  assert.ok(said('reload: a restart is needed for select.percent')(), JSON.stringify(lines))
  assert.equal(await statusFor(url, 'other.internal'), 200)
  reload('http: { port: none }\nselect: { percent: 300 }')
  await until('the refusal', said('reload failed, nothing changed: 2 mistakes'))
  assert.equal(await statusFor(url, 'other.internal'), 200)
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
  assert.match(lines.at(-1)!.msg, /^stopped: no examples; 0 of 0 examples kept/)
})

test('SIGHUP admits a new image host without a restart', async t => {
  const png = (await import('./command.ts')).picture(1)
  const { createServer } = await import('node:http')
  const server = createServer(async (_, response) => {
    response.writeHead(200, { 'content-type': 'image/png' }).end(await png)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as { port: number }
  const site = makeSite(t)
  const text = readFileSync(site.config, 'utf8').replace(/images: .*\n/, '')
  const images = (hosts: string): string =>
    `images: { root: ./images, hosts: [${hosts}], addressesAllowed: [127.0.0.0/8] }`
  writeFileSync(site.config, `${text}${images('')}\n`)
  const conversations = [
    { from: 'human', value: '<image>\nwhat?' },
    { from: 'gpt', value: 'that' },
  ]
  const send = (id: string) => {
    const image = `http://127.0.0.1:${port}/${id}.png`
    const data = writeLines(site, `${id}.jsonl`, [{ id, image, conversations }])
    return succeed(['produce', '--config', site.config, '--data', data])
  }
  const { child, ended, log } = await startLogged(t, site)
  await send('before')
  const tail = async (topic: string): Promise<string> =>
    (await run(['tail', topic, '--config', site.config, '--json'])).stdout
  while (!(await tail('dead-letters')).includes('before')) await sleep(200)
  writeFileSync(site.config, `${text}${images('127.0.0.1')}\n`)
  child.kill('SIGHUP')
  await until('the reload', () => log().includes('reload: images.hosts changed'))
  await send('after')
  while (!(await tail('assignments')).includes('"after"')) await sleep(200)
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
})

/** A daemon that has started; `log` is its stderr so far. */
async function startLogged(t: TestContext, site: Site, more: string[] = []) {
  const { child, ended } = start(['run', '--config', site.config, ...more])
  t.after(() => child.kill('SIGKILL'))
  let log = ''
  child.stderr!.on('data', chunk => {
    log += chunk
  })
  await until('the start', () => log.includes('"msg":"started"'))
  return { child, ended, log: () => log }
}

const LARGE = 'images: { root: ./images }\nlogging: { level: info }'
const SMALL =
  'images: { root: ./images, pixelsMax: 100 }\ntext: { charactersMax: 50 }\nlogging: { level: debug }'

/** A daemon of both roles with the configuration LARGE; `reload` writes another and sends SIGHUP. */
async function startReloadable(t: TestContext) {
  const site = makeSite(t)
  const rest = readFileSync(site.config, 'utf8').replace(/^images: .*\n/m, '')
  const write = (changed: string): void => writeFileSync(site.config, `${rest}${changed}\n`)
  write(LARGE)
  const { child, ended, log } = await startLogged(t, site)
  const said = (text: string) => {
    assert.ok(child.exitCode === null && child.signalCode === null, `it ended before: ${text}`)
    return log().includes(text)
  }
  const reload = (changed: string): void => {
    write(changed)
    child.kill('SIGHUP')
  }
  /** The outcome of these examples: the codes of the dead letters, '' for what is assigned. */
  const outcomesOf = async (examples: { id?: unknown }[]): Promise<string[]> => {
    const data = writeLines(site, 'data.jsonl', examples)
    await succeed(['produce', '--config', site.config, '--data', data])
    const topics = ['assignments', 'dead-letters']
    for (;;) {
      const [assigned, dead] = await Promise.all(topics.map(topic => readTopic(site.log, topic)))
      const outcomes = examples.map(({ id }) => {
        if (assigned!.some(record => record.key?.startsWith(`${id}@`))) return ''
        return dead!.find(record => record.key === id)?.headers.code
      })
      if (!outcomes.includes(undefined)) return outcomes as string[]
      await sleep(100)
    }
  }
  const stop = async (): Promise<string> => {
    child.kill('SIGTERM')
    const { code, stderr } = await ended
    assert.equal(code, 0, stderr)
    return stderr
  }
  return {
    site,
    reload,
    said,
    outcomesOf,
    stop,
    count: (text: string) => log().split(text).length - 1,
  }
}

test('SIGHUP puts a new log level and new limits on text and pictures in force, and takes them back', async t => {
  const { reload, said, outcomesOf, stop, count } = await startReloadable(t)
  const round = async (name: string) => [
    example(`${name}-text`, undefined, `what is ${name}, and why ${'so '.repeat(30)}?`),
    example(`${name}-picture`, dataUrl(await picture(name.length)), `what is ${name}?`),
    example(`${name}-short`, undefined, `who is ${name}?`),
  ]
  const changed = 'reload: images.pixelsMax, text.charactersMax, logging.level changed'
  assert.deepEqual(await outcomesOf(await round('first')), ['', '', ''])
  assert.equal(count('"level":"debug"'), 0)
  reload(SMALL)
  await until('the reload', () => said(changed))
  const refused = ['TEXT_TOO_LONG', 'IMAGE_TOO_MANY_PIXELS', '']
  assert.deepEqual(await outcomesOf(await round('second')), refused)
  await until('a line of level debug', () => said('"key":"second-short@'))
  reload(LARGE)
  await until('the reload', () => count(changed) === 2)
  assert.deepEqual(await outcomesOf(await round('third')), ['', '', ''])
  const stderr = await stop()
  assert.doesNotMatch(stderr, /"key":"(first|third)-short@/)
})

test('of several SIGHUPs in a row the last one is in force, and SIGTERM ends all workers', async t => {
  const { reload, outcomesOf, stop, count } = await startReloadable(t)
  const limits = (charactersMax: number) => `${LARGE}\ntext: { charactersMax: ${charactersMax} }`
  for (const charactersMax of [10, 20, 30, 400]) {
    reload(limits(charactersMax))
    await sleep(100)
  }
  const changed = 'reload: text.charactersMax changed'
  await until('the reloads', () => count(changed) + count('reload: nothing changed') === 4)
  const long = example('long', undefined, `why ${'so '.repeat(100)}?`)
  assert.deepEqual(await outcomesOf([long]), [''])
  reload(limits(500))
  await sleep(100)
  assert.doesNotMatch(await stop(), /takes too long/)
})

test('SIGHUP with a headers file that cannot be read changes nothing, and works once it can', async t => {
  const { site, reload, said, stop } = await startReloadable(t)
  const headers = join(site.folder, 'headers.yaml')
  const more = LARGE.replace('}', `, headersFile: ${headers} }`).replace('info', 'debug')
  reload(more)
  await until('the refusal', () => said('reload failed, nothing changed: '))
  writeFileSync(headers, '{}')
  reload(more)
  await until('the reload', () => said('reload: images.headersFile, logging.level changed'))
  await stop()
})

test('the last line of run says what it did, in one sentence, and as text nothing else', async t => {
  const site = makeSite(t)
  const config = ['--config', site.config]
  const data = writeLines(site, 'data.jsonl', [...(await distinct(2)), { id: 'broken' }])
  await succeed(['produce', ...config, '--data', data])
  const lastLine = async (env: NodeJS.ProcessEnv = {}): Promise<string> =>
    (await succeed(['run', ...config, '--until-idle'], env)).stderr.trimEnd().split('\n').at(-1)!
  const { msg, deadLetters } = JSON.parse(await lastLine())
  const kept = /0 of 2 examples kept \(0\.0 %\)$/.source
  assert.match(msg, new RegExp(`^stopped: 2 assigned, 1 dead letter; ${kept}`))
  assert.deepEqual(deadLetters, { CONVERSATIONS_INVALID: 1 })
  const text = await lastLine({ XMASD_LOGGING_FORMAT: 'text' })
  assert.match(text, new RegExp(`^\\[[\\d:]+\\] INFO: stopped: no examples; ${kept}`))
})

test('doctor, on a disk without free space, marks it as a failure', async t => {
  const site = makeSite(t)
  const env = { XMASD_LOG_PATH: '/proc/self/log' }
  const { stdout, code } = await run(['doctor', '--config', site.config, '--roles', 'select'], env)
  assert.match(stdout, /✗ disk +no space left: 0 MiB free at \/proc/)
  assert.equal(code, 1)
})

test('produce beside a running daemon advises none, and one without advises to run it', async t => {
  const site = makeSite(t)
  const data = writeLines(site, 'data.jsonl', await distinct(2))
  const produce = ['produce', '--config', site.config, '--data', data]
  assert.match((await succeed(produce)).stdout, /next: xmasd run/)
  const { child, ended } = await startLogged(t, site, ['--roles', 'select'])
  const { stdout } = await succeed(produce)
  assert.doesNotMatch(stdout, /xmasd run/)
  assert.match(stdout, new RegExp(`the daemon with process id ${child.pid} reads them`))
  child.kill('SIGTERM')
  assert.equal((await ended).code, 0)
})

/** Runs a shell script in a mount namespace of its own; undefined after a loud skip where none can be made. */
async function inOwnMounts(t: TestContext, script: string): Promise<string | undefined> {
  const { code, text } = await shell('unshare --mount true')
  if (code === 0) return (await shell(`unshare --mount sh -c '${script}'`)).text
  if (process.env.REQUIRE_MOUNTS === '1') throw new Error(`no mount namespace can be made: ${text}`)
  process.stderr.write(`SKIPPED, no mount namespace can be made: ${t.name}\n`)
  t.skip('needs root and mounts')
  return undefined
}

async function shell(script: string): Promise<{ code: number | null; text: string }> {
  const child = spawn('sh', ['-c', `( ${script} ) 2>&1`], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', data => {
    text += data
  })
  const [code] = await once(child, 'close')
  return { code, text }
}

test('a log on a full disk ends a command with a code and a hint, and goes on once there is room', async t => {
  const site = makeSite(t)
  const records = Array.from({ length: 4_000 }, (_, i) =>
    example(`e${i}`, undefined, `question ${i} ${'of many words '.repeat(200)}`),
  )
  const data = writeLines(site, 'data.jsonl', records)
  const xmasd = (args: string): string =>
    `"${process.execPath}" "${MAIN}" ${args} --config "${site.config}"; echo "exit $?"`
  const text = await inOwnMounts(
    t,
    [
      `mkdir "${site.log}" && mount -t tmpfs -o size=8m none "${site.log}"`,
      xmasd(`produce --data "${data}"`),
      xmasd('run --until-idle'),
      `mount -o remount,size=64m "${site.log}"`,
      xmasd(`produce --data "${data}"`),
    ].join('\n'),
  )
  if (text === undefined) return
  const [full, start, room] = text.split(/^exit /m).slice(0, 3)
  assert.match(full!, /^xmasd: .*\[(LOG_UNAVAILABLE|DISK_FULL)\]\n {2}free (some )?space/m, text)
  assert.match(start!, /^1\n[\s\S]*xmasd: .*\[(LOG_UNAVAILABLE|DISK_FULL)\]/, text)
  assert.match(room!, /4000 examples appended/, text)
  assert.match(text, /exit 0\n$/)
  assert.doesNotMatch(text, /^ +at /m)
})

test('too few open files end the daemon with a code and a hint', async t => {
  const site = makeSite(t)
  for (const files of [24, 60]) {
    const command = `"${process.execPath}" "${MAIN}" run --config "${site.config}" --until-idle`
    const { code, text } = await shell(`ulimit -n ${files}; ${command}`)
    assert.equal(code, 1, text)
    assert.match(text, /\[FILES_TOO_MANY\]\n {2}raise the limit of open files/, text)
    assert.doesNotMatch(text, /^ +at /m)
  }
})
