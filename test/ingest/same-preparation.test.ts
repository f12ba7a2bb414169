import assert from 'node:assert/strict'
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { readImageProcessor } from '../../src/ingest/image/preprocess.ts'
import { checkSamePreparation } from '../../src/ingest/same-preparation.ts'
import { DEMO_PROXY } from '../e2e/command.ts'
import { temporaryFolder } from '../support.ts'
import { hasCode } from './fixtures.ts'

const FILES = ['tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json']

function describe(folder: string): Record<string, unknown> {
  return readImageProcessor(folder, { aspect: 'square' })
}

/** Three checkpoints' folders, with what prepares examples. */
function schedule(t: TestContext): { folders: string[]; check: () => void } {
  const root = temporaryFolder(t)
  const folders = [10, 20, 30].map(step => join(root, `checkpoint-${step}`))
  for (const folder of folders) {
    for (const file of FILES) cpSync(join(DEMO_PROXY, 'checkpoint-100', file), join(folder, file))
  }
  return { folders, check: () => checkSamePreparation(folders, { describe }) }
}

function change(folder: string, name: string, keys: Record<string, unknown>): void {
  const file = join(folder, name)
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...keys }))
}

for (const [name, keys, differs] of [
  ['tokenizer.json', { post_processor: null }, 'post_processor'],
  ['tokenizer.json', { unheard_of: 1 }, 'unheard_of'],
  ['preprocessor_config.json', { image_mean: [0.5, 0.4, 0.5] }, 'mean'],
  ['preprocessor_config.json', { resample: 2 }, 'resample'],
] as const) {
  test(`a later checkpoint whose ${name} has another ${differs} is refused, and both are named`, t => {
    const { folders, check } = schedule(t)
    change(folders[2]!, name, keys)
    assert.throws(check, hasCode('CHECKPOINT_INVALID'))
    assert.throws(check, ({ message }: Error) => {
      assert.ok(message.startsWith(join(folders[2]!, name)), message)
      return message.includes(` another ${differs} than ${join(folders[0]!, name)}`)
    })
  })
}

test('a tokenizer that another version of its library has written is the same', t => {
  const { folders, check } = schedule(t)
  const { model } = JSON.parse(readFileSync(join(folders[1]!, 'tokenizer.json'), 'utf8'))
  const [text, list] = [
    ['a b', 'ab c'],
    [
      ['a', 'b'],
      ['ab', 'c'],
    ],
  ]
  const { ignore_merges, ...older } = model
  change(folders[0]!, 'tokenizer.json', { model: { ...older, merges: text } })
  change(folders[1]!, 'tokenizer.json', { model: { ...model, ignore_merges: false, merges: list } })
  change(folders[2]!, 'tokenizer.json', {
    model: { ...older, merges: text },
    decoder: null,
    version: '2',
  })
  check()
  change(folders[2]!, 'tokenizer.json', { model: { ...older, merges: ['ab c', 'a b'] } })
  assert.throws(check, /another model than/)
})

test('a processor_config.json that says nothing of images is none', t => {
  const { folders, check } = schedule(t)
  for (const folder of folders) {
    writeFileSync(join(folder, 'processor_config.json'), JSON.stringify({ patch_size: 14 }))
  }
  rmSync(join(folders[1]!, 'preprocessor_config.json'))
  check()
})

test('spelling, padding, truncation and files that are missing make no difference', t => {
  const { folders, check } = schedule(t)
  check()
  const batch = { padding: { strategy: 'BatchLongest' }, truncation: { max_length: 9 } }
  change(folders[1]!, 'tokenizer.json', batch)
  change(folders[2]!, 'preprocessor_config.json', { do_resize: null, unheard_of: 1 })
  check()
  rmSync(join(folders[1]!, 'tokenizer.json'))
  rmSync(join(folders[1]!, 'preprocessor_config.json'))
  check()
  const file = join(folders[2]!, 'preprocessor_config.json')
  const nested = { image_processor: JSON.parse(readFileSync(file, 'utf8')) }
  writeFileSync(file, JSON.stringify(nested))
  renameSync(file, join(folders[2]!, 'processor_config.json'))
  check()
})
