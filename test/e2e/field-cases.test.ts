/** Checkpoints as they were found in the field, through the built commands. */
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { shared, temporaryFolder } from '../support.ts'
import { DEMO_PROXY, distinct, run, succeed } from './command.ts'

/** Half precision on disk and float32 arithmetic, against float64. */
const RELATIVE_MAX = 2e-4

type Scores = { stdout: string; stderr: string; trajectories: number[][] }

async function score(t: TestContext, proxy: string, more: string[] = []): Promise<Scores> {
  const data = shared(t, 'cases/proxy-data')!
  const out = join(temporaryFolder(t), 'scores.jsonl')
  const inputs = ['--data', join(data, 'data.json'), '--images', join(data, 'images')]
  const done = await run(['score', '--proxy', proxy, ...inputs, '--out', out, ...more])
  assert.equal(done.code, 0, done.stderr)
  const lines = readFileSync(out, 'utf8').trimEnd().split('\n')
  const trajectories = lines.map(line => JSON.parse(line).trajectory)
  return { stdout: done.stdout, stderr: done.stderr, trajectories }
}

function assertNear(found: number[][], expected: number[][]): void {
  assert.equal(found.length, expected.length)
  const worst = expected.flatMap((row, i) =>
    row.map((value, t) => Math.abs(found[i]![t]! - value) / value),
  )
  assert.ok(Math.max(...worst) <= RELATIVE_MAX, `differs by ${Math.max(...worst)}`)
}

function oracle(folder: string): number[][] {
  return JSON.parse(readFileSync(join(folder, 'oracle.json'), 'utf8'))
}

const ORACLES: [name: string, how: string[], origin: RegExp][] = [
  ['transformers-5.5', ['--template', 'llama'], /prompts by template llama, as configured/],
  ['template', [], /prompts by template qwen2_instruct, of qwen2 .*<\|im_end\|>/],
  ['tokenizer-slow', [], /prompts by template phi, of stablelm/],
]
for (const [name, how, origin] of ORACLES) {
  test(`the checkpoints of ${name} are scored as the oracle says`, async t => {
    const folder = shared(t, 'cases', name)
    if (folder === undefined) return
    const { stdout, stderr, trajectories } = await score(t, join(folder, 'proxy'), how)
    assertNear(trajectories, oracle(folder))
    assert.match(stdout, origin)
    assert.match(stderr, /has 2 checkpoints; instability over fewer than 4 says little/)
  })
}

const TEMPLATE = {
  system: '',
  image: '<image>{{content}}',
  user: '{{content}}',
  assistant: '{{content}}',
}

test('score --show-prompt gives the ids of the Rust tokenizers for each of tokenizer-options', async t => {
  const options = shared(t, 'cases/tokenizer-options/tokenizers')
  if (options === undefined) return
  const work = temporaryFolder(t)
  const proxy = join(work, 'proxy')
  cpSync(shared(t, 'cases/transformers-5.5/proxy')!, proxy, { recursive: true })
  const checkpoints = readdirSync(proxy).map(name => join(proxy, name))
  for (const checkpoint of checkpoints) rmSync(join(checkpoint, 'tokenizer.json'))
  const [template, data] = [join(work, 'template.json'), join(work, 'data.jsonl')]
  writeFileSync(template, JSON.stringify(TEMPLATE))
  const expected = JSON.parse(readFileSync(join(options, 'expected.json'), 'utf8'))
  assert.equal(expected.length, 17)
  for (const { name, cases } of expected as { name: string; cases: [string, number[]][] }[]) {
    const tokenizer = readFileSync(join(options, name, 'tokenizer.json'))
    for (const checkpoint of checkpoints)
      writeFileSync(join(checkpoint, 'tokenizer.json'), tokenizer)
    // A special token of id 0 parts the cases: each is encoded by itself.
    const value = cases.map(([text]) => `</s>${text}`).join('')
    const conversations = [
      { from: 'human', value: `${value}</s>` },
      { from: 'gpt', value: '</s>' },
    ]
    writeFileSync(data, JSON.stringify({ id: name, conversations }))
    const { stdout } = await succeed([
      ...['score', '--proxy', proxy, '--template', template, '--data', data],
      ...['--show-prompt', name, '--json'],
    ])
    const wanted = [...cases.flatMap(([, ids]) => [0, ...ids]), 0, 0]
    assert.deepEqual(JSON.parse(stdout).ids, wanted, name)
  }
})

test('a whole file beside an older index of shards is scored, with a warning', async t => {
  const folder = shared(t, 'cases/shards/stale-index')
  if (folder === undefined) return
  const plain = join(temporaryFolder(t), 'proxy')
  cpSync(folder, plain, { recursive: true })
  for (const checkpoint of readdirSync(plain)) {
    rmSync(join(plain, checkpoint, 'model.safetensors.index.json'))
  }
  const how = ['--template', 'llama']
  const [stale, alone] = [await score(t, folder, how), await score(t, plain, how)]
  assert.deepEqual(stale.trajectories, alone.trajectories)
  assert.match(stale.stderr, /holds two sets of weights: model\.safetensors is read/)
  assert.doesNotMatch(alone.stderr, /two sets/)
})

test('a single checkpoint, a final model and malformed adapters are refused by what they are', async t => {
  const folder = shared(t, 'cases/transformers-5.5/proxy')
  if (folder === undefined) return
  const work = temporaryFolder(t)
  const final = join(work, 'final')
  cpSync(join(folder, 'checkpoint-10'), final, { recursive: true })
  const adapters = join(work, 'adapters')
  mkdirSync(join(adapters, 'checkpoint-5'), { recursive: true })
  writeFileSync(join(adapters, 'checkpoint-5/adapter_config.json'), '{}')
  const config = join(work, 'config.yaml')
  const cases: [proxy: string, message: RegExp][] = [
    [join(folder, 'checkpoint-10'), /is one checkpoint, and no schedule/],
    [final, /is one model, such as the final one, and no schedule/],
    [adapters, /adapter_config\.json is malformed/],
  ]
  for (const [proxy, message] of cases) {
    const data = join(folder, '../../proxy-data/data.json')
    const out = join(work, 'out.jsonl')
    const scored = await run(['score', '--proxy', proxy, '--data', data, '--out', out])
    assert.equal(scored.code, 1)
    assert.match(scored.stderr, message)
    writeFileSync(config, `proxy: { path: ${proxy} }\n`)
    const looked = await run(['doctor', '--config', config])
    assert.match(looked.stdout, new RegExp(`✗ proxy .*${message.source}`))
  }
})

type Tensor = { dtype: string; shape: number[]; data_offsets: [number, number] }
type Header = Record<string, Tensor>

/** The demo's proxy with the tensors that `change` makes of each checkpoint's; `more` bytes follow the last one. */
function changedProxy(t: TestContext, change: (tensors: Header) => Header, more = 0): string {
  const proxy = join(temporaryFolder(t), 'proxy')
  cpSync(DEMO_PROXY, proxy, { recursive: true })
  const checkpoints = readdirSync(proxy).filter(name => name.startsWith('checkpoint-'))
  for (const checkpoint of checkpoints) {
    const file = join(proxy, checkpoint, 'model.safetensors')
    const bytes = readFileSync(file)
    const end = 8 + Number(bytes.readBigUInt64LE())
    const { __metadata__, ...tensors } = JSON.parse(bytes.subarray(8, end).toString())
    const header = Buffer.from(JSON.stringify(change(tensors)))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    writeFileSync(file, Buffer.concat([length, header, bytes.subarray(end), Buffer.alloc(more)]))
  }
  return proxy
}

async function scoresOf(t: TestContext, proxy: string): Promise<string> {
  const folder = temporaryFolder(t)
  const [data, out] = [join(folder, 'data.json'), join(folder, 'scores.jsonl')]
  writeFileSync(data, JSON.stringify(await distinct(2)))
  await succeed(['score', '--proxy', proxy, '--data', data, '--out', out])
  return readFileSync(out, 'utf8')
}

for (const prefix of ['module.', '_orig_mod.', 'base_model.model.']) {
  test(`a proxy that was saved within its wrapper, as ${prefix}*, is scored as it is without`, async t => {
    const wrapped = changedProxy(t, tensors =>
      Object.fromEntries(Object.entries(tensors).map(([name, one]) => [prefix + name, one])),
    )
    assert.equal(await scoresOf(t, wrapped), await scoresOf(t, DEMO_PROXY))
  })
}

test('a proxy with a tensor of an unknown dtype that nothing reads is scored as it is without', async t => {
  const odd = changedProxy(
    t,
    tensors => {
      const at = Math.max(...Object.values(tensors).map(one => one.data_offsets[1]))
      return { ...tensors, scale: { dtype: 'F8_E8M0', shape: [4], data_offsets: [at, at + 4] } }
    },
    4,
  )
  assert.equal(await scoresOf(t, odd), await scoresOf(t, DEMO_PROXY))
})
