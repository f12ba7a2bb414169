import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import type { ErrorCode } from '../../../src/errors.ts'
import { isAddressAllowed, parseAddressRanges } from '../../../src/ingest/fetch/address.ts'
import { fetchImage, type ImageSource } from '../../../src/ingest/fetch/image.ts'
import { IMAGE_LIMITS } from '../../../src/ingest/image/pixels.ts'
import { hostileServer } from '../../e2e/hostile.ts'
import { temporaryFolder } from '../../support.ts'
import { hasCode } from '../fixtures.ts'

const LOOPBACK = ['127.0.0.0/8', '::1/128']

function sourceOf(root: string, changes: Partial<ImageSource> = {}): ImageSource {
  return { root, limits: IMAGE_LIMITS, hosts: [], addressesAllowed: [], ...changes }
}

const anyHost = (changes: Partial<ImageSource> = {}) =>
  sourceOf('/nowhere', { hosts: ['*'], ...changes })
const loopback = (changes: Partial<ImageSource> = {}) =>
  anyHost({ addressesAllowed: LOOPBACK, ...changes })

async function fetchText(reference: string, source: ImageSource): Promise<string> {
  return Buffer.from(await fetchImage(reference, source)).toString()
}

function refused(reference: string, source: ImageSource, code: ErrorCode): Promise<void> {
  return assert.rejects(fetchImage(reference, source), hasCode(code), reference)
}

/** A real server on loopback; its port. */
async function serve(t: TestContext, listener: RequestListener): Promise<number> {
  const server = createServer(listener)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

test('a file below the root is read, by relative path, inner link or absolute path', async t => {
  const root = temporaryFolder(t)
  mkdirSync(join(root, 'deep'))
  writeFileSync(join(root, 'deep/a.png'), 'bytes')
  symlinkSync(join(root, 'deep'), join(root, 'link'))
  const source = sourceOf(root)
  for (const path of [
    'deep/a.png',
    './deep/../deep/a.png',
    'link/a.png',
    join(root, 'deep/a.png'),
  ]) {
    assert.equal(await fetchText(path, source), 'bytes', path)
  }
  const linked = join(temporaryFolder(t), 'root')
  symlinkSync(root, linked)
  assert.equal(await fetchText('deep/a.png', sourceOf(linked)), 'bytes')
})

test('paths that leave the root are refused, whether or not something is there', async t => {
  const folder = temporaryFolder(t)
  const root = join(folder, 'root')
  mkdirSync(root)
  mkdirSync(join(folder, 'root-too'))
  writeFileSync(join(folder, 'root-too/secret'), 'x')
  writeFileSync(join(folder, 'secret'), 'x')
  symlinkSync(join(folder, 'secret'), join(root, 'link'))
  symlinkSync('..', join(root, 'up'))
  const escapes = [
    '../secret',
    '../none',
    '/etc/passwd',
    'a/../../secret',
    '..',
    'link',
    'up/secret',
  ]
  for (const path of [...escapes, '../root-too/secret', join(folder, 'secret')]) {
    await refused(path, sourceOf(root), 'IMAGE_OUTSIDE_ROOT')
  }
})

test('missing files, folders, devices and FIFOs have their own codes, and nothing hangs', async t => {
  const root = temporaryFolder(t)
  mkdirSync(join(root, 'folder'))
  execFileSync('mkfifo', [join(root, 'fifo')])
  symlinkSync(join(root, 'loop'), join(root, 'loop'))
  const source = sourceOf(root)
  await refused('none.png', source, 'IMAGE_NOT_FOUND')
  await refused('x'.repeat(5000), source, 'IMAGE_NOT_FOUND')
  await refused('folder', source, 'IMAGE_UNREADABLE')
  await refused('.', source, 'IMAGE_UNREADABLE')
  await refused('fifo', source, 'IMAGE_UNREADABLE')
  await refused('loop', source, 'IMAGE_UNREADABLE')
  await refused('null', sourceOf('/dev'), 'IMAGE_UNREADABLE')
  await refused('a\0b', source, 'IMAGE_FIELD_INVALID')
  await refused('file:///etc/passwd', source, 'IMAGE_FIELD_INVALID')
  await refused('a.png', sourceOf(join(root, 'no-root')), 'IMAGE_NOT_FOUND')
})

test('a file over the byte limit is refused', async t => {
  const root = temporaryFolder(t)
  writeFileSync(join(root, 'a.png'), 'x'.repeat(11))
  const limits = { ...IMAGE_LIMITS, bytesMax: 10 }
  await refused('a.png', sourceOf(root, { limits }), 'IMAGE_TOO_MANY_BYTES')
  writeFileSync(join(root, 'a.png'), 'x'.repeat(10))
  assert.equal((await fetchImage('a.png', sourceOf(root, { limits }))).length, 10)
})

test('data: URLs are read in base64 and percent form', async () => {
  const source = sourceOf('/nowhere')
  assert.equal(await fetchText('data:image/png;base64,aGVsbG8=', source), 'hello')
  assert.equal(await fetchText('DATA:;BASE64,aGVs bG8', source), 'hello')
  assert.equal(await fetchText('data:image/png;base64,aGVsbG8%3D', source), 'hello')
  assert.deepEqual([...(await fetchImage('data:,%ff%00a', source))], [0xff, 0x00, 0x61])
})

test('malformed and oversized data: URLs are refused', async () => {
  const small = sourceOf('/nowhere', { limits: { ...IMAGE_LIMITS, bytesMax: 10 } })
  await refused('data:image/png;base64', small, 'IMAGE_FIELD_INVALID')
  await refused('data:image/png;base64,a*b', small, 'IMAGE_FIELD_INVALID')
  await refused('data:image/png,é', small, 'IMAGE_FIELD_INVALID')
  await refused(`data:;base64,${'A'.repeat(20)}`, small, 'IMAGE_TOO_MANY_BYTES')
  await refused(`data:,${'A'.repeat(11)}`, small, 'IMAGE_TOO_MANY_BYTES')
})

test('an http image is read from an allowed host, through relative redirects', async t => {
  const port = await serve(t, (request, response) => {
    if (request.url === '/a.png?x=1') response.end('bytes')
    else response.writeHead(302, { location: '/a.png?x=1' }).end()
  })
  const source = loopback({ hosts: ['LOCALHOST', '127.0.0.1'] })
  assert.equal(await fetchText(`http://127.0.0.1:${port}/a.png?x=1`, source), 'bytes')
  assert.equal(await fetchText(`HTTP://user:pass@127.1:${port}/there`, source), 'bytes')
  assert.equal(await fetchText(`http://localhost:${port}/there`, source), 'bytes')
})

test('no host is allowed by default, and only listed ones otherwise', async t => {
  let asked = 0
  const port = await serve(t, (_, response) => response.end(String(asked++)))
  const url = `http://127.0.0.1:${port}/`
  const none = sourceOf('/nowhere', { addressesAllowed: LOOPBACK })
  await refused(url, none, 'IMAGE_ADDRESS_FORBIDDEN')
  await refused(url, { ...none, hosts: ['example.com'] }, 'IMAGE_ADDRESS_FORBIDDEN')
  await refused(
    'https://notexample.com/',
    anyHost({ hosts: ['*.example.com'] }),
    'IMAGE_ADDRESS_FORBIDDEN',
  )
  assert.equal(asked, 0)
})

/** Hosts that are not public, however they are written. `@` is the port of a server that must not be asked. */
const FORBIDDEN_URLS = [
  'http://127.0.0.1:@/',
  'http://2130706433:@/',
  'http://0x7f000001:@/',
  'http://0177.0.0.1:@/',
  'http://127.1:@/',
  'http://127.0.0.1.:@/',
  'http://１２７.0.0.1:@/',
  'http://[::1]:@/',
  'http://[::ffff:127.0.0.1]:@/',
  'http://[::ffff:7f00:1]:@/',
  'http://[::127.0.0.1]:@/',
  'http://[::]:@/',
  'http://0.0.0.0:@/',
  'http://0:@/',
  'http://localhost:@/',
  'http://LOCALHOST:@/',
  'http://169.254.169.254/latest/meta-data/',
  'http://[fd00:ec2::254]/latest/meta-data/',
  'http://168.63.129.16/metadata',
  'http://10.0.0.1/',
  'http://172.16.0.1/',
  'http://192.168.1.1/',
  'http://100.100.100.200/',
  'http://[fe80::1]/',
  'http://[fc00::1]/',
  'http://[64:ff9b::7f00:1]/',
  'http://[64:ff9b:1::7f00:1]/',
  'http://[2002:7f00:1::]/',
  'http://[ff02::1]/',
  'http://224.0.0.1/',
  'http://255.255.255.255/',
]

for (const pattern of FORBIDDEN_URLS) {
  test(`${pattern} is refused unasked, also behind a redirect`, async t => {
    let asked = 0
    const target = await serve(t, (_, response) => response.end(String(asked++)))
    const url = pattern.replace('@', String(target))
    await refused(url, anyHost(), 'IMAGE_ADDRESS_FORBIDDEN')
    // The redirecting server stands on 127.0.0.2, the only address that is exempt.
    const location = url.replace(/[^ -~]+/g, encodeURIComponent)
    const server = createServer((_, response) => response.writeHead(302, { location }).end())
    await new Promise<void>(resolve => server.listen(0, '127.0.0.2', resolve))
    t.after(() => server.close())
    const { port } = server.address() as AddressInfo
    const exempt = anyHost({ addressesAllowed: ['127.0.0.2/32'] })
    await refused(`http://127.0.0.2:${port}/`, exempt, 'IMAGE_ADDRESS_FORBIDDEN')
    assert.equal(asked, 0)
  })
}

test('a redirect must stay on the listed hosts, and on http', async t => {
  const port = await serve(t, (request, response) => {
    const location = request.url === '/host' ? 'http://example.com/' : 'file:///etc/passwd'
    response.writeHead(307, { location }).end()
  })
  const source = loopback({ hosts: ['127.0.0.1'] })
  await refused(`http://127.0.0.1:${port}/host`, source, 'IMAGE_ADDRESS_FORBIDDEN')
  await refused(`http://127.0.0.1:${port}/file`, source, 'IMAGE_FIELD_INVALID')
})

test('endless redirects, error statuses, encodings and broken connections fail', async t => {
  let hops = 0
  const port = await serve(t, (request, response) => {
    if (request.url === '/404') response.writeHead(404).end()
    else if (request.url === '/503') response.writeHead(503).end()
    else if (request.url === '/gzip') response.writeHead(200, { 'content-encoding': 'gzip' }).end()
    else if (request.url === '/cut') {
      response.writeHead(200, { 'content-length': '100' }).write('half')
      setTimeout(() => response.destroy(), 20)
    } else {
      hops++
      response.writeHead(301, { location: `/${hops}x` }).end()
    }
  })
  for (const path of ['404', '503', 'gzip', 'cut', 'round']) {
    await refused(`http://127.0.0.1:${port}/${path}`, loopback(), 'IMAGE_FETCH_FAILED')
  }
  assert.equal(hops, 4)
  await assert.rejects(fetchImage(`http://127.0.0.1:${port}/503`, loopback()), { retryable: true })
  await assert.rejects(fetchImage(`http://127.0.0.1:${port}/404`, loopback()), { retryable: false })
  await refused('http://127.0.0.1:1/', loopback(), 'IMAGE_FETCH_FAILED')
  await refused('http://', loopback(), 'IMAGE_FIELD_INVALID')
})

test('the byte limit holds for announced and for streamed bodies', async t => {
  let written = 0
  const port = await serve(t, (request, response) => {
    if (request.url === '/announced') response.end('x'.repeat(5000))
    else {
      const timer = setInterval(() => {
        written += 1000
        response.write('x'.repeat(1000))
      }, 1)
      response.on('close', () => clearInterval(timer))
    }
  })
  const source = loopback({ limits: { ...IMAGE_LIMITS, bytesMax: 4000 } })
  await refused(`http://127.0.0.1:${port}/announced`, source, 'IMAGE_TOO_MANY_BYTES')
  await refused(`http://127.0.0.1:${port}/endless`, source, 'IMAGE_TOO_MANY_BYTES')
  assert.ok(written < 1_000_000)
})

test('one clock runs over connection, redirects and body', async t => {
  const port = await serve(t, (request, response) => {
    if (request.url === '/silent') return
    if (request.url === '/drip') {
      const timer = setInterval(() => response.write('x'), 20)
      response.on('close', () => clearInterval(timer))
    } else {
      setTimeout(() => response.writeHead(302, { location: '/silent' }).end(), 100)
    }
  })
  const source = loopback({ limits: { ...IMAGE_LIMITS, timeMsMax: 150 } })
  for (const path of ['silent', 'drip', 'slow']) {
    const started = performance.now()
    await refused(`http://127.0.0.1:${port}/${path}`, source, 'IMAGE_TIMEOUT')
    assert.ok(performance.now() - started < 10_000)
  }
})

test('public addresses are allowed, and exempt ranges in either family', () => {
  const none = parseAddressRanges([])
  assert.ok(isAddressAllowed('8.8.8.8', none))
  assert.ok(isAddressAllowed('2606:4700::1111', none))
  assert.ok(!isAddressAllowed('4000::1', none))
  assert.ok(!isAddressAllowed('not an address', none))
  const some = parseAddressRanges(['10.1.0.0/16', 'fd00::/8', '127.0.0.1'])
  assert.ok(isAddressAllowed('10.1.2.3', some))
  assert.ok(isAddressAllowed('::ffff:10.1.2.3', some))
  assert.ok(isAddressAllowed('fd00::1', some))
  assert.ok(isAddressAllowed('127.0.0.1', some))
  assert.ok(!isAddressAllowed('10.2.0.1', some))
  assert.throws(() => parseAddressRanges(['10.1.0.0/99']), hasCode('CONFIG_INVALID'))
  assert.throws(() => parseAddressRanges(['localhost']), hasCode('CONFIG_INVALID'))
})

test('a data: URL of 160,000 = and a letter is refused in linear time', async () => {
  const url = (count: number) => `data:image/png;base64,${'='.repeat(count)}A`
  const started = process.cpuUsage()
  await refused(url(160_000), sourceOf('/nowhere'), 'IMAGE_FIELD_INVALID')
  await refused(url(900_000), sourceOf('/nowhere'), 'IMAGE_FIELD_INVALID')
  assert.ok(process.cpuUsage(started).user < 1_000_000)
})

const STALLS: [string, string, ErrorCode][] = [
  ['switches protocols', '/switching-protocols', 'IMAGE_FETCH_FAILED'],
  ['says nothing', '/silent', 'IMAGE_TIMEOUT'],
  ['drips', '/drip', 'IMAGE_TIMEOUT'],
  ['says Continue for ever', '/continue', 'IMAGE_TIMEOUT'],
]

for (const [what, path, code] of STALLS) {
  test(`a server that ${what} ends as ${code} within the time`, async t => {
    const server = await hostileServer(t)
    const limits = { ...IMAGE_LIMITS, timeMsMax: 500 }
    const started = performance.now()
    await refused(`${server}${path}`, loopback({ limits }), code)
    assert.ok(performance.now() - started < 30_000)
  })
}

test('no message of a fetch shows the credentials of its URL', async t => {
  const server = await hostileServer(t)
  const secret = (path: string) =>
    `${server.replace('//', '//user:s3cret@')}${path}?sig=s3cret#s3cret`
  const sources = [anyHost(), sourceOf('/nowhere'), loopback()]
  const paths = ['/redirect', '/redirect-file', '/early-end', '/garbage', '/gzip']
  const errors = await Promise.all(
    paths.flatMap(path =>
      sources.map(source => fetchImage(secret(path), source).then(() => undefined, String)),
    ),
  )
  for (const error of errors) assert.ok(error !== undefined && !error.includes('s3cret'), error)
})

test('base64 without data: is told what to write in front, a path that looks like it is read', async t => {
  const root = temporaryFolder(t)
  const bytes = Buffer.alloc(90, 7)
  for (const [start, type] of [
    ['iVBORw', 'png'],
    ['/9j/4A', 'jpeg'],
    ['R0lGOD', 'gif'],
    ['UklGRi', 'webp'],
  ]) {
    for (const reference of [
      `${start}${bytes.toString('base64')}==`,
      `${start}${'A'.repeat(9000)}`,
    ]) {
      await assert.rejects(fetchImage(reference, sourceOf(root)), {
        code: 'IMAGE_FIELD_INVALID',
        message: /bytes in base64, read as a path/,
        hint: new RegExp(`write data:image/${type};base64,`),
      })
    }
  }
  const path = `iVBORw${'a'.repeat(80)}`
  writeFileSync(join(root, path), 'bytes')
  assert.equal(await fetchText(path, sourceOf(root)), 'bytes')
  await refused('iVBORw.png', sourceOf(root), 'IMAGE_NOT_FOUND')
  await refused('/9j/photo', sourceOf(root), 'IMAGE_OUTSIDE_ROOT')
})
