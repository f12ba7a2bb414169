/** What comes in and how it is said, through the built command. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
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

test('an example in any file, a pipe or standard input is produced byte for byte', async t => {
  const site = makeSite(t)
  const odd =
    '{"id": 1760001234567890123, "n": NaN, "x": 1.0,  "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}'
  const files: [string, Buffer][] = [
    ['a.jsonl', Buffer.from(`\ufeff${odd}\n`)],
    ['a.json', Buffer.from(`[\n${odd}\n]`)],
    ['b.jsonl', Buffer.from(`[${odd}]`)],
    ['b.json', Buffer.from(`{"data": [${odd}]}`)],
    ['c.json', Buffer.from(`\ufeff${odd}\n`, 'utf16le')],
    ['a.jsonl.gz', gzipSync(odd)],
  ]
  for (const [name, bytes] of files) {
    writeFileSync(join(site.folder, name), bytes)
    await succeed(['produce', '--config', site.config, '--data', join(site.folder, name)])
  }
  const child = spawn(process.execPath, [MAIN, 'produce', '--config', site.config, '--data', '-'])
  child.stdin.end(`${odd}\n`)
  assert.equal(await new Promise(resolve => child.on('close', resolve)), 0)
  const bash = spawn('bash', [
    '-c',
    `"${process.execPath}" "${MAIN}" produce --config "${site.config}" --data <(cat "${join(site.folder, 'a.jsonl')}")`,
  ])
  assert.equal(await new Promise(resolve => bash.on('close', resolve)), 0)
  const records = await readTopic(site.log, 'examples')
  assert.equal(records.length, files.length + 2)
  for (const { value } of records) assert.equal(Buffer.from(value!).toString(), odd)
})

test('produce --images moves paths, in place, unless they begin with the folder already', async t => {
  const site = makeSite(t)
  const folder = join(site.images, 'coco')
  mkdirSync(folder)
  writeFileSync(join(folder, 'a.png'), await picture(1))
  const line = (image: string) =>
    `{"id": 1, "big": 1760001234567890123, "image":  "${image}", "conversations": [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]}`
  const data = join(site.folder, 'data.jsonl')
  writeFileSync(data, `${line('a.png')}\n${line('coco/a.png')}\n`)
  await succeed(['produce', '--config', site.config, '--data', data, '--images', folder])
  for (const { value } of await readTopic(site.log, 'examples')) {
    assert.equal(Buffer.from(value!).toString(), line('coco/a.png'))
  }
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
