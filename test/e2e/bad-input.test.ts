import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { crc32, deflateSync } from 'node:zlib'
import sharp from 'sharp'
import { openLocalLog } from '../../src/log/local/log.ts'
import { readHeader } from '../../src/proxy/checkpoint/safetensors.ts'
import type { Assignment } from '../../src/record.ts'
import {
  DEMO_PROXY,
  dataUrl,
  example,
  jsonOf,
  makeSite,
  picture,
  readTopic,
  succeed,
} from './command.ts'

type Case = { name: string; value: Buffer; code: string }

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const turns = (...list: [string, unknown][]) => list.map(([from, value]) => ({ from, value }))
const good = turns(['human', '<image>\nwhat?'], ['gpt', 'this'])

/** Everything wrong with the text of a record. */
function textCases(): Case[] {
  const talk = (conversations: unknown): unknown => ({ id: 'x', conversations })
  const rows: [string, Buffer, string][] = [
    ['not JSON', Buffer.from('{"id": "a", '), 'NOT_JSON'],
    ['an empty record', Buffer.alloc(0), 'NOT_JSON'],
    ['an array', json([1, 2]), 'NOT_AN_OBJECT'],
    ['a number', json(7), 'NOT_AN_OBJECT'],
    ['null', json(null), 'NOT_AN_OBJECT'],
    ['invalid UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]), 'NOT_UTF8'],
    ['an empty id', json(example('', undefined, 'q')), 'ID_INVALID'],
    ['an object as id', json(example({}, undefined, 'q')), 'ID_INVALID'],
    ['an id of 10 kB', json(example('x'.repeat(10_000), undefined, 'q')), 'ID_TOO_LONG'],
    ['no conversations', json({ id: 'x' }), 'CONVERSATIONS_INVALID'],
    ['empty conversations', json(talk([])), 'CONVERSATIONS_INVALID'],
    ['conversations of text', json(talk('hello')), 'CONVERSATIONS_INVALID'],
    ['a turn without a value', json(talk([{ from: 'human' }])), 'CONVERSATIONS_INVALID'],
    ['an unknown role', json(talk(turns(['human', 'q'], ['wizard', 'a']))), 'ROLE_UNKNOWN'],
    [
      'two questions in a row',
      json(talk(turns(['human', 'q'], ['human', 'q']))),
      'TURNS_MISORDERED',
    ],
    ['a question without an answer', json(talk(turns(['human', 'q']))), 'TURNS_MISORDERED'],
    [
      'a lone surrogate',
      Buffer.from(
        '{"id":"x","conversations":[{"from":"human","value":"\\ud800"},{"from":"gpt","value":"a"}]}',
      ),
      'TEXT_INVALID',
    ],
    [
      '<image> without an image',
      json(example('x', undefined, '<image>\nq')),
      'PLACEHOLDER_WITHOUT_IMAGE',
    ],
    [
      'an image with the mark of another form',
      json({ ...example('x', undefined, '<|image|>q'), image: 'good.png' }),
      'IMAGE_WITHOUT_PLACEHOLDER',
    ],
    [
      'an image that is a number',
      json({ id: 'x', image: 5, conversations: good }),
      'IMAGE_FIELD_INVALID',
    ],
  ]
  return rows.map(([name, value, code]) => ({ name, value, code }))
}

/** Everything wrong with an image or its address. `server` is a real one on loopback. */
function imageCases(server: string): Case[] {
  const rows: [string, string, string][] = [
    ['a path that leaves the root', '../secret.png', 'IMAGE_OUTSIDE_ROOT'],
    ['an absolute path', '/etc/hostname', 'IMAGE_OUTSIDE_ROOT'],
    ['a symlink that leaves the root', 'link.png', 'IMAGE_OUTSIDE_ROOT'],
    ['a missing file', 'missing.png', 'IMAGE_NOT_FOUND'],
    ['a folder', 'folder', 'IMAGE_UNREADABLE'],
    ['a private address', 'http://10.0.0.1/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['a link-local address', 'http://169.254.1.1/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['the metadata address', 'http://169.254.169.254/latest/meta-data', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['another loopback address', 'http://127.0.0.2/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['loopback in decimal', 'http://2130706434/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['IPv6 loopback', 'http://[::1]/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['IPv4-mapped loopback', 'http://[::ffff:127.0.0.2]/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['a unique-local address', 'http://[fd00::1]/a.png', 'IMAGE_ADDRESS_FORBIDDEN'],
    ['a redirect to the metadata address', `${server}/redirect`, 'IMAGE_ADDRESS_FORBIDDEN'],
    ['a page that is not there', `${server}/404`, 'IMAGE_FETCH_FAILED'],
    ['bytes that are no image', 'text.png', 'IMAGE_UNDECODABLE'],
    ['a truncated JPEG', 'truncated.jpg', 'IMAGE_UNDECODABLE'],
    ['a file over the byte limit', 'large.bin', 'IMAGE_TOO_MANY_BYTES'],
    ['a download over the byte limit', `${server}/large`, 'IMAGE_TOO_MANY_BYTES'],
    ['a PNG of 30,000×30,000 pixels', 'bomb.png', 'IMAGE_TOO_MANY_PIXELS'],
    ['an animated GIF', 'animated.gif', 'IMAGE_ANIMATED'],
    ['a score that is not finite', 'good.png', 'SCORE_NOT_FINITE'],
  ]
  return rows.map(([name, image, code]) => {
    const question = code === 'SCORE_NOT_FINITE' ? POISON : 'what?'
    return { name, value: json(example(name, image, question)), code }
  })
}

/** A byte that no other example holds: its embedding is made not-a-number below. */
const POISON = '\u0001'

test('bad input of every kind ends in dead-letters and every good example around it is decided', async t => {
  const server = await imageServer(t)
  const site = makeSite(t, poisonedSiteYaml(t))
  await makeImages(site.folder, site.images)
  const bad = [...textCases(), ...imageCases(server)]
  const goodOnes = await goodExamples(server, bad.length + 1)
  const values = bad.flatMap(({ value }, i) => [goodOnes[i]!, value])
  values.push(goodOnes[bad.length]!)

  const log = await openLocalLog({ path: site.log })
  await log.ensureTopics([{ name: 'examples', partitions: 1 }])
  await log.append(values.map(value => ({ topic: 'examples', key: null, value })))
  await log.close()
  const ended = await succeed(['run', '--config', site.config, '--until-idle', '--json'])
  const summary = JSON.parse(ended.stdout)

  const letters = await readTopic(site.log, 'dead-letters')
  for (const [i, { name, value, code }] of bad.entries()) {
    await t.test(name, () => {
      const source = { topic: 'examples', partition: 0, offset: 2 * i + 1 }
      const letter = letters.find(({ headers }) => headers.source === JSON.stringify(source))
      assert.ok(letter, 'no dead letter names this record')
      assert.equal(letter.headers.code, code, letter.headers.message)
      assert.ok(letter.headers.hint!.length > 10, 'a hint says what to do')
      assert.deepEqual(Buffer.from(letter.value!), value, 'the original bytes')
    })
  }
  assert.equal(letters.length, bad.length)
  const assignments = (await readTopic(site.log, 'assignments')).map(record =>
    jsonOf<Assignment>(record),
  )
  assert.deepEqual(
    assignments.map(({ source }) => source.offset),
    goodOnes.map((_, i) => 2 * i),
  )
  assert.ok(assignments.every(({ trajectory }) => trajectory?.every(Number.isFinite)))
  assert.equal(summary.examples.dead_letter, bad.length)
  assert.equal(summary.examples.assigned, goodOnes.length)
})

/** Good ones of several kinds, the 1×1 picture, the overlong text and a real download among them. */
async function goodExamples(server: string, count: number): Promise<Buffer[]> {
  const one = dataUrl(await picture(3, 1))
  const special = [
    example('one pixel', one, 'what?'),
    example('a file', 'good.png', 'what?'),
    example('overlong', 'good.png', 'what? '.repeat(20), 'again '.repeat(3_000)),
    example('downloaded', `${server}/good`, 'what?'),
    example('a redirect', `${server}/moved`, 'what else?'),
  ]
  const rest = Array.from({ length: count - special.length }, async (_, i) =>
    example(`good-${i}`, dataUrl(await picture(i)), `what is number ${i}?`),
  )
  return [...special, ...(await Promise.all(rest))].map(json)
}

async function imageServer(t: TestContext): Promise<string> {
  const png = await picture(77)
  const server = createServer((request, response) => {
    const redirect = (location: string) => response.writeHead(302, { location }).end()
    if (request.url === '/good') response.writeHead(200, { 'content-type': 'image/png' }).end(png)
    else if (request.url === '/moved') redirect('/good')
    else if (request.url === '/redirect') redirect('http://169.254.169.254/latest/meta-data')
    else if (request.url === '/large') response.writeHead(200).end(Buffer.alloc(400_000))
    else response.writeHead(404).end()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** The demo's proxy with one embedding row not-a-number, so that one input makes the score non-finite. */
function poisonedSiteYaml(t: TestContext): string {
  const { folder } = makeSite(t)
  const proxy = join(folder, 'proxy')
  cpSync(DEMO_PROXY, proxy, { recursive: true })
  for (const name of readdirSync(proxy).filter(entry => entry.startsWith('checkpoint-'))) {
    poison(join(proxy, name))
  }
  return [
    `proxy: { path: ${proxy} }`,
    "images: { root: ./images, bytesMax: 300000, hosts: ['*'], addressesAllowed: ['127.0.0.1/32'] }",
    '',
  ].join('\n')
}

function poison(checkpoint: string): void {
  const file = join(checkpoint, 'model.safetensors')
  const tokenizer = JSON.parse(readFileSync(join(checkpoint, 'tokenizer.json'), 'utf8'))
  const row = tokenizer.model.vocab['\u0101'] // byte 1 in the byte-level alphabet
  const { tensors } = readHeader(file)
  const [, entry] = [...tensors].find(([name]) => name.endsWith('embed_tokens.weight'))!
  const bytes = readFileSync(file)
  bytes.writeFloatLE(Number.NaN, entry.offset + row * entry.shape[1]! * 4)
  writeFileSync(file, bytes)
}

async function makeImages(folder: string, images: string): Promise<void> {
  const put = (name: string, bytes: Buffer | string) => writeFileSync(join(images, name), bytes)
  const png = await picture(5)
  const jpeg = await sharp(await picture(6, 64))
    .jpeg()
    .toBuffer()
  writeFileSync(join(folder, 'secret.png'), png)
  symlinkSync(join(folder, 'secret.png'), join(images, 'link.png'))
  mkdirSync(join(images, 'folder'))
  put('good.png', png)
  put('text.png', 'this is no picture')
  put('truncated.jpg', jpeg.subarray(0, jpeg.length >> 1))
  put('large.bin', Buffer.alloc(400_000))
  put('bomb.png', pngOf(30_000, 30_000))
  put('animated.gif', await animatedGif())
}

/** A valid one-bit grey PNG of any size. */
function pngOf(width: number, height: number): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header[8] = 1
  const rows = deflateSync(Buffer.alloc((1 + Math.ceil(width / 8)) * height), { level: 6 })
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', rows),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type), data])
  const framed = Buffer.alloc(8 + body.length)
  framed.writeUInt32BE(data.length, 0)
  body.copy(framed, 4)
  framed.writeUInt32BE(crc32(body), 4 + body.length)
  return framed
}

function animatedGif(): Promise<Buffer> {
  const frames = Buffer.alloc(8 * 24 * 3, 10)
  frames.fill(200, 8 * 8 * 3)
  return sharp(frames, { raw: { width: 8, height: 24, channels: 3, pageHeight: 8 } })
    .gif({ delay: [100, 100, 100] })
    .toBuffer()
}
