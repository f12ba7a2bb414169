import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'node:test'
import { promisify } from 'node:util'
import { checkNotRead, writeWhole } from '../../../src/command/helpers/output.ts'
import { XmasdError } from '../../../src/errors.ts'
import { run } from '../../e2e/command.ts'
import { temporaryFolder } from '../../support.ts'

test('where a symbolic link stands its target is replaced', async t => {
  const folder = temporaryFolder(t)
  const [target, link] = [join(folder, 'target'), join(folder, 'link')]
  writeFileSync(target, 'old')
  symlinkSync('target', link)
  await writeWhole(link, temporary => writeFile(temporary, 'new'))
  assert.equal(readFileSync(target, 'utf8'), 'new')
  assert.ok(lstatSync(link).isSymbolicLink())
  assert.deepEqual(readdirSync(folder).sort(), ['link', 'target'])
})

test('a file that is read is not replaced, whatever names it', async t => {
  const folder = temporaryFolder(t)
  const [data, link, other] = ['data.jsonl', 'link', 'other'].map(name => join(folder, name))
  writeFileSync(data!, '{}\n')
  symlinkSync('data.jsonl', link!)
  const isRefused = (error: unknown) => error instanceof XmasdError && error.code === 'FILE_EXISTS'
  for (const out of [data!, link!]) {
    await assert.rejects(checkNotRead(out, [join(folder, '*.jsonl')]), isRefused)
    await assert.rejects(checkNotRead(out, ['-', data!]), isRefused)
  }
  await checkNotRead(other!, [data!])
  for (const command of [['score', '--proxy', folder], ['export']]) {
    const { code, stderr } = await run([...command, '--data', data!, '--out', data!])
    assert.equal(code, 1)
    assert.match(stderr, /FILE_EXISTS/)
  }
  assert.equal(readFileSync(data!, 'utf8'), '{}\n')
})

test('a pipe is written to and stays one', async t => {
  const pipe = join(temporaryFolder(t), 'pipe')
  execFileSync('mkfifo', [pipe])
  const reading = promisify(execFile)('cat', [pipe])
  await writeWhole(pipe, file => writeFile(file, 'through'))
  assert.equal((await reading).stdout, 'through')
  assert.ok(lstatSync(pipe).isFIFO())
})

test('a folder is refused before anything is made', async t => {
  const folder = temporaryFolder(t)
  mkdirSync(join(folder, 'there'))
  const never = () => assert.fail('it was begun')
  await assert.rejects(
    writeWhole(join(folder, 'there'), never),
    (error: unknown) => error instanceof XmasdError && error.code === 'FILE_UNWRITABLE',
  )
})
