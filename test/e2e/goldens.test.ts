import assert from 'node:assert/strict'
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { MODES } from '../../src/score/attention.ts'
import { shared, temporaryFolder } from '../support.ts'
import { withBackend } from '../tensorflow.ts'
import { vulkan } from '../webgpu.ts'
import { succeed } from './command.ts'

/** PyTorch's own float32 is up to 2.5e-6 (held-out shapes: 9e-6) from the float64 values. */
const RELATIVE_MAX = 1e-5

type Line = {
  id: string
  trajectory: number[] | null
  instability: number | null
  singularValues: number[][] | null
  size: { imageTokens: number; textRows: number } | null
}

type Expected = {
  template?: { name: string }
  steps: number[]
  examples: {
    id: string | number
    has_image: boolean
    columns?: number[] | null
    rows?: number[] | null
  }[]
  modes: Record<
    string,
    {
      float64: {
        top5: (number[][] | null)[]
        trajectory: (number[] | null)[]
        instability: (number | null)[]
      }
    }
  >
}

const RUNS = ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm'].flatMap(name =>
  MODES.map(mode => ({ name, mode })),
)

for (const { name, mode } of RUNS) {
  test(`the score command gives ${name} from the image files, ${mode} mode`, async t => {
    const set = shared(t, 'goldens', name)
    if (set !== undefined) await scoreSet(t, set, mode, [])
  })
}

const LORA_MAX = 2e-4

for (const [i, name] of ['lora-plain', 'lora-pattern', 'lora-rslora', 'lora-modules'].entries()) {
  const mode = MODES[i % MODES.length]!
  test(`the score command gives ${name} by its chat template, ${mode} mode`, async t => {
    const set = shared(t, 'goldens/families', name)
    if (set === undefined) return
    const stdout = await scoreSet(t, set, mode, ['--json'], {}, LORA_MAX)
    assert.match(
      JSON.parse(stdout).template,
      /chat_template\.jinja, the checkpoint's chat template/,
    )
  })
}

test('score --show-prompt prints a prompt and where its image, rows and answers lie', async t => {
  const set = shared(t, 'goldens/families', 'lora-rslora')
  if (set === undefined) return
  const where = ['--proxy', join(set, 'run'), '--data', join(set, 'data.json')]
  const { stdout } = await succeed(['score', ...where, '--show-prompt', 'lora-rslora-1', '--json'])
  const { examples } = JSON.parse(readFileSync(join(set, 'expected.json'), 'utf8'))
  const { prompt, columns, rows } = examples[1]
  const shown = JSON.parse(stdout)
  assert.equal(shown.text, prompt)
  assert.deepEqual(shown.images, [[columns[0], columns.at(-1)]])
  assert.deepEqual(shown.rows, [[rows[0], rows.at(-1)]])
})

for (const mode of MODES) {
  test(`the score command gives llava-clip-llama on webgpu, ${mode} mode`, async t => {
    const set = shared(t, 'goldens', 'llava-clip-llama')
    const env = vulkan(t)
    if (set === undefined || env === undefined) return
    // A software driver takes 5 s for an example: the second mode is held to some of them.
    const part = mode === 'reference' ? set : firstExamples(t, set, 3)
    const stdout = await scoreSet(t, part, mode, ['--device', 'webgpu', '--json'], env)
    const { device, why } = JSON.parse(stdout) as { device: string; why: string[] }
    t.diagnostic(why.join(' | '))
    assert.equal(device, 'webgpu')
    assert.match(why.at(-1)!, /every operator on it/)
  })
}

test('the score command gives LoRA checkpoints on webgpu, where the adapter stays beside its base', async t => {
  const set = shared(t, 'goldens/families', 'lora-pattern')
  const env = vulkan(t)
  if (set === undefined || env === undefined) return
  const part = firstExamples(t, set, 2)
  symlinkSync(join(set, 'base'), join(part, 'base'))
  const on = ['--device', 'webgpu', '--json']
  const stdout = await scoreSet(t, part, 'paper', on, env, LORA_MAX)
  assert.match(JSON.parse(stdout).why.at(-1), /every operator on it/)
})

for (const mode of MODES) {
  test(`the score command gives llava-siglip-qwen2 on the tensorflow addon in two workers, ${mode} mode`, async t => {
    const set = shared(t, 'goldens', 'llava-siglip-qwen2')
    if (set === undefined || !(await withBackend(t, 'tensorflow'))) return
    const stdout = await scoreSet(t, set, mode, [
      '--engine',
      'tensorflow',
      '--workers',
      '2',
      '--json',
    ])
    const { why } = JSON.parse(stdout) as { why: string[] }
    assert.doesNotMatch(why.join(), /WebAssembly/)
  })
}

/** The set with its first `count` examples alone. */
function firstExamples(t: TestContext, set: string, count: number): string {
  const folder = temporaryFolder(t)
  symlinkSync(join(set, 'run'), join(folder, 'run'))
  cpSync(join(set, 'images'), join(folder, 'images'), { recursive: true })
  const read = (name: string) => JSON.parse(readFileSync(join(set, name), 'utf8'))
  const write = (name: string, value: unknown) =>
    writeFileSync(join(folder, name), JSON.stringify(value))
  write('data.json', read('data.json').slice(0, count))
  const { examples, ...rest } = read('expected.json') as Expected
  write('expected.json', { ...rest, examples: examples.slice(0, count) })
  return folder
}

async function scoreSet(
  t: TestContext,
  set: string,
  mode: string,
  more: string[],
  env: NodeJS.ProcessEnv = {},
  relativeMax = RELATIVE_MAX,
): Promise<string> {
  const folder = temporaryFolder(t)
  const expected = JSON.parse(readFileSync(join(set, 'expected.json'), 'utf8')) as Expected
  const template = join(folder, 'template.json')
  if (expected.template !== undefined) writeFileSync(template, JSON.stringify(expected.template))
  const out = join(folder, 'out.jsonl')
  const where = ['--proxy', join(set, 'run'), '--data', join(set, 'data.json'), '--images', set]
  const by = expected.template === undefined ? [] : ['--template', template]
  const how = [...by, '--mode', mode, '--out', out, ...more]
  const { stdout } = await succeed(['score', ...where, ...how], env)
  const lines = readFileSync(out, 'utf8')
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as Line)
  assert.deepEqual(
    lines.map(({ id }) => id),
    expected.examples.map(({ id }) => String(id)),
  )
  const worst = lines.map((line, i) => compare(line, expected, mode, i))
  t.diagnostic(`largest relative difference from float64: ${Math.max(...worst)}`)
  assert.ok(Math.max(...worst) <= relativeMax)
  const meta = JSON.parse(readFileSync(`${out}.meta.json`, 'utf8'))
  assert.deepEqual([meta.schedule.steps, meta.mode], [expected.steps, mode])
  return stdout
}

/** The largest relative difference of one example's numbers from the float64 values. */
function compare(line: Line, expected: Expected, mode: string, index: number): number {
  const { top5, trajectory, instability } = expected.modes[mode]!.float64
  const { columns, rows, has_image } = expected.examples[index]!
  if (columns && has_image) {
    const { imageTokens, textRows } = line.size!
    assert.deepEqual([imageTokens, textRows], [columns.length, rows!.length])
  }
  if (!expected.examples[index]!.has_image) {
    assert.deepEqual([line.trajectory, line.instability, line.singularValues], [null, null, null])
    return 0
  }
  const apart = (a: number, b: number): number => Math.abs(a - b) / Math.abs(b)
  const values = line.singularValues!.flat()
  const differences = top5[index]!.flat().map((value, i) => apart(values[i]!, value))
  const scores = trajectory[index]!.map((value, i) => apart(line.trajectory![i]!, value))
  // Instability is a sum of differences: its error is measured against the scores it is made of.
  const largest = Math.max(...trajectory[index]!)
  const steadiness = Math.abs(line.instability! - instability[index]!) / largest
  return Math.max(...differences, ...scores, steadiness)
}
