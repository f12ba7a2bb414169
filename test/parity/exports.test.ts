/**
 * Exports, loaded by the trainers' own Python. `TRAINERS_PYTHON` is what `test/parity/python.sh trainers`
 * prints; with REQUIRE_PARITY=1 its absence is a failure.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { conversationOf, type Exported, writeForm } from '../../src/command/helpers/export-form.ts'
import { seededRandom } from '../../src/math/random.ts'
import { picture } from '../e2e/command.ts'
import { ROOT, temporaryFolder, trainersPython } from '../support.ts'

const EXAMPLES = 200
const KEY = 'a@0123456789abcdef'

const TEXTS = [
  'What is it?',
  'Größe «ß» — 東京タワー, ᚠᛇᚻ, \u{1f98a}\u{1f468}\u200d\u{1f469}\u200d\u{1f467}',
  '‮right to left‬ مرحبا שלום',
  'e\u0301 is é\u00a0no-break\u2028line\u2029paragraph',
  '{"json": [1, "\\"quoted\\""]}\n\ttab \\ backslash \u0001',
  '  spaces around  ',
  '</s> <|im_end|> {{ template }} {% if %}',
  '<images> < image> &lt;image&gt;',
  'NaN',
  'null',
  '0123',
  '-',
  '',
]

type Turn = { from: string; value: string }

/** LLaVA records with 0 to 3 pictures, up to 3 questions, with and without a system turn. */
function recordOf(random: () => number): object {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const count = Math.floor(random() * 4)
  const image = Array.from(
    { length: count },
    (_, i) => `ordner ${i}/bild-${Math.floor(random() * 99)}-ü.png`,
  )
  const turns: Turn[] =
    random() < 0.4 ? [{ from: 'system', value: `Be brief. ${pick(TEXTS)}` }] : []
  const questions = 1 + Math.floor(random() * 3)
  for (let i = 0; i < questions; i++) {
    const marks = i === 0 ? '<image>\n'.repeat(count) : ''
    turns.push({ from: 'human', value: `${marks}Question ${i}: ${pick(TEXTS)}` })
    turns.push({ from: 'gpt', value: pick(TEXTS) })
  }
  return { id: 'a', ...(count === 0 ? {} : { image }), conversations: turns }
}

/** One picture whose question has its mark twice: trainers that count marks get one. */
const TWICE = {
  id: 'a',
  image: 'a.png',
  conversations: [
    { from: 'human', value: 'Look <image> and again <image> closely' },
    { from: 'gpt', value: '' },
  ],
}

function examples(): Exported[] {
  const random = seededRandom(11)
  const records = [TWICE, ...Array.from({ length: EXAMPLES - 1 }, () => recordOf(random))]
  return records.map(record => conversationOf(Buffer.from(JSON.stringify(record)), KEY))
}

async function write(folder: string, all: readonly Exported[]): Promise<void> {
  const files = {
    llava: 'llava.json',
    'llama-factory': 'subset.json',
    'ms-swift': 'swift.jsonl',
    trl: 'trl.jsonl',
    parquet: 'subset.parquet',
  } as const
  const each = async function* () {
    yield* all
  }
  for (const [format, name] of Object.entries(files)) {
    const written = await writeForm(join(folder, name), format as keyof typeof files, each())
    assert.equal(written, all.length, format)
  }
}

type Loaded = { turns: [role: string, content: string][]; images: string[] }

test('exports are to every trainer the conversations that the log holds', async t => {
  const python = trainersPython(t)
  if (python === undefined) return
  const folder = temporaryFolder(t)
  const all = examples()
  const other = { subset2: { file_name: 'other.json' } }
  writeFileSync(join(folder, 'dataset_info.json'), JSON.stringify(other))
  const png = await picture(1)
  for (const name of new Set(all.flatMap(({ images }) => images))) {
    mkdirSync(join(folder, name, '..'), { recursive: true })
    writeFileSync(join(folder, name), png)
  }
  await write(folder, all)
  await promisify(execFile)(python, [join(ROOT, 'test/parity/load_exports.py'), folder])
  const info = JSON.parse(readFileSync(join(folder, 'dataset_info.json'), 'utf8'))
  assert.deepEqual(Object.keys(info), ['subset2', 'subset'])
  const loaded = JSON.parse(readFileSync(join(folder, 'loaded.json'), 'utf8'))
  for (const trainer of ['llava', 'llama_factory', 'ms_swift', 'trl', 'parquet']) {
    const found = loaded[trainer] as Loaded[] | string
    assert.ok(Array.isArray(found), `${trainer}: ${found}`)
    const wanted = all.map(({ turns, images }) => ({
      turns: turns.map(({ role, content }) => [role, content]),
      images,
    }))
    if (trainer !== 'llava') wanted[0]!.turns[0] = ['user', '<image>\nLook  and again  closely']
    const isBelow = trainer === 'llama_factory' || trainer === 'ms_swift'
    const told = found.map(({ turns, images }) => {
      return { turns, images: images.map(one => (isBelow ? one.replace(`${folder}/`, '') : one)) }
    })
    assert.equal(told.length, wanted.length, trainer)
    for (const [i, one] of told.entries()) assert.deepEqual(one, wanted[i], `${trainer}, ${i}`)
  }
})
