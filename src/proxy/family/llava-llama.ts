/**
 * The LLaVA repository's own classes, such as LlavaLlamaForCausalLM: a language model whose config describes
 * it at the top, the projector `mm_projector`, and a CLIP tower that is described by another model's folder.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { XmasdError } from '../../errors.ts'
import { processorFileOf, readProcessorFile } from '../../ingest/image/preprocess.ts'
import { ConfigReader, type ConnectorConfig, placesOf, readJson } from '../config.ts'
import { type Family, namedBy } from '../model.ts'
import { featureRows } from '../vision.ts'
import { squareParts } from './llava.ts'
import { formOf, lengthMaxOf, readAspect, readText, readVision } from './parts.ts'

const KIND = 'llava_llama'
/** The language model of each class, by its name in `architectures` and its `model_type`. */
const CLASSES = [
  { name: 'LlavaLlamaForCausalLM', type: KIND, family: 'llama' },
  { name: 'LlavaMistralForCausalLM', type: 'llava_mistral', family: 'mistral' },
  { name: 'LlavaQwenForCausalLM', type: 'llava_qwen', family: 'qwen2' },
] as const
/** IMAGE_TOKEN_INDEX of its code. */
const IMAGE_TOKEN_ID = -200

/** CLIP-L/336, whose sizes are those that a config without a tower stands for. */
const USUAL_TOWER = 'openai/clip-vit-large-patch14-336'

/** The text model's parts stand at the top. A tower of its own folder is a `vision_model`. */
const named = namedBy({
  parts: {
    language_model: 'text',
    lm_head: 'head',
    vision_tower: 'vision',
    vision_model: 'vision',
    mm_projector: 'connector',
  },
  containers: ['model', 'vision_tower', 'vision_model'],
  // A Sequential of layers and activations, or one bare layer.
  connectorLayers: { '0': '1', '2': '2', '4': '3', '6': '4', weight: '1.weight', bias: '1.bias' },
})
const BARE = ['embed_tokens', 'layers', 'norm']

export const llavaLlama: Family = {
  kind: KIND,
  isOf: top => classOf(top) !== undefined,
  readConfig(top, checkpointDir) {
    const connector = readProjector(top)
    if (top.flag('mm_use_im_start_end', false))
      throw top.unsupported('mm_use_im_start_end', 'false')
    const vision = readVision(towerConfig(top, checkpointDir), ['patch', 'cls_patch'], {
      layer: top.integer('mm_vision_select_layer', -2),
      strategy: top.oneOf('mm_vision_select_feature', ['patch', 'cls_patch']) ?? 'patch',
    })
    if (vision.family !== 'clip') throw top.unsupported('mm_vision_tower', 'CLIP')
    const form = formOf(top, classOf(top)!.family)
    const longest = lengthMaxOf(top, checkpointDir, form)
    const lengthMax = top.positive('tokenizer_model_max_length', longest)
    return {
      kind: KIND,
      vision,
      connector,
      text: readText(top, lengthMax, form),
      imageTokens: featureRows(vision),
      imageTokenId: IMAGE_TOKEN_ID,
      lengthMax,
      aspect: readAspect(top),
    }
  },
  nameOf: path => named(BARE.includes(path[0]!) ? ['language_model', ...path] : path),
  beside(checkpointDir, tensors) {
    if (tensors.has('vision.embeddings.patch_embedding.weight')) return undefined
    const tower = towerOf(readTop(checkpointDir), checkpointDir)
    if (tower.folder === undefined) throw towerMissing(checkpointDir, tower)
    return tower.folder
  },
  ...squareParts(impliedProcessor),
}

function classOf(top: ConfigReader): (typeof CLASSES)[number] | undefined {
  const classes = top.list('architectures')
  return (
    CLASSES.find(({ name }) => classes.includes(name)) ??
    CLASSES.find(({ type }) => top.is('model_type', type))
  )
}

/** Its code takes an absent type as linear. */
function readProjector(top: ConfigReader): ConnectorConfig {
  const type = top.text('mm_projector_type', 'linear')
  const count = type === 'linear' ? 1 : Number(/^mlp([1-4])x_gelu$/.exec(type)?.[1])
  if (Number.isNaN(count)) throw top.unsupported('mm_projector_type', 'linear, mlp2x_gelu')
  return { activation: 'gelu', ...(count === 2 ? {} : { layers: count }) }
}

type TowerPlace = { name: string; places: readonly string[]; folder: string | undefined }

/** `mm_vision_tower`: a folder, or a model of the hub that Hugging Face's cache may hold. */
function towerOf(top: ConfigReader, checkpointDir: string): TowerPlace {
  const name = top.text('mm_vision_tower')
  const places = placesOf(checkpointDir, name)
  return { name, places, folder: places.find(place => existsSync(join(place, 'config.json'))) }
}

/** The config of the tower, in the form of a config that holds it. */
function towerConfig(top: ConfigReader, checkpointDir: string): ConfigReader {
  const tower = towerOf(top, checkpointDir)
  if (tower.folder === undefined) {
    if (tower.name === USUAL_TOWER) return new ConfigReader(top.file, {})
    throw towerMissing(checkpointDir, tower)
  }
  const file = join(tower.folder, 'config.json')
  const json = readJson(file)
  const isWhole = json.model_type === 'clip'
  const vision = isWhole ? { model_type: 'clip_vision_model', ...Object(json.vision_config) } : json
  return new ConfigReader(file, { vision_config: vision })
}

function towerMissing(checkpointDir: string, { name, places }: TowerPlace): XmasdError {
  return new XmasdError(
    'PROXY_INVALID',
    `the vision tower of ${checkpointDir}, ${name}, is not in ${places.join(' or ')}`,
    `Download it into Hugging Face's cache (hf download ${name}), or write its folder into mm_vision_tower of config.json.`,
  )
}

function readTop(checkpointDir: string): ConfigReader {
  const file = join(checkpointDir, 'config.json')
  return new ConfigReader(file, readJson(file))
}

/** Its trainer saves no image processor: it loads the tower's. */
function impliedProcessor(checkpointDir: string, side: number): unknown {
  const { name, folder } = towerOf(readTop(checkpointDir), checkpointDir)
  if (folder !== undefined && processorFileOf(folder) !== undefined) {
    return readProcessorFile(folder).json
  }
  if (!/openai\/clip-vit-[^/]*$/.test(name)) return undefined
  return { image_processor_type: 'CLIPImageProcessor', size: side, crop_size: side }
}
