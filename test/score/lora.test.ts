/** Schedules of LoRA adapters: peft's own numbers, and what merged checkpoints give. */
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { loadConfig } from '../../src/config.ts'
import type { EngineName } from '../../src/engine/engine.ts'
import { patches } from '../../src/ingest/image/preprocess.ts'
import { writeSafetensors } from '../../src/proxy/checkpoint/safetensors.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { MODES, type Mode } from '../../src/score/attention.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { describeScores } from '../../src/score/pipeline.ts'
import { startScoring } from '../../src/score/scoring.ts'
import { worstOf } from '../golden-sets.ts'
import { type GoldenTensor, readTensors } from '../goldens.ts'
import { shared, temporaryFolder } from '../support.ts'
import { withBackend } from '../tensorflow.ts'

const SETS = ['lora-plain', 'lora-pattern', 'lora-rslora', 'lora-modules']
const RELATIVE_MAX = 2e-5
const MERGED_MAX = 1e-6

type Expected = {
  examples: { input_ids: number[]; columns: number[]; rows: number[]; answers: number[] }[]
  modes: Record<Mode, { float64: { top5: (number[][] | null)[] } }>
  losses: (number[] | null)[]
}

for (const name of SETS) {
  test(`${name}: both modes and the losses as peft gives them, and as merged checkpoints do`, async t => {
    const set = shared(t, 'goldens/families', name)
    if (set === undefined) return
    const { expected, sequences } = read(set)
    const merged = temporaryFolder(t)
    merge(set, merged)
    for (const mode of MODES) {
      const top5 = expected.modes[mode].float64.top5.filter(values => values !== null)
      const scored = await score(join(set, 'run'), sequences, { mode })
      const plain = (await score(merged, sequences, { mode })).map(valuesOf)
      const [worst, apart] = [worstOf(scored, top5), worstOf(scored, plain)]
      t.diagnostic(`${mode}: ${worst} from float64, ${apart} from merged checkpoints`)
      assert.ok(worst <= RELATIVE_MAX && apart <= MERGED_MAX, `${worst} ${apart}`)
    }
    const losses = await score(join(set, 'run'), sequences, { mode: 'paper', metric: 'loss' })
    const wanted = expected.losses.filter((_, i) => expected.modes.paper.float64.top5[i] !== null)
    for (const [i, one] of losses.entries()) {
      assert.ok('losses' in one)
      for (const [t, loss] of one.losses.entries()) {
        assert.ok(Math.abs(loss / wanted[i]![t]! - 1) < RELATIVE_MAX, `${loss} ${wanted[i]![t]}`)
      }
    }
  })

  test(`${name}: the same on the tensorflow engine`, async t => {
    const set = shared(t, 'goldens/families', name)
    if (set === undefined || !(await withBackend(t, 'tensorflow'))) return
    const { expected, sequences } = read(set)
    const merged = temporaryFolder(t)
    merge(set, merged)
    const top5 = expected.modes.reference.float64.top5.filter(values => values !== null)
    const scored = await score(join(set, 'run'), sequences, { engine: 'tensorflow' })
    const plain = (await score(merged, sequences, { engine: 'tensorflow' })).map(valuesOf)
    const [worst, apart] = [worstOf(scored, top5), worstOf(scored, plain)]
    t.diagnostic(`${worst} from float64, ${apart} from merged checkpoints`)
    assert.ok(worst <= RELATIVE_MAX && apart <= MERGED_MAX, `${worst} ${apart}`)
  })
}

test('a vision tower that no adapter touches is shared, and one that an adapter touches is not', t => {
  const touched = SETS.map(name => {
    const set = shared(t, 'goldens/families', name)
    return set && !openSchedule(join(set, 'run')).visionShared
  })
  if (!touched.includes(undefined)) assert.deepEqual(touched, [true, true, true, false])
})

test('adapters without tokenizer, image processor and chat template are prepared by those of their base', t => {
  const set = shared(t, 'goldens/families', 'lora-rslora')
  if (set === undefined) return
  const bare = temporaryFolder(t)
  cpSync(join(set, 'base'), join(bare, 'base'), { recursive: true })
  for (const { dir } of openSchedule(join(set, 'run')).checkpoints) {
    const folder = join(bare, 'run', basename(dir))
    mkdirSync(folder, { recursive: true })
    for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
      cpSync(join(dir, name), join(folder, name))
    }
  }
  const [whole, less] = [set, bare].map(at => {
    const { proxy } = loadConfig(undefined, {}, { 'proxy.path': join(at, 'run') })
    const { scores, prompt } = describeScores(proxy, openSchedule(proxy.path))
    return { scores, file: prompt.origin }
  })
  assert.deepEqual(less!.scores, whole!.scores)
  assert.match(less!.file, /base\/chat_template\.jinja/)
})

function read(set: string): { expected: Expected; sequences: Sequence[] } {
  const expected: Expected = JSON.parse(readFileSync(join(set, 'expected.json'), 'utf8'))
  const tensors = readTensors(join(set, 'expected.safetensors'))
  const { vision } = openSchedule(join(set, 'run')).config
  const sequences = expected.examples.flatMap((example, i): Sequence[] => {
    const pixels = tensors.get(`pixel_values.${i}`)
    if (pixels === undefined) return []
    const [count, channels, side] = pixels.shape as [number, number, number]
    const size = channels * side * side
    const images = Array.from({ length: count }, (_, m) => ({
      hash: `${i}.${m}`,
      patches: patches(
        (pixels.data as Float32Array).slice(m * size, (m + 1) * size),
        { width: side, height: side },
        vision.patchSize,
      ),
    }))
    const { input_ids, columns, rows, answers } = example
    const [ids, c, r, a] = [input_ids, columns, rows, answers].map(list => Int32Array.from(list))
    return [{ ids: ids!, columns: c!, rows: r!, answers: a!, images }]
  })
  return { expected, sequences }
}

type How = { mode?: Mode; metric?: 'attention' | 'loss'; engine?: EngineName }

async function score(proxyDir: string, sequences: Sequence[], how: How) {
  const { mode = 'reference', ...rest } = how
  const scoring = await startScoring({ proxyDir, mode, ...rest, workers: 1, threads: 1 })
  try {
    return await scoring.score(sequences)
  } finally {
    await scoring.close()
  }
}

type Scored = Awaited<ReturnType<typeof score>>[number]

function valuesOf(scored: Scored): number[][] {
  assert.ok('singularValues' in scored, JSON.stringify(scored))
  return scored.singularValues
}

/* What peft's merge_and_unload writes, by the sets' own configurations. */

type Config = {
  r: number
  lora_alpha: number
  use_rslora: boolean
  rank_pattern: Record<string, number>
  alpha_pattern: Record<string, number>
}

function merge(set: string, out: string): void {
  const base = readTensors(join(set, 'base/model.safetensors'))
  for (const { dir } of openSchedule(join(set, 'run')).checkpoints) {
    const folder = join(out, basename(dir))
    mkdirSync(folder)
    cpSync(join(set, 'base/config.json'), join(folder, 'config.json'))
    const adapter = readTensors(join(dir, 'adapter_model.safetensors'))
    const config: Config = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8'))
    const merged = new Map(base)
    for (const [key, tensor] of adapter) {
      if (key.includes('.lora_B.')) continue
      const module = key.replace('base_model.model.', '').replace(/\.lora_A\.weight$/, '')
      if (!key.includes('.lora_A.')) {
        merged.set(onDisk(module), tensor)
        continue
      }
      const b = adapter.get(key.replace('.lora_A.', '.lora_B.'))!
      const name = `${onDisk(module)}.weight`
      merged.set(name, sum(base.get(name)!, tensor, b, scaleOf(module, config)))
    }
    writeSafetensors(join(folder, 'model.safetensors'), Object.fromEntries(merged))
  }
}

function onDisk(module: string): string {
  return module
    .replace(/^model\.language_model\./, 'language_model.model.')
    .replace(/^model\.(vision_tower|multi_modal_projector)/, '$1')
}

function scaleOf(module: string, config: Config): number {
  const first = (pattern: Record<string, number>) =>
    Object.entries(pattern).find(([key]) => `.${module}`.endsWith(`.${key}`))?.[1]
  const rank = first(config.rank_pattern) ?? config.r
  const alpha = first(config.alpha_pattern) ?? config.lora_alpha
  return alpha / (config.use_rslora ? Math.sqrt(rank) : rank)
}

function sum(w: GoldenTensor, a: GoldenTensor, b: GoldenTensor, scale: number): GoldenTensor {
  const [outputs, rank] = b.shape as [number, number]
  const inputs = a.shape[1]!
  const data = Float32Array.from(w.data as Float32Array)
  for (let o = 0; o < outputs; o++) {
    for (let i = 0; i < inputs; i++) {
      let delta = 0
      for (let r = 0; r < rank; r++) {
        delta += Number(b.data[o * rank + r]!) * Number(a.data[r * inputs + i]!)
      }
      data[o * inputs + i]! += scale * delta
    }
  }
  return { ...w, data }
}
