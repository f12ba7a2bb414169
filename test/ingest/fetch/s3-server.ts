/**
 * A real S3-compatible server for tests: S3Proxy (org.gaul:s3proxy, Apache 2.0) on a folder, which checks
 * signatures. Maven fetches it once into the cache, as the Kafka broker.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { ROOT, temporaryFolder } from '../../support.ts'

const POM = join(ROOT, 'test/ingest/fetch/s3-pom.xml')
const START_MS_MAX = 120_000

export type S3Server = {
  endpoint: string
  accessKeyId: string
  secretAccessKey: string
  /** `mode`: of its file; who is not signed in may read what others may. */
  put(bucket: string, key: string, bytes: Uint8Array, mode?: number): void
}

/** The folder of jars; undefined where Java or Maven are missing and REQUIRE_S3 is not set. */
export function s3Jars(): string | undefined {
  const isThere = (command: string): boolean => spawnSync(command, ['-version']).error === undefined
  if (isThere('java') && isThere('mvn')) return fetchJars()
  if (process.env.REQUIRE_S3 === '1')
    throw new Error('the S3 server of the tests needs a JRE and Maven')
  process.stderr.write('SKIPPED: object stores: the S3 server of the tests needs a JRE and Maven\n')
  return undefined
}

function fetchJars(): string {
  const version = /<s3proxy.version>(.*)<\/s3proxy.version>/.exec(readFileSync(POM, 'utf8'))![1]!
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'xmasd')
  const folder = join(cache, `s3proxy-${version}`)
  if (existsSync(folder)) return folder
  mkdirSync(cache, { recursive: true })
  process.stderr.write(`fetching S3Proxy ${version} into ${folder}\n`)
  const unfinished = mkdtempSync(join(cache, 'fetching-'))
  const goal = ['dependency:copy-dependencies', '-DincludeScope=runtime']
  const args = ['-B', '-q', '-f', POM, ...goal, `-DoutputDirectory=${unfinished}`]
  const { status, stdout, stderr } = spawnSync('mvn', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`Maven fetched no S3Proxy\n${stdout}${stderr}`)
  if (!existsSync(folder)) renameSync(unfinished, folder)
  return folder
}

export async function startS3(t: TestContext, jars: string): Promise<S3Server> {
  const folder = temporaryFolder(t)
  const data = join(folder, 'data')
  mkdirSync(data)
  const port = await freePort()
  const [accessKeyId, secretAccessKey] = ['AKIATESTTESTTEST', 'never/show+this/secret0123456789']
  const settings = {
    's3proxy.endpoint': `http://127.0.0.1:${port}`,
    's3proxy.authorization': 'aws-v4',
    's3proxy.identity': accessKeyId,
    's3proxy.credential': secretAccessKey,
    'jclouds.provider': 'filesystem',
    'jclouds.filesystem.basedir': data,
  }
  const file = join(folder, 's3proxy.conf')
  writeFileSync(
    file,
    Object.entries(settings)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  )
  const java = ['-Xmx256m', '-cp', `${jars}/*`, 'org.gaul.s3proxy.Main', '--properties', file]
  const child = spawn('java', java, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', text => (output += text))
  t.after(() => child.kill('SIGKILL'))
  await listening(child, port, () => output)
  const put: S3Server['put'] = (bucket, key, bytes, mode = 0o644) => {
    const path = join(data, bucket, key)
    mkdirSync(join(path, '..'), { recursive: true })
    writeFileSync(path, bytes, { mode })
  }
  return { endpoint: settings['s3proxy.endpoint'], accessKeyId, secretAccessKey, put }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

async function listening(child: ChildProcess, port: number, output: () => string): Promise<void> {
  const deadline = performance.now() + START_MS_MAX
  for (;;) {
    if (child.exitCode !== null || performance.now() > deadline) {
      throw new Error(`the S3 server did not start\n${output()}`)
    }
    const isUp = await new Promise<boolean>(resolve => {
      const asked = request({ port, host: '127.0.0.1', path: '/' }, response => {
        response.resume()
        resolve(true)
      })
      asked.on('error', () => resolve(false)).end()
    })
    if (isUp) return
    await setTimeout(100)
  }
}

/** What a fault does to an answer. */
export type Fault = 'busy' | 'unavailable' | 'cut' | 'slow'

/**
 * A proxy before the server. `faultOf` says what goes wrong with the `attempt`th request of a path, from 1.
 */
export async function startFaults(
  t: TestContext,
  endpoint: string,
  faultOf: (path: string, attempt: number) => Fault | undefined,
): Promise<{ endpoint: string; connections(): number; answers: Map<string, number> }> {
  const to = new URL(endpoint)
  const attempts = new Map<string, number>()
  const answers = new Map<string, number>()
  let connections = 0
  const server = createServer((asked, answer) => {
    const path = asked.url!
    const attempt = (attempts.get(path) ?? 0) + 1
    attempts.set(path, attempt)
    const fault = faultOf(path, attempt)
    if (fault === 'busy' || fault === 'unavailable') {
      answer.writeHead(fault === 'busy' ? 429 : 503, { 'retry-after': '0' }).end()
      return
    }
    // The Host header is signed: it goes on as it came.
    const options = { host: to.hostname, port: to.port, path, headers: asked.headers }
    request(options, async response => {
      if (fault === 'slow') await setTimeout(300)
      answer.writeHead(response.statusCode!, response.headers)
      if (fault === 'cut') {
        response.once('data', (part: Buffer) => {
          answer.write(part.subarray(0, part.length >> 1), () => answer.destroy())
        })
        return
      }
      answers.set(path, (answers.get(path) ?? 0) + 1)
      response.pipe(answer)
    }).end()
  })
  server.on('connection', () => connections++)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { endpoint: `http://127.0.0.1:${port}`, connections: () => connections, answers }
}
