/** What comes in and how it is said, through the built command. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { gzipSync } from 'node:zlib'
import { MAIN, shared, temporaryFolder } from '../support.ts'
import {
  DEMO_PROXY,
  distinct,
  example,
  makeSite,
  picture,
  readTopic,
  run,
  type Site,
  succeed,
  writeLines,
} from './command.ts'
import { hostileServer } from './hostile.ts'

test('credentials in the URLs of images reach no dead letter, log line, score, report or explanation', async t => {
  const server = await hostileServer(t)
  const site = makeSite(
    t,
    'images: { root: ./images, hosts: ["127.0.0.1"], addressesAllowed: ["127.0.0.0/8"], timeMsMax: 1000 }\nlogging: { level: trace }',
  )
  const url = (path: string) =>
    `${server.replace('//', '//user:s3cret@')}${path}?signature=s3cret#s3cret`
  const references = [
    url('/garbage'),
    url('/redirect-file'),
    url('/early-end'),
    url('/switching-protocols'),
    'http://user:s3cret@10.0.0.1/a.png?signature=s3cret',
    'ftp://user:s3cret@host/a.png?signature=s3cret',
  ]
  const bad = references.map((reference, i) => example(`bad${i}`, reference, 'what?'))
  const cut = '{"id": "cut", "image": "https://user:s3cret@h/a.png?signature=s3cret"'
  const data = writeLines(site, 'data.jsonl', [...(await distinct(3)), ...bad])
  writeFileSync(data, `${readFileSync(data, 'utf8')}${cut}\n`)
  await succeed(['produce', '--config', site.config, '--data', data])
  const daemon = await succeed(['run', '--config', site.config, '--until-idle'])
  const letters = await readTopic(site.log, 'dead-letters')
  assert.equal(letters.length, references.length + 1)
  const headers = JSON.stringify(letters.map(letter => letter.headers))
  const out = join(site.folder, 'report.html')
  const scores = join(site.folder, 'scores.jsonl')
  const report = await run(['report', '--config', site.config, '--out', out])
  const scored = await run(['score', '--proxy', DEMO_PROXY, '--data', data, '--out', scores], {
    XMASD_IMAGES_ROOT: site.images,
  })
  const outputs = { headers, daemon, report, page: readFileSync(out, 'utf8'), scored }
  for (const [name, output] of Object.entries({
    ...outputs,
    scores: readFileSync(scores, 'utf8'),
  })) {
    assert.ok(!JSON.stringify(output).includes('s3cret'), name)
  }
  assert.match(headers, /127\.0\.0\.1/)
})

const ODD =
  '{"id": 1760001234567890123, "n": NaN, "x": 1.0,  "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}'
const PLAIN =
  '{"id": "é",  "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}]}'
const LINES = `${ODD}\n${PLAIN}\n`
const ARRAY = `[\n${ODD},\n${PLAIN}\n]`
const utf16 = (text: string) => Buffer.from(text, 'utf16le')

const FILES: [what: string, name: string, bytes: string | Uint8Array][] = [
  ['lines with a byte order mark', 'a.jsonl', `\ufeff${LINES}`],
  ['joined files with byte order marks', 'a.jsonl', `\ufeff${ODD}\n\ufeff${PLAIN}\n`],
  ['lines named .json', 'a.json', LINES],
  ['an array named .jsonl', 'a.jsonl', `[${ODD}, ${PLAIN}]`],
  ['an array of several lines named .jsonl', 'a.jsonl', ARRAY],
  ['an array in an object', 'a.json', `{"data": ${ARRAY}}`],
  ['lines in UTF-16', 'a.jsonl', utf16(`\ufeff${LINES}`)],
  ['an array in UTF-16', 'a.json', utf16(`\ufeff${ARRAY}`)],
  ['UTF-16 with the high byte first', 'a.jsonl', utf16(`\ufeff${LINES}`).swap16()],
  ['lines in gzip', 'a.jsonl.gz', gzipSync(LINES)],
  ['an array in gzip', 'a.json.gz', gzipSync(ARRAY)],
  ['gzip under another name', 'a.json', gzipSync(LINES)],
]

for (const [what, name, bytes] of FILES) {
  test(`${what}: produced byte for byte`, async t => {
    const site = makeSite(t)
    const data = join(site.folder, name)
    writeFileSync(data, bytes)
    await succeed(['produce', '--config', site.config, '--data', data])
    assert.deepEqual(await producedIn(site), [ODD, PLAIN])
  })
}

/** Shell commands, where $XMASD is a command of xmasd that wants the value of --data, and $DATA a file. */
const PIPES: [what: string, script: string][] = [
  ['standard input', 'cat "$DATA" | $XMASD -'],
  ['/dev/stdin', 'cat "$DATA" | $XMASD /dev/stdin'],
  ['a process substitution', '$XMASD <(cat "$DATA")'],
  ['a FIFO', 'mkfifo "$DATA.fifo"; cat "$DATA" >"$DATA.fifo" & $XMASD "$DATA.fifo"'],
]

for (const [what, script] of PIPES) {
  test(`an array from ${what}: read once, produced byte for byte, and scored`, async t => {
    const site = makeSite(t)
    const data = join(site.folder, 'data.json')
    const out = join(site.folder, 'scores.jsonl')
    writeFileSync(data, ARRAY)
    const pipe = (args: string) => {
      const env = { ...process.env, DATA: data, XMASD: `xmasd ${args} --data` }
      const all = `xmasd() { timeout 60 '${process.execPath}' '${MAIN}' "$@"; }\nrm -f "$DATA.fifo"\n${script}`
      return spawnSync('bash', ['-c', all], { env, encoding: 'utf8' })
    }
    const produced = pipe(`produce --config ${site.config}`)
    assert.equal(produced.status, 0, produced.stderr)
    assert.deepEqual(await producedIn(site), [ODD, PLAIN])
    const scored = pipe(`score --proxy ${DEMO_PROXY} --out ${out}`)
    assert.equal(scored.status, 0, scored.stderr)
    const ids = readFileSync(out, 'utf8').trimEnd().split('\n')
    assert.deepEqual(
      ids.map(line => JSON.parse(line).id),
      ['1760001234567890123', 'é'],
    )
  })
}

async function producedIn({ log }: Site): Promise<string[]> {
  const records = await readTopic(log, 'examples')
  return records.map(({ value }) => Buffer.from(value!).toString())
}

test('export --data passes records byte for byte, and what it writes is JSON', async t => {
  const site = makeSite(t, 'select: { percent: 100 }')
  const [data, out] = [join(site.folder, 'data.jsonl'), join(site.folder, 'kept.json')]
  const numbered = (line: string, i: number) => line.replace('"q"', `"q${i}"`)
  const many = Array.from({ length: 8 }, (_, i) => numbered(i === 3 ? ODD : PLAIN, i))
  writeFileSync(data, many.map(line => `\ufeff${line}\n`).join(''))
  const config = ['--config', site.config]
  await succeed(['produce', ...config, '--data', data])
  await succeed(['run', ...config, '--until-idle'])
  await succeed(['export', ...config, '--data', data, '--out', out])
  const text = readFileSync(out, 'utf8')
  assert.equal(JSON.parse(text).length, many.length)
  const expected = many.map(line => line.replace('NaN', 'null'))
  assert.equal(text, `[\n${expected.join(',\n')}\n]\n`)
})

test('produce --images given twice over moves a path once, and leaves all other bytes', async t => {
  const site = makeSite(t)
  const folder = join(site.images, 'coco')
  mkdirSync(folder)
  writeFileSync(join(folder, 'a.png'), await picture(1))
  const line = (image: string) =>
    `{"id": 1, "big": 1760001234567890123, "image":  "${image}", "conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]}`
  const data = join(site.folder, 'data.jsonl')
  writeFileSync(data, `${line('coco/a.png')}\n${line('a.png')}\n`)
  await succeed(['produce', '--config', site.config, '--data', data, '--images', folder])
  const produced = await producedIn(site)
  assert.deepEqual(
    produced.map(text => JSON.parse(text).image),
    ['coco/a.png', 'coco/a.png'],
  )
  assert.deepEqual(produced, [line('coco/a.png'), line('coco/a.png')])
})

test('hosts: "*." is refused as every configuration error is', async t => {
  const site = makeSite(t, 'images: { root: ./images, hosts: ["*."] }')
  const ended = await run(['run', '--config', site.config, '--until-idle'])
  assert.equal(ended.code, 2)
  assert.match(ended.stderr, /images\.hosts is "\*\."/)
  assert.match(ended.stderr, /\*\.example\.org/)
})

/** Forms of the shared cases that are not scored with their picture, by name. Every other is. */
const NOT_WITH_PICTURE: Record<string, string> = {
  'video <video>': 'MODALITY_UNSUPPORTED',
  'video <image>': 'MODALITY_UNSUPPORTED',
  'qwen-vl inline img': 'PLACEHOLDER_WITHOUT_IMAGE',
  '<image1>': 'IMAGE_WITHOUT_PLACEHOLDER',
  '<|image|> mark': 'IMAGE_WITHOUT_PLACEHOLDER',
  'mark in two questions, 1 image': 'PLACEHOLDER_MISPLACED',
  'text-only, <image> in answer (html)': 'text',
  'image + literal <image> in answer': 'PLACEHOLDER_MISPLACED',
  'bing role': 'ROLE_UNKNOWN',
  'ends with human': 'TURNS_MISORDERED',
  'two gpt in a row': 'TURNS_MISORDERED',
  'null answer value': 'CONVERSATIONS_INVALID',
  '__proto__ key': 'IMAGE_FIELD_INVALID',
  'lone surrogate value': 'TEXT_INVALID',
  'backslash path': 'IMAGE_NOT_FOUND',
  'file:// url': 'IMAGE_FIELD_INVALID',
  'named .jpg, file is .png': 'IMAGE_NOT_FOUND',
  'image null': 'text',
  "image ''": 'text',
  'image []': 'text',
  'trailing comma': 'NOT_JSON',
  'two objects on a line': 'NOT_JSON',
  'line that ends with comma': 'NOT_JSON',
  'single quotes (python repr)': 'NOT_JSON',
}

test('the shared forms are scored with their pictures, as text, or refused, each as it should be', async t => {
  const cases = shared(t, 'cases')
  if (cases === undefined) return
  const site = makeSite(t)
  const outcomesOf = async (name: string): Promise<string[]> => {
    const out = join(site.folder, 'scores.jsonl')
    const args = ['--proxy', DEMO_PROXY, '--images', join(cases, 'images'), '--out', out]
    await run(['score', ...args, '--data', join(cases, name)])
    const lines = readFileSync(out, 'utf8').trim().split('\n')
    return lines.map(line => {
      const { error, trajectory } = JSON.parse(line)
      return error?.code ?? (trajectory === null ? 'text' : 'with picture')
    })
  }
  const names: string[] = JSON.parse(readFileSync(join(cases, 'forms/forms.names.json'), 'utf8'))
  const found = await outcomesOf('forms/forms.jsonl')
  assert.equal(found.length, names.length)
  assert.deepEqual(
    Object.fromEntries(names.map((name, i) => [name, found[i]])),
    Object.fromEntries(names.map(name => [name, NOT_WITH_PICTURE[name] ?? 'with picture'])),
  )
  assert.deepEqual(await outcomesOf('named/named.jsonl'), [
    ...['with picture', 'with picture', 'MODALITY_UNSUPPORTED', 'PLACEHOLDER_WITHOUT_IMAGE'],
    'with picture',
  ])
})

test('no image, however it is written, is one thing through export-metrics and back', async t => {
  const cases = shared(t, 'cases')
  if (cases === undefined) return
  const folder = temporaryFolder(t)
  const data = join(cases, 'metrics/mix.json')
  const [scored, metrics, back] = ['scored.jsonl', 'metrics', 'back.jsonl'].map(name =>
    join(folder, name),
  )
  const from = ['--proxy', DEMO_PROXY, '--images', join(cases, 'images'), '--data', data]
  await succeed(['score', ...from, '--out', scored!])
  await succeed(['export-metrics', '--trajectories', scored!, '--data', data, '--out', metrics!])
  await succeed([
    'import-metrics',
    '--metrics',
    join(metrics!, 'attn_svd_files'),
    '--data',
    data,
    '--out',
    back!,
  ])
  const [first, second] = [scored!, back!].map(file =>
    readFileSync(file, 'utf8').trim().split('\n'),
  )
  const textOnly = (lines: string[]) =>
    lines.map(line => JSON.parse(line)).filter(one => one.trajectory === null && !one.error)
  assert.equal(second!.length, 11)
  assert.deepEqual(
    textOnly(second!).map(({ id }) => id),
    ['t0', 't1', 't2', 't3', 't4'],
  )
  assert.deepEqual(
    textOnly(first!).map(({ id }) => id),
    ['t0', 't1', 't2', 't3', 't4'],
  )
})

test('an image under another spelling of its name is read, said once in the log', async t => {
  const cases = shared(t, 'cases')
  if (cases === undefined) return
  const out = join(temporaryFolder(t), 'scores.jsonl')
  const args = ['--proxy', DEMO_PROXY, '--images', join(cases, 'images'), '--out', out]
  const { stderr } = await run(['score', ...args, '--data', join(cases, 'forms/forms.jsonl')])
  const lines = readFileSync(out, 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
  const scored = lines.filter(({ trajectory }) => trajectory !== null).map(({ id }) => id)
  for (const id of ['p1', 'p3', 'p4', 'p5', 'p7', 'p8', 'p10']) assert.ok(scored.includes(id), id)
  assert.equal(stderr.match(/was read instead/g)?.length, 1, stderr)
})
