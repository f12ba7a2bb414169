/**
 * docs/proxy.md, followed from an empty folder: its lines as they stand on the page, with a tiny random SmolVLM
 * for the download, on a CPU, for six steps. `TRAINERS_PYTHON` is what `test/parity/python.sh trainers` prints;
 * with REQUIRE_PARITY=1 its absence is a failure.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import type { Example } from '../../src/record.ts'
import { MAIN, ROOT, shared, temporaryFolder, trainersPython } from '../support.ts'

const PAGE = readFileSync(join(ROOT, 'docs/proxy.md'), 'utf8')
/** The page takes 200 of those with a picture out. */
const COPIES = 46
const CHECKPOINTS = ['checkpoint-2', 'checkpoint-4', 'checkpoint-6']

/** The page's code block that begins with `text`. */
function block(text: string): string {
  const blocks = [...PAGE.matchAll(/^```\w+\n([\s\S]*?)^```/gm)].map(([, code]) => code!)
  const found = blocks.filter(code => code.startsWith(text))
  assert.equal(found.length, 1, `docs/proxy.md has one block that begins with ${text}`)
  return found[0]!
}

function replaced(text: string, changes: Record<string, string>): string {
  return Object.entries(changes).reduce((changed, [from, to]) => {
    assert.ok(changed.includes(from), `docs/proxy.md: ${from}`)
    return changed.replace(from, to)
  }, text)
}

/** `data.json` and `images/` in LLaVA's form: copies of a golden set's examples. Returns those with a picture. */
function writeData(folder: string, set: string): string[] {
  cpSync(join(set, 'images'), join(folder, 'images'), { recursive: true })
  const examples: Example[] = JSON.parse(
    readFileSync(join(set, 'data.json'), 'utf8').replaceAll('"images/', '"'),
  )
  const copies = Array.from({ length: COPIES }, (_, n) =>
    examples.map(one => ({ ...one, id: `${one.id}-${n}` })),
  ).flat()
  writeFileSync(join(folder, 'data.json'), JSON.stringify(copies))
  return copies.filter(({ image }) => image !== undefined).map(({ id }) => id!)
}

type Line = { id: string; trajectory: number[] | null }

function readLines(file: string): Line[] {
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  return lines.map(line => JSON.parse(line) as Line)
}

test('docs/proxy.md leads from an empty folder to scores, by a whole model and by LoRA', async t => {
  const python = trainersPython(t)
  const set = shared(t, 'goldens/families/smolvlm')
  if (python === undefined || set === undefined) return
  const folder = temporaryFolder(t)
  const env = {
    ...process.env,
    PATH: [dirname(python), process.env.PATH].join(delimiter),
    HF_HUB_OFFLINE: '1',
    HF_HOME: join(folder, 'cache'),
  }
  const follow = (script: string) => {
    const xmasd = `xmasd() { '${process.execPath}' '${MAIN}' "$@"; }`
    return promisify(execFile)('bash', ['-euc', `${xmasd}\n${script}`], { cwd: folder, env })
  }
  const pictured = writeData(folder, set)
  await follow(`python3 - <<'END'\n${block('import json')}END\n`)
  const heldOut = JSON.parse(readFileSync(join(folder, 'held-out.json'), 'utf8'))
  assert.deepEqual([heldOut.length, pictured.length], [200, 230])
  const lora = replaced(block('trl sft'), {
    'HuggingFaceTB/SmolVLM-256M-Instruct': join(set, 'run/checkpoint-50'),
    '--num_train_epochs 1': '--max_steps 6 --use_cpu',
    '--save_steps 100': '--save_steps 2',
  })
  const [whole] = lora.split(' \\\n  --use_peft')
  const scored: Line[][] = []
  for (const [line, weights] of [
    [whole!, 'model.safetensors'],
    [lora, 'adapter_model.safetensors'],
  ] as const) {
    for (const name of ['run', 'bundle'])
      rmSync(join(folder, name), { recursive: true, force: true })
    await follow(line)
    const left = readdirSync(join(folder, 'run')).filter(name => name.startsWith('checkpoint-'))
    assert.deepEqual(left.sort(), CHECKPOINTS)
    for (const name of left) assert.ok(existsSync(join(folder, 'run', name, weights)), name)
    await follow(block('xmasd score'))
    assert.ok(existsSync(join(folder, 'bundle/bundle.json')))
    scored.push(readLines(join(folder, 'trajectories.jsonl')))
  }
  // A random model's schedule is of no use: the command exits with 1.
  const { stdout } = await follow(block('xmasd schedule')).catch(failed => failed)
  assert.match(stdout, /3 checkpoints, 200 examples[\s\S]*useless/)
  for (const lines of scored) {
    const withScores = lines.filter(({ trajectory }) => trajectory !== null)
    assert.deepEqual(
      withScores.map(({ id }) => id),
      pictured,
    )
    for (const { trajectory } of withScores) {
      assert.ok(trajectory!.every(score => score > 0))
      assert.equal(
        new Set(trajectory).size,
        CHECKPOINTS.length,
        'each checkpoint scores differently',
      )
    }
  }
  const [byWhole, byLora] = scored
  assert.notDeepEqual(byWhole, byLora)
})
