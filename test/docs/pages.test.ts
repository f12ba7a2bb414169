/** The pages hold what they say of the repository: paths, links, weights, and their own form. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'node:test'
import { loadConfig } from '../../src/config.ts'
import { ROOT, temporaryFolder } from '../support.ts'

const LINE_CHARACTERS_MAX = 100
const WEIGHT_DRIFT_MAX = 0.1

const inFolder = (folder: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map(name =>
    join(folder, name),
  )
const pages = [...readdirSync(ROOT), ...inFolder('docs')]
  .filter(name => name.endsWith('.md'))
  .map(name => ({ name, text: readFileSync(join(ROOT, name), 'utf8') }))

test('every path of the repository that a page names exists', () => {
  for (const { name, text } of pages.filter(page => page.name !== 'CHANGELOG.md')) {
    const paths = text.matchAll(/`((?:src|test|bench|deploy|config|docs)\/[a-z\d_./-]*)`/g)
    for (const [, path] of paths) assert.ok(existsSync(join(ROOT, path!)), `${name}: ${path}`)
  }
})

test('every link between pages leads to a file, and to a heading where it names one', () => {
  for (const { name, text } of pages) {
    for (const [, target] of text.matchAll(/\]\((?!https?:|data:)([^)\s]+)\)/g)) {
      const [path, heading] = target!.split('#')
      const file = path === '' ? name : join(dirname(name), path!)
      assert.ok(existsSync(join(ROOT, file)), `${name}: ${target}`)
      if (heading === undefined) continue
      const headings = readFileSync(join(ROOT, file), 'utf8').match(/(?<=^#+ ).*$/gm) ?? []
      assert.ok(headings.map(anchorOf).includes(heading), `${name}: ${target}`)
    }
  }
})

test('the configuration in README.md is valid', t => {
  const [, yaml] = /^```yaml\n([\s\S]*?)^```/m.exec(readFileSync(join(ROOT, 'README.md'), 'utf8'))!
  const file = join(temporaryFolder(t), 'xmasd.yaml')
  writeFileSync(file, yaml!)
  assert.equal(loadConfig(file, {}).select.percent, 20)
})

test(`prose has at most ${LINE_CHARACTERS_MAX} characters a line`, () => {
  for (const { name, text } of pages) {
    const prose = text.replaceAll(/^```[\s\S]*?^```/gm, '')
    for (const line of prose.split('\n').filter(one => !/^\||\]\(|^!\[/.test(one))) {
      assert.ok([...line].length <= LINE_CHARACTERS_MAX, `${name}: ${line}`)
    }
  }
})

test('docs/architecture.md weighs every part within a tenth (UPDATE_WEIGHTS=1 writes it)', () => {
  const file = join(ROOT, 'docs/architecture.md')
  const row = /^\| (`src\/(\w+)`|single files) \| (\d+) \| ([\d,]+) \|/gm
  const weighed = readFileSync(file, 'utf8').replace(row, (old, part, room, files, lines) => {
    const real = weigh(room)
    const drift = Math.abs(Number(lines.replaceAll(',', '')) / real.lines - 1)
    if (drift <= WEIGHT_DRIFT_MAX && Math.abs(files / real.files - 1) <= WEIGHT_DRIFT_MAX)
      return old
    return `| ${part} | ${real.files} | ${real.lines.toLocaleString('en')} |`
  })
  if (process.env.UPDATE_WEIGHTS === '1') writeFileSync(file, weighed)
  assert.equal(readFileSync(file, 'utf8'), weighed, 'run the tests with UPDATE_WEIGHTS=1')
  const rooms = readdirSync(join(ROOT, 'src')).filter(name => !name.endsWith('.ts'))
  const named = [...weighed.matchAll(row)].map(([, , room]) => room).filter(Boolean)
  assert.deepEqual([...named].sort(), rooms.sort())
})

/** Files and lines of a room, or of the files beside the rooms. */
function weigh(room: string | undefined): { files: number; lines: number } {
  const folder = room === undefined ? 'src' : join('src', room)
  const names = (
    room === undefined
      ? readdirSync(join(ROOT, 'src')).map(name => join('src', name))
      : inFolder(folder)
  ).filter(name => /\.tsx?$/.test(name))
  const texts = names.map(name => readFileSync(join(ROOT, name), 'utf8'))
  return { files: names.length, lines: texts.join('').split('\n').length - 1 }
}

/** As GitHub makes a heading's anchor. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')
}
