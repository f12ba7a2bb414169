/** Checkpoints in Hugging Face form, as a Trainer leaves them. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BYTE_LETTERS } from '../ingest/encoder.ts'
import { DEFAULTS } from '../ingest/image/preprocess.ts'
import { TRAINED } from '../proxy/checkpoint/config.ts'
import { type TensorToWrite, writeSafetensors } from '../proxy/checkpoint/safetensors.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { type ParameterValues, SPECIALS } from './shape.ts'

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
      TRAINED.diskName(name),
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
  writeJson(join(folder, 'config.json'), TRAINED.configJson(config))
  writeJson(join(folder, 'preprocessor_config.json'), imageProcessorJson(config))
  writeJson(join(folder, 'tokenizer.json'), tokenizerJson())
  writeJson(join(folder, 'tokenizer_config.json'), tokenizerConfigJson(config.lengthMax))
  writeJson(join(folder, 'special_tokens_map.json'), specialTokensJson())
}

export function writeJson(file: string, value: unknown): void {
  writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`)
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

/** preprocessor_config.json: the whole picture, squeezed to a square, so that no part is cropped. */
function imageProcessorJson({ vision }: ProxyConfig): object {
  const side = { height: vision.imageSize, width: vision.imageSize }
  return {
    image_processor_type: 'CLIPImageProcessor',
    do_convert_rgb: true,
    do_resize: true,
    size: side,
    resample: 3,
    do_center_crop: true,
    crop_size: side,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: DEFAULTS.clip.mean,
    image_std: DEFAULTS.clip.std,
  }
}

/*
 * A byte-level tokenizer.json without merges: every byte of UTF-8 is a token. Valid for the Rust
 * `tokenizers` library and for @huggingface/tokenizers.
 */

function tokenizerJson(): object {
  const bytes = BYTE_LETTERS.map((letter, byte) => [letter, SPECIALS.length + byte])
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }
  const bos = { SpecialToken: { id: '<s>', type_id: 0 } }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, id) => ({ id, ...addedToken(content) })),
    normalizer: null,
    pre_tokenizer: { ...byteLevel, trim_offsets: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [bos, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [bos, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [SPECIALS.indexOf('<s>')], tokens: ['<s>'] } },
    },
    decoder: { ...byteLevel, trim_offsets: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries([...SPECIALS.map((content, id) => [content, id]), ...bytes]),
      merges: [],
    },
  }
}

function tokenizerConfigJson(lengthMax: number): object {
  return {
    added_tokens_decoder: Object.fromEntries(
      SPECIALS.map((content, id) => [id, addedToken(content)]),
    ),
    add_bos_token: true,
    add_prefix_space: false,
    clean_up_tokenization_spaces: false,
    model_max_length: lengthMax,
    padding_side: 'right',
    tokenizer_class: 'PreTrainedTokenizerFast',
    ...specialTokensJson(),
  }
}

function specialTokensJson(): object {
  return { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>' }
}

function addedToken(content: string): object {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false }
  return { content, ...flags, special: true }
}
