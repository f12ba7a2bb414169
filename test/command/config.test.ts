import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { configKeys } from '../../src/config.ts'
import { ROOT, temporaryFolder } from '../support.ts'
import { succeed, writeLines, xmasd } from './xmasd.ts'

const MISTAKES = `
log: { kind: kafka, brokers: [a], sasl: { mechanism: plain, password: 3 } }
proxy: { mode: exact, workers: 0.5 }
select: { percent: 120, polcy: final, group: xmasd-score }
http: { enabled: yes }
proxxy: {}
`

test('config check, on a file with nine mistakes, names each with its value and fix and exits 2', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  writeFileSync(file, MISTAKES)
  const { status, stdout } = xmasd('config', 'check', '--config', file)
  assert.equal(status, 2)
  for (const expected of [
    /log\.brokers is "a" .*host:port\n {2}→ set log\.brokers, or XMASD_LOG_BROKERS/,
    /log\.sasl\.password is set \(not shown\)/,
    /log\.sasl\.username is missing/,
    /proxy\.mode is "exact" .*reference, paper\n {2}→ set proxy\.mode, or XMASD_PROXY_MODE/,
    /proxy\.workers is 0\.5 .*a whole number from 1 to 256/,
    /select\.percent is 120 .*from 0 to 100/,
    /unknown key select\.polcy .*\n {2}→ did you mean select\.policy\?/,
    /select\.group is "xmasd-score" .*score\.group/,
    /http\.enabled is "yes" .*true or false/,
    /unknown key proxxy .*\n {2}→ did you mean proxy\?/,
  ]) {
    assert.match(stdout, expected)
  }
  assert.equal(stdout.match(/^✗/gm)!.length, 10, stdout)
  const json = xmasd('config', 'check', '--config', file, '--json')
  const document = JSON.parse(json.stdout)
  assert.deepEqual([json.status, document.ok, document.mistakes.length], [2, false, 10])
  assert.deepEqual(Object.keys(document.mistakes[0]).sort(), [
    'fix',
    'key',
    'origin',
    'problem',
    'value',
  ])
})

test('run, on a file with several mistakes, names them all and exits 2', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  writeFileSync(file, MISTAKES)
  const { status, stderr } = xmasd('run', '--config', file)
  assert.equal(status, 2)
  assert.match(stderr, /10 mistakes in the configuration \[CONFIG_INVALID\]/)
  assert.match(stderr, /select\.percent is 120[\s\S]*unknown key proxxy/)
  assert.doesNotMatch(stderr, /\n\s+at /)
})

test('config check passes the commented example', () => {
  assert.match(
    succeed('config', 'check', '--config', join(ROOT, 'config/xmasd.yaml')),
    /no mistake/,
  )
})

test('config schema is docs/schemas/config.schema.json, and the example names it for editors', () => {
  const file = join(ROOT, 'docs/schemas/config.schema.json')
  const text = succeed('config', 'schema')
  if (process.env.UPDATE_SCHEMAS === '1') writeFileSync(file, text)
  assert.equal(readFileSync(file, 'utf8'), text, 'run the tests with UPDATE_SCHEMAS=1')
  const example = readFileSync(join(ROOT, 'config/xmasd.yaml'), 'utf8')
  assert.match(
    example,
    /^# yaml-language-server: \$schema=\.\.\/docs\/schemas\/config\.schema\.json\n/,
  )
  const schema = JSON.parse(text)
  for (const key of configKeys()) assert.ok(holds(schema, key.split('.')), key)
  assert.match(schema.properties.select.properties.percent.description, /share of all examples/)
})

type Node = { properties?: Record<string, Node>; oneOf?: Node[] }

function holds(node: Node | undefined, [name, ...rest]: string[]): boolean {
  if (name === undefined || node === undefined) return node !== undefined
  return [node, ...(node.oneOf ?? [])].some(one => holds(one.properties?.[name], rest))
}

const SCORE = ['score', '--proxy', join(ROOT, 'config/demo/proxy')]

test('a wrong flag is named as the flag, not as the key that it stands for', () => {
  const wrong = xmasd(...SCORE, '--data', 'none', '--out', 'none', '--mode', 'exact')
  assert.equal(wrong.status, 2)
  assert.match(wrong.stderr, /--mode is "exact".*reference, paper/)
  assert.doesNotMatch(wrong.stderr, /proxy\.mode/)
})

test('score says of its first failure where it is, why, and what to do by the flag that was used', t => {
  const folder = temporaryFolder(t)
  const files = ['text.jsonl', 'data.jsonl', 'out.jsonl'].map(name => join(folder, name))
  const [text, data, out] = files as [string, string, string]
  const talk = (id: string, value: string, image?: string) => ({
    ...{ id, image },
    conversations: [
      { from: 'human', value },
      { from: 'gpt', value: 'that' },
    ],
  })
  writeLines(text, [talk('t', 'what?')])
  writeLines(data, [talk('a', '<image>\nwhat?', 'gone.png'), { id: 'b' }])
  const scored = (...data: string[]) =>
    spawnSync(
      process.execPath,
      [
        ...[join(ROOT, 'dist/main.js'), ...SCORE, '--images', folder],
        ...['--out', out, '--data', ...data],
      ],
      { encoding: 'utf8' },
    )
  assert.match(
    scored(data).stdout,
    /2 failed \(1 IMAGE_NOT_FOUND, 1 CONVERSATIONS_INVALID\)[\s\S]* first failure: .*data\.jsonl, example 1 \(a\): .*gone\.png.* \[IMAGE_NOT_FOUND\]\n/,
  )
  const { stdout } = scored(text, data)
  assert.match(stdout, / first failure: .*data\.jsonl, example 1 \(a\): .* \[IMAGE_NOT_FOUND\]\n/)
  assert.match(stdout, /--images/)
  assert.doesNotMatch(stdout + readFileSync(out, 'utf8'), /images\.root/)
})
