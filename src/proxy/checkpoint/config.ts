/** The list of families, and the proxy of a checkpoint folder. */
import { devNull } from 'node:os'
import { join } from 'node:path'
import { XmasdError } from '../../errors.ts'
import type { Json } from '../../ingest/form/json.ts'
import { ConfigReader, type ProxyConfig, readJson } from '../config.ts'
import { llavaNext, llavaOnevision } from '../family/anyres.ts'
import { internvl } from '../family/internvl.ts'
import { llava } from '../family/llava.ts'
import { llavaLlama } from '../family/llava-llama.ts'
import { qwen2vl, qwen25vl } from '../family/qwen2-vl.ts'
import { qwen3vl } from '../family/qwen3-vl.ts'
import { idefics3, smolvlm } from '../family/smolvlm.ts'
import { tinyllava } from '../family/tinyllava.ts'
import { TRAINED } from '../family/trained.ts'
import type { Family } from '../model.ts'

export const FAMILIES: readonly Family[] = [
  llava,
  tinyllava,
  smolvlm,
  idefics3,
  llavaOnevision,
  llavaNext,
  qwen2vl,
  qwen25vl,
  qwen3vl,
  internvl,
  llavaLlama,
]

/** What a config without `model_type` is read as. */
const FIRST_FAMILY = llava

export { TRAINED }

export function familyOf({ kind }: Pick<ProxyConfig, 'kind'>): Family {
  const family = FAMILIES.find(family => family.kind === kind)
  if (family === undefined) throw new RangeError(`there is no family ${kind}`)
  return family
}

/**
 * Reads config.json, as transformers 4 (`rope_theta`, defaults left out) or 5 (`rope_parameters`, all
 * keys written) saves it. Throws PROXY_UNSUPPORTED for families and features that are not supported,
 * PROXY_INVALID for values that make no sense, CHECKPOINT_INVALID for a file that is missing or is
 * not JSON.
 */
export function readProxyConfig(checkpointDir: string): ProxyConfig {
  const file = join(checkpointDir, 'config.json')
  const reader = new ConfigReader(file, readJson(file))
  refuseLinearAttention(reader)
  const kinds = FAMILIES.map(({ kind }) => kind)
  const known =
    FAMILIES.find(family => family.isOf?.(reader)) ??
    FAMILIES.find(({ kind }) => reader.is('model_type', kind))
  const family = known ?? FIRST_FAMILY
  family.refuse?.(reader)
  if (known === undefined) reader.oneOf('model_type', kinds)
  const quantised = reader.section('quantization_config')
  if (quantised !== undefined) throw refuseQuantised(quantised)
  return family.readConfig(reader, checkpointDir)
}

/** A proxy like those that `xmasd train` leaves, from config.json alone: no file lies beside it. */
export function proxyOf(json: Json): ProxyConfig {
  return familyOf(TRAINED).readConfig(new ConfigReader('config.json', json), devNull)
}

/** Layers without q and k have no cross-modal attention. */
function refuseLinearAttention(top: ConfigReader): void {
  const text = top.section('text_config') ?? top
  if (!text.list('layer_types').includes('linear_attention')) return
  throw new XmasdError(
    'PROXY_UNSUPPORTED',
    `${top.file}: ${top.text('model_type', 'the model')} has layers of linear_attention, which have no q and k to score by`,
    'Take a proxy whose layers all have full attention.',
  )
}

/** Names of `quant_method`. */
const QUANTISATIONS: Readonly<Record<string, string>> = {
  bitsandbytes: 'bitsandbytes',
  gptq: 'GPTQ',
  awq: 'AWQ',
}

function refuseQuantised(section: ConfigReader): XmasdError {
  const method = section.oneOf('quant_method', Object.keys(QUANTISATIONS)) ?? 'bitsandbytes'
  return new XmasdError(
    'PROXY_UNSUPPORTED',
    `${section.file}: its quantization_config says that the weights are quantised with ${QUANTISATIONS[method]}, which is not read`,
    'Take the model in float32, bfloat16 or float16. LoRA checkpoints of a quantised base: give the unquantised base with --base DIR; whole checkpoints: train without quantisation, or dequantise and save each one.',
  )
}
