/** Text from outside that would act on a terminal, in every command's output. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { MAIN } from '../support.ts'
import {
  DEMO_PROXY,
  dataUrl,
  example,
  makeSite,
  picture,
  run,
  succeed,
  writeLines,
} from './command.ts'

/** ESC, DEL, the C1 introducer of CSI, a right-to-left override, a line separator. */
const EVIL = 'e\u001b[31m\u007f\u009b2J\u202e\u2028\u0085x'
const ACTING = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u

function check(name: string, text: string): void {
  const found = ACTING.exec(text.replaceAll('\n', ' '))
  const shown = JSON.stringify(text.slice(found?.index ?? 0).slice(0, 80))
  assert.ok(found === null, `${name}: ${shown}`)
}

test('no command lets text from outside act on a terminal', async t => {
  const site = makeSite(t)
  const png = dataUrl(await picture(1))
  const evil = example(EVIL, png, `what ${EVIL}?`, EVIL)
  const data = writeLines(site, 'data.jsonl', [
    evil,
    example('second', dataUrl(await picture(2)), 'and?'),
    { id: EVIL, conversations: [] },
    { id: `${EVIL}-gone`, image: `${EVIL}.png`, conversations: evil.conversations },
  ])
  const config = ['--config', site.config]
  const at = (name: string): string => join(site.folder, name)
  const scored = at('scored.jsonl')
  const bundle = at('bundle')
  const commands: [string[], number[]][] = [
    [['produce', ...config, '--data', data], [0]],
    [['run', ...config, '--until-idle'], [0]],
    [['tail', 'examples', ...config], [0]],
    [['tail', 'assignments', ...config], [0]],
    [['tail', 'decisions', ...config], [0]],
    [['tail', 'dead-letters', ...config], [0]],
    [['explain', EVIL, ...config], [0]],
    [['explain', `${EVIL}?`, ...config], [1]],
    [['export', ...config, '--out', at('subset.json')], [0]],
    [['replay', ...config], [0]],
    [['report', ...config, '--out', at('report.html')], [0]],
    [['bundle', 'list', ...config], [0]],
    [
      ['bundle', 'swap', '--to', EVIL, ...config],
      [1, 2],
    ],
    [['doctor', ...config, '--roles', 'select'], [0]],
    [['score', '--proxy', DEMO_PROXY, '--data', data, '--out', scored], [0]],
    [['fit', '--trajectories', scored, '--clusters', '1', '--out', bundle], [0]],
    [
      ['select', '--trajectories', scored, '--bundle', EVIL, '--percent', '50', '--out', at('s')],
      [1],
    ],
    [['tail', EVIL], [2]],
    [['config', 'check', '--config', at(EVIL)], [2]],
  ]
  for (const [args, codes] of commands) {
    const { stdout, stderr, code } = await run(args)
    assert.ok(codes.includes(code!), `${args[0]}: exit ${code}\n${stderr}`)
    check(`${args[0]} stdout`, stdout)
    check(`${args[0]} stderr`, stderr)
  }
  check('report.html', readFileSync(at('report.html'), 'utf8'))
  const other = writeLines(site, 'other.jsonl', [example(`${EVIL}!`, png, 'other?')])
  const select = ['select', '--trajectories', scored, '--bundle', bundle, '--percent', '50']
  const mixed = await run([...select, '--data', other, '--out', at('mixed.json')])
  assert.equal(mixed.code, 1, mixed.stdout)
  check('select --data', mixed.stderr)
})

test('--json on a terminal escapes what acts, and elsewhere passes it byte for byte', async t => {
  const site = makeSite(t)
  const data = writeLines(site, 'data.jsonl', [example(EVIL, undefined, 'what?')])
  await succeed(['produce', '--config', site.config, '--data', data])
  const tail = ['tail', 'examples', '--json', '--config', site.config]
  const plain = JSON.parse((await succeed(tail)).stdout)
  assert.equal(plain.value.id, EVIL)
  const command = at([process.execPath, MAIN, ...tail])
  const { stdout, error } = spawnSync('script', ['-qec', command, '/dev/null'], {
    encoding: 'utf8',
  })
  if (error !== undefined) return t.skip('needs `script` of util-linux for a terminal')
  const shown = stdout.trimEnd()
  check('tail --json', shown)
  assert.deepEqual(JSON.parse(shown), plain)
})

function at(words: string[]): string {
  return words.map(word => `'${word}'`).join(' ')
}
