/** Checkpoints in Hugging Face form, as a Trainer leaves them. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ProxyConfig } from '../proxy/config.ts'
import { type TensorToWrite, writeSafetensors } from '../proxy/safetensors.ts'
import { specialTokensJson, tokenizerConfigJson, tokenizerJson } from './byte-tokenizer.ts'
import type { ParameterValues } from './init.ts'
import { configJson, imageProcessorJson } from './shape.ts'

/** One line of trainer_state.json's history. */
export type HistoryEntry = {
  step: number
  epoch: number
  loss: number
  learning_rate: number
  grad_norm: number
}

export type CheckpointState = {
  step: number
  steps: number
  config: ProxyConfig
  parameters: ReadonlyMap<string, ParameterValues>
  history: readonly HistoryEntry[]
}

/** Writes `runDir/checkpoint-N/`; the folder appears whole or not at all. Returns its path. */
export function saveCheckpoint(runDir: string, state: CheckpointState): string {
  const folder = join(runDir, `checkpoint-${state.step}`)
  const partial = join(runDir, `.checkpoint-${state.step}.partial`)
  rmSync(partial, { recursive: true, force: true })
  writeModelFiles(partial, state.config)
  const tensors = Object.fromEntries(
    [...state.parameters].map(([name, values]): [string, TensorToWrite] => [
      diskName(name),
      values,
    ]),
  )
  writeSafetensors(join(partial, 'model.safetensors'), tensors, { format: 'pt' })
  writeJson(join(partial, 'trainer_state.json'), trainerState(state))
  renameSync(partial, folder)
  return folder
}

/** All that a checkpoint holds beside weights and history: what ingest needs. */
export function writeModelFiles(folder: string, config: ProxyConfig): void {
  mkdirSync(folder, { recursive: true })
  writeJson(join(folder, 'config.json'), configJson(config))
  writeJson(join(folder, 'preprocessor_config.json'), imageProcessorJson(config))
  writeJson(join(folder, 'tokenizer.json'), tokenizerJson())
  writeJson(join(folder, 'tokenizer_config.json'), tokenizerConfigJson(config.lengthMax))
  writeJson(join(folder, 'special_tokens_map.json'), specialTokensJson())
}

export function writeJson(file: string, value: unknown): void {
  writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`)
}

/** The key layout that every transformers version with llava reads (goldens' README: `legacy`). */
const PREFIXES: readonly (readonly [canonical: string, onDisk: string])[] = [
  ['text.', 'language_model.model.'],
  ['head.', 'language_model.lm_head.'],
  ['vision.', 'vision_tower.vision_model.'],
  ['connector.', 'multi_modal_projector.linear_'],
]

function diskName(name: string): string {
  const [canonical, onDisk] = PREFIXES.find(([prefix]) => name.startsWith(prefix))!
  return onDisk + name.slice(canonical.length)
}

function trainerState({ step, steps, history }: CheckpointState): object {
  return {
    best_metric: null,
    epoch: history.at(-1)?.epoch ?? 0,
    global_step: step,
    is_world_process_zero: true,
    log_history: history,
    max_steps: steps,
  }
}
