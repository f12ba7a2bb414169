/** Drives the built command, and makes what it needs: a folder with config, images, examples. */
import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { LogRecord } from '../../src/log/log.ts'
import { FILE, MAIN, type Owner, ROOT, temporaryFolder } from '../support.ts'

export type Ended = {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** What tests read of the environment is no key of the configuration. */
const ENV = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('XMASD_TEST_')),
)

/** Starts `node dist/main.js ...args`; `ended` settles when it has exited. */
export function start(args: string[], env: NodeJS.ProcessEnv = {}, main = MAIN) {
  const child = spawn(process.execPath, [main, ...args], {
    env: { ...ENV, NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  return { child, ended: collect(child) }
}

/** Where a `run` that has just been started serves HTTP. */
export function servedAt(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let seen = ''
    child.once('exit', code => reject(new Error(`exit code ${code} before it served:\n${seen}`)))
    child.stderr!.on('data', (text: string) => {
      seen += text
      const found = /"http":"([^"]+)"/.exec(seen)
      if (found !== null) resolve(found[1]!)
    })
  })
}

function collect(child: ChildProcess): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  child.stdout!.setEncoding('utf8').on('data', text => {
    stdout += text
  })
  child.stderr!.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  return new Promise(resolve => {
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}

/** Runs to the end. */
export function run(args: string[], env: NodeJS.ProcessEnv = {}, main = MAIN): Promise<Ended> {
  return start(args, env, main).ended
}

/** As `run`, failing loudly unless it exits 0. */
export async function succeed(args: string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const ended = await run(args, env)
  if (ended.code !== 0) {
    throw new Error(
      `${args.join(' ')}: exit ${ended.code ?? ended.signal}\n${ended.stderr}${ended.stdout}`,
    )
  }
  return ended
}

export const DEMO_PROXY = join(ROOT, 'config/demo/proxy')
export const DEMO_BUNDLE = join(ROOT, 'config/demo/bundle')

export type Site = { folder: string; config: string; images: string; log: string }

/** A folder with an image root and a configuration on the demo's proxy; `more` is YAML to add. */
export function makeSite(t: Owner, more = ''): Site {
  const folder = temporaryFolder(t)
  const images = join(folder, 'images')
  mkdirSync(images)
  const config = join(folder, 'xmasd.yaml')
  const lines = [
    'log: { path: ./log }',
    'images: { root: ./images }',
    `proxy: { path: ${DEMO_PROXY}, workers: 1 }`,
    `bundle: ${DEMO_BUNDLE}`,
    'http: { enabled: false }',
    'score: { ingestWorkers: 1 }', // each worker takes half a second to start
  ]
  writeFileSync(config, overlay(lines, more))
  return { folder, config, images, log: join(folder, 'log') }
}

const demoLogs = new Map<number, Promise<string>>()

/** A site with the log of a demo over so many examples: it is made once for the tests of a file. */
export async function makeDemoSite(t: Owner, examples: number, more = ''): Promise<Site> {
  const site = makeSite(t, more)
  const made = demoLogs.get(examples) ?? makeDemoLog(examples)
  demoLogs.set(examples, made)
  cpSync(await made, site.folder, { recursive: true, force: false })
  return site
}

/** The folder that holds it. */
async function makeDemoLog(examples: number): Promise<string> {
  const folder = temporaryFolder(FILE)
  await succeed(['demo', '--examples', String(examples), '--path', folder])
  return folder
}

/** The folder of the proxy that the site's configuration names. */
export function proxyOf({ config }: Site): string {
  return /proxy: \{ path: ([^,}]*)/.exec(readFileSync(config, 'utf8'))![1]!.trim()
}

/** Top-level keys of `more` replace those of `lines`. */
function overlay(lines: string[], more: string): string {
  const replaced = new Set([...more.matchAll(/^(\w+):/gm)].map(([, key]) => key))
  return `${lines.filter(line => !replaced.has(line.split(':')[0])).join('\n')}\n${more}\n`
}

/** A small picture whose pixels follow from `n`. */
export function picture(n: number, side = 24): Promise<Buffer> {
  const data = Buffer.alloc(side * side * 3)
  for (let i = 0; i < data.length; i++)
    data[i] = (n * 37 + i * (3 + (n % 11)) + ((i * i) >> 6)) & 255
  return sharp(data, { raw: { width: side, height: side, channels: 3 } })
    .png()
    .toBuffer()
}

/** An example with a question about `image`. */
export function example(id: unknown, image: string | undefined, question: string, answer = 'yes') {
  const value = image === undefined ? question : `<image>\n${question}`
  return {
    id,
    ...(image === undefined ? {} : { image }),
    conversations: [
      { from: 'human', value },
      { from: 'gpt', value: answer },
    ],
  }
}

/** `count` examples, each with a picture and a question of its own; the first has the number `from`. */
export async function distinct(count: number, from = 0): Promise<object[]> {
  return Promise.all(
    Array.from({ length: count }, async (_, i) =>
      example(`e${from + i}`, dataUrl(await picture(from + i)), `what is number ${from + i}?`),
    ),
  )
}

/** Writes a line of JSON for each into the site's folder; the file's path. */
export function writeLines(site: Site, name: string, values: readonly unknown[]): string {
  const file = join(site.folder, name)
  writeFileSync(file, values.map(value => `${JSON.stringify(value)}\n`).join(''))
  return file
}

/** Settings under which the select role decides everything again, beside what it has decided. */
export const REPLAY = {
  XMASD_SELECT_GROUP: 'replay',
  XMASD_LOG_TOPICS_DECISIONS: 'replayed-decisions',
  XMASD_LOG_TOPICS_SUBSET: 'replayed-subset',
  XMASD_LOG_TOPICS_SHADOW: 'replayed-shadow',
}

export function dataUrl(png: Buffer): string {
  return `data:image/png;base64,${png.toString('base64')}`
}

/** All records of one topic of a closed or running local log. */
export async function readTopic(path: string, topic: string): Promise<LogRecord[]> {
  const log = await openLocalLog({ path })
  try {
    const records: LogRecord[] = []
    for await (const record of log.read(topic)) records.push(record)
    return records
  } finally {
    await log.close()
  }
}

export function jsonOf<T>(record: LogRecord): T {
  return JSON.parse(Buffer.from(record.value!).toString()) as T
}
