/** The house holds itself to its own rules: rooms, directions, sizes, dependencies. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'node:test'
import { FAMILIES } from '../src/proxy/checkpoint/config.ts'
import { ROOT } from './support.ts'

const SRC = join(ROOT, 'src')
const FUNCTION_LINES_MAX = 70
const FILE_LINES_MIN = 40
const FILE_LINES_MAX = 500
const FOLDER_ENTRIES_MAX = 15

/** Rooms and lone files in the order of the flow: none imports a later one. */
const STAGES = [
  'errors',
  'version',
  'math',
  'record',
  'observe',
  'kafka',
  'log',
  'ingest',
  'proxy',
  'engine',
  'score',
  'train',
  'demo',
  'bundle',
  'cluster',
  'select',
  'config',
  'role',
  'history',
  'study',
  'dashboard',
  'daemon',
  'command',
  'main',
]

/** Files shorter than the rest, each with its reason. */
const SHORT: Record<string, string> = {
  'command/report.ts': 'a command is one file',
  'version.ts': 'the base of everything: imports nothing of ours',
  'proxy/checkpoint/config.ts': 'the list of families',
  'proxy/family/tinyllava.ts': 'a family is one file',
  'role/status.ts': 'the contract of the roles with the probes, apart from both',
  'score/metric.ts': 'the configuration reads it without loading an engine',
  'score/workers/score-worker.ts': 'the entry of a worker thread',
}

/** Folders that may hold more, each with its reason. */
const WIDE: Record<string, string> = {
  '.': 'one entry a room',
  command: 'one file a command',
}

type Source = { name: string; text: string; imports: string[] }

const sources = read()
const byName = new Map(sources.map(source => [source.name, source]))

function read(): Source[] {
  return readdirSync(SRC, { recursive: true, encoding: 'utf8' })
    .filter(name => /\.tsx?$/.test(name))
    .map(name => {
      const text = readFileSync(join(SRC, name), 'utf8')
      const relative = text.matchAll(/(?:from|import\() ?'(\.[^']+)'|new URL\('(\.[^']+)'/g)
      const imports = [...relative].map(([, target, script]) =>
        join(dirname(name), (target ?? script)!.replace(/\.js$/, '.ts')),
      )
      return { name, text, imports }
    })
}

/** What a file imports, type imports included; worker scripts are started, not imported. */
function importsOf({ name, imports }: Source): string[] {
  return imports.filter(target => byName.has(target) && target !== name)
}

test('a stage never imports a later one', () => {
  const stageOf = (name: string): number => STAGES.indexOf(name.split('/')[0]!.replace(/\.ts$/, ''))
  const upward = sources.flatMap(source => {
    assert.ok(stageOf(source.name) >= 0, `${source.name} is in no stage`)
    return importsOf(source)
      .filter(target => stageOf(target) > stageOf(source.name))
      .map(target => `${source.name} -> ${target}`)
  })
  assert.deepEqual(upward, [])
})

test('no file imports itself through others, and no two rooms of one stage import each other', () => {
  const files = new Map(sources.map(source => [source.name, importsOf(source)]))
  assert.deepEqual(circlesOf(files), [])
  const rooms = new Map<string, string[]>()
  for (const [name, targets] of files) {
    const room = dirname(name)
    if (!room.includes('/')) continue
    const others = targets.map(target => dirname(target))
    const siblings = others.filter(
      other => other !== room && dirname(other) === dirname(room) && other.includes('/'),
    )
    rooms.set(room, [...(rooms.get(room) ?? []), ...siblings])
  }
  assert.deepEqual(circlesOf(rooms), [])
})

/** Groups of names that reach each other (Tarjan's strongly connected components). */
function circlesOf(graph: ReadonlyMap<string, readonly string[]>): string[][] {
  const order = new Map<string, number>()
  const low = new Map<string, number>()
  const stack: string[] = []
  const circles: string[][] = []
  const visit = (name: string): void => {
    order.set(name, order.size)
    low.set(name, order.get(name)!)
    stack.push(name)
    for (const target of graph.get(name) ?? []) {
      if (!order.has(target)) visit(target)
      if (stack.includes(target)) low.set(name, Math.min(low.get(name)!, low.get(target)!))
    }
    if (low.get(name) !== order.get(name)) return
    const circle = stack.splice(stack.indexOf(name))
    if (circle.length > 1) circles.push(circle)
  }
  for (const name of graph.keys()) if (!order.has(name)) visit(name)
  return circles
}

/** Rooms of the Kafka client: each may import those of a lower number. */
const KAFKA_ROOMS: Record<string, number> = { wire: 0, link: 1, group: 2, read: 2, write: 2 }

test('the Kafka client imports nothing of ours but its errors, and kafkajs in one room only', () => {
  for (const source of sources.filter(({ name }) => name.startsWith('kafka/'))) {
    const room = source.name.split('/')[1]!
    for (const target of importsOf(source).filter(name => name !== 'errors.ts')) {
      const other = target.startsWith('kafka/') ? target.split('/')[1]! : ''
      const isBefore = (KAFKA_ROOMS[other] ?? Number.POSITIVE_INFINITY) < KAFKA_ROOMS[room]!
      assert.ok(other === room || isBefore, `${source.name} imports ${target}`)
    }
    if (room !== 'link') assert.ok(!source.text.includes("from 'kafkajs'"), source.name)
  }
})

test(`a folder has at most ${FOLDER_ENTRIES_MAX} entries`, () => {
  const folders = new Map<string, Set<string>>()
  for (const { name } of sources) {
    for (let path = name; path !== '.'; path = dirname(path)) {
      const folder = dirname(path)
      folders.set(folder, (folders.get(folder) ?? new Set()).add(path))
    }
  }
  for (const [folder, entries] of folders) {
    if (folder in WIDE) continue
    assert.ok(entries.size <= FOLDER_ENTRIES_MAX, `${folder} has ${entries.size} entries`)
  }
})

test(`files have ${FILE_LINES_MIN} to ${FILE_LINES_MAX} lines, functions at most ${FUNCTION_LINES_MAX}`, () => {
  for (const { name, text } of sources) {
    const lines = text.trimEnd().split('\n')
    assert.ok(lines.length <= FILE_LINES_MAX, `${name} has ${lines.length} lines`)
    if (!(name in SHORT)) {
      assert.ok(lines.length >= FILE_LINES_MIN, `${name} has ${lines.length} lines`)
    }
    for (const [start, line] of lines.entries()) {
      const indent =
        /^(\s*)(?:export )?(?:async )?(?:function\b|(?:static |get |set |async )*\*?#?\w+(?:<[^>]*>)?\(.*\{$)/.exec(
          line,
        )?.[1]
      if (indent === undefined) continue
      const end = lines.findIndex(
        (other, i) => i > start && [`${indent}}`, `${indent}},`].includes(other),
      )
      assert.ok(
        end - start < FUNCTION_LINES_MAX,
        `${name}:${start + 1} has ${end - start + 1} lines`,
      )
    }
  }
})

/** The page is bundled when it is built: what it imports is in the bundle, and installed for the build. */
const BUNDLED = 'dashboard/page/'

test('every package that src imports is a production dependency, and every dependency is imported', () => {
  const { dependencies, devDependencies } = JSON.parse(
    readFileSync(join(ROOT, 'package.json'), 'utf8'),
  )
  const isBundled = ({ name }: Source): boolean => name.startsWith(BUNDLED)
  const imported = packagesOf(sources.filter(source => !isBundled(source)))
  assert.deepEqual([...imported].sort(), Object.keys(dependencies).sort())
  for (const name of packagesOf(sources.filter(isBundled))) {
    assert.ok(name in devDependencies, `${name} is bundled but no development dependency`)
  }
})

function packagesOf(files: readonly Source[]): Set<string> {
  const names = new Set<string>()
  for (const { text } of files) {
    const bare = text.matchAll(/(?:from|import\(|resolve\()\s*'((?!node:)[@a-z][^']*)'/g)
    for (const [, specifier] of bare) names.add(/^(@[^/]+\/)?[^/]+/.exec(specifier!)![0])
  }
  return names
}

test('the tests mirror the sources', () => {
  const ownRooms = ['bench', 'crash', 'deploy', 'docs', 'e2e', 'fixtures', 'kafka', 'parity']
  const rooms = new Set(sources.map(({ name }) => dirname(name)))
  const strays = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.test.ts'))
    .filter(name => !rooms.has(dirname(name)) && !ownRooms.includes(name.split('/')[0]!))
  assert.deepEqual(strays, [])
})

/** Where families are named: their own files, and the list of them. */
const NAMES_FAMILIES = /^proxy\/(family\/|checkpoint\/config\.ts$)/

test('no family of proxies is named outside its own file and the list', () => {
  const kinds = FAMILIES.map(({ kind }) => kind)
  const quoted = new RegExp(`['"\`](${kinds.join('|')})['"\`]`)
  const named = sources.filter(
    ({ name, text }) =>
      !NAMES_FAMILIES.test(name) && (quoted.test(text) || /proxy\/family\//.test(text)),
  )
  assert.deepEqual(
    named.map(({ name }) => name),
    [],
  )
})
