/**
 * Records that were made to hold up, break or bloat whoever reads them. Each is below 1 MB; the daemon
 * ends each as an assignment or a dead letter while good records pass.
 */
import { createServer, type Server, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { crc32, deflateSync } from 'node:zlib'

export type HostileRecord = { name: string; bytes: Buffer }

/** Characters of text that the defaults allow in one example, less what a good question has. */
const TEXT = 131_000
const DEMO_MARK = '<image>\n'

/**
 * At least 60 kinds. With the address of `hostileServer` also those that a server makes; its host and
 * address must be allowed by `images.hosts` and `images.addressesAllowed`.
 */
export function hostileRecords(server?: string): HostileRecord[] {
  const made = [
    ...textRecords(),
    ...jsonRecords(),
    ...dataUrlRecords(),
    ...pngRecords(),
    ...otherImageRecords(),
    ...pathRecords(),
    ...(server === undefined ? [] : PATHS.map(path => image(`server ${path}`, server + path))),
  ]
  return made.map(({ name, bytes }) => ({ name, bytes: Buffer.from(bytes) }))
}

type Made = { name: string; bytes: string | Uint8Array }

const turn = (from: string, value: unknown) => ({ from, value })
const record = (name: string, fields: object): Made => ({
  name,
  bytes: JSON.stringify({ id: `hostile ${name}`, ...fields }),
})
const text = (name: string, question: string, answer = 'yes'): Made =>
  record(name, { conversations: [turn('human', question), turn('gpt', answer)] })
const image = (name: string, reference: unknown, question = `${DEMO_MARK}What?`): Made =>
  record(name, { image: reference, conversations: [turn('human', question), turn('gpt', 'this')] })
const dataUrl = (bytes: Uint8Array, type = 'image/png'): string =>
  `data:${type};base64,${Buffer.from(bytes).toString('base64')}`
/** As often as it fits the limit on text. */
const filled = (piece: string, characters = TEXT): string =>
  piece.repeat(Math.floor(characters / piece.length))

function textRecords(): Made[] {
  const marks = (count: number) => `a${'\u0301'.repeat(count)}${'\u0316'.repeat(count)}`
  const shown = dataUrl(png({ width: 2, height: 2 }))
  const turns = Array.from({ length: 512 }, () => [turn('human', 'q'), turn('gpt', 'a')]).flat()
  return [
    text('100,000 combining marks out of order', marks(50_000)),
    text('64 combining marks on every letter', filled(marks(32))),
    text('24,000 dots and a letter', `${'.'.repeat(24_000)}x`),
    text('dots to the limit', `${filled('.')}x`),
    text('signs and quotes', filled('?"')),
    text('dashes', filled(' -')),
    text('ligatures that spell out a sentence', filled('\ufdfa')),
    text('one word to the limit', filled('a')),
    text('random letters to the limit', letters(TEXT)),
    text('spaces to the limit', filled(' ')),
    text('line ends to the limit', filled('\n')),
    text('Han characters to the limit', filled('的')),
    text('families of emoji', filled('👩‍👩‍👧‍👦')),
    text('Hangul in pieces', filled('\u1112\u1161\u11ab')),
    text('digits and signs', filled('1 - 2 * ')),
    text('bidi and terminal controls', filled('\u202e\u001b[2J\u0007\u009b31m')),
    text('NUL characters', filled('\0')),
    text('politeness', filled('thank you very much so kind as to ')),
    text('replacement patterns', filled("$&$'$`$1")),
    text('slots of a template', filled('{{content}}{{system}}')),
    text('end tokens', filled('</s><|im_end|><|endoftext|>')),
    text('an answer to the limit', 'What?', letters(TEXT)),
    text('text beyond the limit', letters(800_000)),
    image('one word beside a picture', shown, DEMO_MARK + filled('a')),
    image('spaces beside a picture', shown, DEMO_MARK + filled(' ')),
    image('end tokens beside a picture', shown, DEMO_MARK + filled('</s>')),
    image('letters of four bytes beside a picture', shown, DEMO_MARK + filled('🜁')),
    image('10,000 marks of one picture', shown, filled('<image>', 70_000)),
    image('a mark within a mark', shown, filled('<ima<image>ge>', 70_000)),
    record('1,024 turns', { conversations: turns }),
    record('1,024 turns beside a picture', {
      image: shown,
      conversations: [turn('human', `${DEMO_MARK}q`), ...turns.slice(1)],
    }),
    record('100,000 turns', { conversations: Array(30_000).fill(turn('human', 'q')) }),
  ]
}

function jsonRecords(): Made[] {
  const talk = '"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]'
  const good = `{"id":"j",${talk}}`
  const with_ = (field: string) => `{${field},"id":"j",${talk}}`
  const deep = '['.repeat(200_000) + ']'.repeat(200_000)
  const keys = (key: (i: number) => string) =>
    `{${Array.from({ length: 40_000 }, (_, i) => `${JSON.stringify(key(i))}:1`).join(',')},${good.slice(1)}`
  return [
    { name: 'an empty record', bytes: '' },
    { name: 'an array 200,000 deep', bytes: deep },
    { name: 'a field 200,000 deep', bytes: with_(`"x":${deep}`) },
    { name: 'conversations 200,000 deep', bytes: `{"id":"j","conversations":${deep}}` },
    { name: '40,000 keys', bytes: keys(i => `k${i}`) },
    { name: 'one key 40,000 times', bytes: keys(() => 'k') },
    {
      name: '__proto__ and constructor',
      bytes: with_('"__proto__":{"id":1},"constructor":{"a":1}'),
    },
    { name: 'a number of 900,000 digits', bytes: with_(`"x":${'9'.repeat(900_000)}`) },
    { name: 'an id of 900,000 digits', bytes: `{"id":${'9'.repeat(900_000)},${talk}}` },
    { name: 'an id of 900,000 letters', bytes: `{"id":"${'i'.repeat(900_000)}",${talk}}` },
    { name: 'a string that never ends', bytes: `{"id":"${'a'.repeat(900_000)}` },
    { name: 'escapes and a NaN', bytes: with_(`"x":"${'\\"'.repeat(400_000)}","y":NaN`) },
    { name: 'NaN 200,000 times', bytes: with_(`"x":[${Array(200_000).fill('NaN').join(',')}]`) },
    { name: 'strings without ends and a NaN', bytes: `{"x":NaN,${'"'.repeat(300_001)}` },
    { name: 'spaces of 900 kB', bytes: ' '.repeat(900_000) + good },
    { name: 'invalid UTF-8', bytes: Buffer.from(good.replace('"q"', '"\u00ff"'), 'latin1') },
    { name: 'UTF-16', bytes: Buffer.from(`\ufeff${good}`, 'utf16le') },
    { name: 'random bytes', bytes: Buffer.from(letters(900_000, 256), 'latin1') },
    { name: 'an unread field of 900 kB', bytes: with_(`"x":"${letters(900_000)}"`) },
    { name: 'a file name in an unread field', bytes: with_(`"x":"${'a.png '.repeat(100_000)}"`) },
  ]
}

function dataUrlRecords(): Made[] {
  const head = 'data:image/png;base64,'
  return [
    image('160,000 = and a letter', `${head}${'='.repeat(160_000)}A`),
    image('spaces in base64', `${head}${' '.repeat(900_000)}A`),
    image('percent signs', `data:image/png,${'%'.repeat(900_000)}`),
    image('percent-encoded base64', `${head}${'%3D'.repeat(300_000)}A`),
    image('a media type without end', `data:${';base64 '.repeat(100_000)}`),
    image('spaces before the comma', `data:;base64${' '.repeat(800_000)}x,`),
    image('base64 of 0 to 9', `${head}${'0123456789'.repeat(90_000)}`),
    image('no bytes', head),
  ]
}

function pngRecords(): Made[] {
  const wide = dataUrl(png({ width: 8000, height: 8000 }))
  const chunk = (type: string, content: Buffer) =>
    png({ width: 2, height: 2, before: [[type, content]] })
  const bomb = deflateSync(Buffer.alloc(64 << 20), { level: 9 })
  const marks = (count: number) => '<image>'.repeat(count)
  return [
    image('a PNG of 64 million pixels of one bit', wide),
    image('4 such PNGs', Array(4).fill(wide), `${marks(4)}\nWhat?`),
    image('16 such PNGs', Array(16).fill(wide), `${marks(16)}\nWhat?`),
    image(
      'an interlaced PNG of 64 million pixels',
      dataUrl(png({ width: 8000, height: 8000, interlaced: true })),
    ),
    image(
      'a PNG that says 2³¹ - 1 pixels a side',
      dataUrl(png({ width: 2 ** 31 - 1, height: 2 ** 31 - 1, rows: 1 })),
    ),
    image('a PNG of 1 × 1,000,000 pixels', dataUrl(png({ width: 1, height: 1_000_000 }))),
    image('a PNG of 1,000,000 × 1 pixels', dataUrl(png({ width: 1_000_000, height: 1 }))),
    image('a PNG without rows', dataUrl(png({ width: 8000, height: 8000, rows: 0 }))),
    image(
      'a PNG with a bomb of text',
      dataUrl(chunk('zTXt', Buffer.concat([Buffer.from('a\0\0'), bomb]))),
    ),
    image(
      'a PNG with a bomb of a profile',
      dataUrl(chunk('iCCP', Buffer.concat([Buffer.from('a\0\0'), bomb]))),
    ),
    image(
      'a PNG of 50,000 chunks',
      dataUrl(
        png({ width: 2, height: 2, before: Array(50_000).fill(['tEXt', Buffer.from('a\0')]) }),
      ),
    ),
    image(
      'a PNG whose chunk is longer than the file',
      dataUrl(png({ width: 2, height: 2 }).subarray(0, 45)),
    ),
    image('a PNG whose pixels go on for 64 MB', dataUrl(png({ width: 2, height: 2, data: bomb }))),
  ]
}

function otherImageRecords(): Made[] {
  const uses = Array.from(
    { length: 30 },
    (_, i) => `<g id="g${i + 1}">${`<use href="#g${i}"/>`.repeat(8)}</g>`,
  )
  const chain = `<svg xmlns="http://www.w3.org/2000/svg"><g id="g0"><rect width="1" height="1"/></g>${uses.join('')}<use href="#g30"/></svg>`
  const rules = Array.from({ length: 14_000 }, (_, i) => `a b c d e f g h i${i}:not(.x){fill:#f00}`)
  const css = `<svg xmlns="http://www.w3.org/2000/svg"><style>${rules.join('')}</style><a/></svg>`
  const gif = (width: number, height: number) => {
    const head = Buffer.from('GIF89a\0\0\0\0\x80\0\0\0\0\0\xff\xff\xff', 'latin1')
    head.writeUInt16LE(width, 6)
    head.writeUInt16LE(height, 8)
    return head
  }
  const frame = Buffer.from(',\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0', 'latin1')
  const large = Buffer.from(',\0\0\0\0@\x1f@\x1f\0\x02', 'latin1')
  return [
    image('an SVG chain of <use>', dataUrl(Buffer.from(chain), 'image/svg+xml')),
    image('an SVG of 14,000 CSS rules', dataUrl(Buffer.from(css), 'image/svg+xml')),
    image('an SVG that calls itself a PNG', dataUrl(Buffer.from(chain), 'image/png')),
    image('an SVG behind the name of a GIF', dataUrl(Buffer.from(`GIF89a${chain}`), 'image/gif')),
    image(
      'a GIF with a canvas of 65,535 × 65,535',
      dataUrl(Buffer.concat([gif(65_535, 65_535), frame, Buffer.from(';')])),
    ),
    image(
      'a GIF of 40,000 frames',
      dataUrl(Buffer.concat([gif(1, 1), ...Array(40_000).fill(frame), Buffer.from(';')])),
    ),
    image(
      'a GIF of 64 million pixels without data',
      dataUrl(Buffer.concat([gif(8000, 8000), large, Buffer.from('\0;', 'latin1')])),
    ),
    image(
      'a GIF whose blocks never end',
      dataUrl(Buffer.concat([gif(1, 1), Buffer.from('!\xfe', 'latin1'), Buffer.alloc(600_000, 1)])),
    ),
    image('a JPEG of 1,000 scans', dataUrl(jpegOfScans(1000))),
    image('a JPEG of 65,500 × 970 pixels without data', dataUrl(jpegOfScans(1, 65_500, 970))),
    image('a JPEG that ends at once', dataUrl(Buffer.from('ffd8ff', 'hex'))),
    image(
      'a JPEG of restart markers',
      dataUrl(Buffer.concat([jpegOfScans(1), Buffer.alloc(600_000, Buffer.from('ffd0', 'hex'))])),
    ),
    image(
      'a WebP that says 4 GB',
      dataUrl(Buffer.from('RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff', 'latin1')),
    ),
    image(
      'a WebP of 16,383 × 16,383 without data',
      dataUrl(
        Buffer.from(
          'RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xfe\xbf\xff\x0f\0\0\0\0\0\0\0\0\0',
          'latin1',
        ),
      ),
    ),
    image('a TIFF', dataUrl(Buffer.from('II*\0\x08\0\0\0\xff\xff', 'latin1'))),
    image('a PDF', dataUrl(Buffer.from('%PDF-1.7\n'.repeat(1000)))),
    image('a HEIF', dataUrl(Buffer.from('\0\0\0\x18ftypheic\0\0\0\0heicmif1', 'latin1'))),
    image('a table of numbers', dataUrl(Buffer.from('1,2,3\n'.repeat(90_000)))),
    image('random bytes as a picture', dataUrl(Buffer.from(letters(600_000, 256), 'latin1'))),
  ]
}

function pathRecords(): Made[] {
  return [
    image('a device', '/dev/zero'),
    image('the standard input', '/dev/stdin'),
    image('a file of the kernel', '/proc/self/environ'),
    image('100,000 steps up', `${'../'.repeat(100_000)}etc/passwd`),
    image('a path of 900 kB', 'a'.repeat(900_000)),
    image('a path of 300,000 folders', 'a/'.repeat(300_000)),
    image('a path with NUL', 'a.png\0.jpg'),
    image('Windows separators', '..\\'.repeat(100_000)),
    image('percent-encoded steps', '%2e%2e/'.repeat(90_000)),
    image('file://', 'file:///etc/passwd'),
    image('javascript:', 'javascript:alert(1)'),
    image('a scheme of 900 kB', `${'a'.repeat(900_000)}://x`),
    image('a host of 900 kB', `http://${'ü'.repeat(400_000)}/a.png`),
    image('a URL with secrets', 'http://user:secret@127.0.0.1:1/a.png?signature=secret'),
    image('the metadata service', 'http://169.254.169.254/latest/meta-data/'),
    image('a host in every spelling', 'http://0x7f.1/a.png'),
    image('100,000 images', Array(100_000).fill('a.png')),
  ]
}

const PATHS = [
  '/switching-protocols',
  '/silent',
  '/drip',
  '/continue',
  '/headers',
  '/redirect',
  '/redirect-file',
  '/gzip',
  '/endless',
  '/early-end',
  '/garbage',
] as const

/** A server that does at each of PATHS what its name says; `url` is its address, on loopback. */
export async function hostileServer(t: TestContext): Promise<string> {
  const sockets = new Set<Socket>()
  const server: Server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    socket.once('data', request => answer(socket, request.toString('latin1').split(' ')[1] ?? ''))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`
}

function answer(socket: Socket, path: string): void {
  const every = (ms: number, chunk: string | Buffer): void => {
    const timer = setInterval(() => socket.write(chunk), ms)
    socket.on('close', () => clearInterval(timer))
  }
  const ok = 'HTTP/1.1 200 OK\r\n'
  if (path === '/switching-protocols') {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n')
  } else if (path === '/drip') {
    socket.write(`${ok}content-length: 1000000\r\n\r\n`)
    every(50, 'x')
  } else if (path === '/continue') every(5, 'HTTP/1.1 100 Continue\r\n\r\n')
  else if (path === '/headers') {
    socket.write(ok)
    every(5, `x-${'h'.repeat(100)}: ${'v'.repeat(1000)}\r\n`)
  } else if (path === '/redirect') socket.end(`HTTP/1.1 302 Found\r\nlocation: ${path}\r\n\r\n`)
  else if (path === '/redirect-file') {
    socket.end('HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n')
  } else if (path === '/gzip') socket.end(`${ok}content-encoding: gzip\r\n\r\nabc`)
  else if (path === '/endless') {
    socket.write(`${ok}\r\n`)
    every(1, Buffer.alloc(1 << 20))
  } else if (path === '/early-end') socket.end(`${ok}content-length: 1000\r\n\r\nabc`)
  else if (path === '/garbage') socket.end(letters(100_000, 256))
}

/** Letters by a fixed rule; `kinds` of them, from "a" or, for 256, all bytes. */
function letters(count: number, kinds = 26): string {
  let state = 7
  const codes = Buffer.alloc(count)
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    codes[i] = kinds === 256 ? state >>> 24 : 97 + ((state >>> 16) % kinds)
  }
  return codes.toString('latin1')
}

type PngOptions = {
  width: number
  height: number
  rows?: number
  interlaced?: boolean
  before?: [string, Buffer][]
  data?: Buffer
}

/** A black PNG of one bit a pixel. */
function png({
  width,
  height,
  rows = height,
  interlaced = false,
  before = [],
  data,
}: PngOptions): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header[8] = 1
  header[12] = interlaced ? 1 : 0
  const rowBytes = 1 + Math.ceil(width / 8)
  const pixels = interlaced ? Math.ceil(rowBytes * rows * 1.2) : rowBytes * rows
  const chunks: [string, Buffer][] = [
    ['IHDR', header],
    ...before,
    ['IDAT', data ?? deflateSync(Buffer.alloc(pixels), { level: 9 })],
    ['IEND', Buffer.alloc(0)],
  ]
  return Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), ...chunks.map(pngChunk)])
}

function pngChunk([type, content]: [string, Buffer]): Buffer {
  const typed = Buffer.concat([Buffer.from(type, 'latin1'), content])
  const [length, checksum] = [Buffer.alloc(4), Buffer.alloc(4)]
  length.writeUInt32BE(content.length)
  checksum.writeUInt32BE(crc32(typed))
  return Buffer.concat([length, typed, checksum])
}

/** A grey progressive JPEG whose scans hold nothing. */
function jpegOfScans(scans: number, width = 8000, height = 8000): Buffer {
  const frame = Buffer.from('ffc2000b08000000000101110000', 'hex').subarray(0, 13)
  frame.writeUInt16BE(height, 5)
  frame.writeUInt16BE(width, 7)
  const table = Buffer.concat([Buffer.from('ffdb004300', 'hex'), Buffer.alloc(64, 1)])
  const codes = Buffer.from('ffc4001400010000000000000000000000000000000000', 'hex')
  const scan = Buffer.from('ffda0008010100000000', 'hex')
  const list = Array.from({ length: scans }, () => Buffer.concat([scan, Buffer.alloc(8)]))
  return Buffer.concat([
    Buffer.from('ffd8', 'hex'),
    table,
    frame,
    codes,
    ...list,
    Buffer.from('ffd9', 'hex'),
  ])
}
