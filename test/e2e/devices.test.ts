import assert from 'node:assert/strict'
import { cpSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { ROOT, temporaryFolder } from '../support.ts'
import { NO_GPU } from '../webgpu.ts'
import { DEMO_PROXY, example, makeSite, run } from './command.ts'

type Document = { ok: boolean; findings: { name: string; status: string; detail: string }[] }

test('doctor without Vulkan, CUDA and the tensorflow addon says so, exits 0, scores on cpu', async t => {
  const folder = temporaryFolder(t)
  for (const name of ['dist', 'package.json']) {
    cpSync(join(ROOT, name), join(folder, name), { recursive: true })
  }
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  const main = join(folder, 'dist/main.js')
  const doctor = ['doctor', '--json', '--config', makeSite(t).config]
  const { code, stdout, stderr } = await run(doctor, NO_GPU, main)
  assert.equal(code, 0, stderr)
  const { ok, findings } = JSON.parse(stdout) as Document
  assert.equal(ok, true)
  const detail = (name: string): string => findings.find(finding => finding.name === name)!.detail
  assert.match(detail('webgpu'), /no Vulkan/)
  assert.match(detail('cuda'), /no CUDA/)
  assert.match(detail('tensorflow'), /the addon is not built/)
  assert.match(detail('device'), /scoring runs on cpu/)
})

test('a device asked for by name that is not there is refused before anything is scored', async t => {
  const folder = temporaryFolder(t)
  const data = join(folder, 'data.jsonl')
  writeFileSync(data, JSON.stringify(example('one', undefined, 'what?')))
  const where = ['--proxy', DEMO_PROXY, '--data', data]
  const out = ['--out', join(folder, 'out.jsonl'), '--device', 'webgpu']
  const { code, stderr } = await run(['score', ...where, ...out], NO_GPU)
  assert.equal(code, 1)
  assert.match(stderr, /webgpu cannot be used.*ENGINE_UNAVAILABLE/s)
  assert.match(stderr, /install the GPU's driver.*--device to auto or cpu/s)
  assert.deepEqual(readdirSync(folder), ['data.jsonl'])
})
