/** TinyLLaVA-Factory's TinyLlavaForConditionalGeneration. */
import { join } from 'node:path'
import { ConfigReader, readJson } from '../config.ts'
import { type Family, namedBy } from '../model.ts'
import { featureRows } from '../vision.ts'
import { LLAVA_MODULES, squareParts } from './llava.ts'
import { readAspect, readText, readVision } from './parts.ts'

/** TinyLlavaConfig's. */
const LENGTH_MAX = 2048
const IMAGE_TOKEN_ID = -200

export const tinyllava: Family = {
  kind: 'tinyllava',
  readConfig(top) {
    const vision = readVision(top, ['patch', 'cls_patch'])
    const lengthMax = top.positive('tokenizer_model_max_length', LENGTH_MAX)
    const text = readText(top, lengthMax)
    top.oneOf('connector_type', ['mlp2x_gelu'])
    return {
      kind: 'tinyllava',
      vision,
      connector: { activation: 'gelu' },
      text,
      imageTokens: featureRows(vision),
      imageTokenId: top.integer('image_token_index', top.integer('image_token_id', IMAGE_TOKEN_ID)),
      lengthMax,
      aspect: readAspect(top),
    }
  },
  nameOf: namedBy(LLAVA_MODULES),
  ...squareParts(impliedProcessor),
}

/**
 * TinyLLaVA-Factory saves no image processor: it loads that of its vision tower's base model. OpenAI's CLIP
 * and Google's SigLIP differ from their classes' defaults in the size alone; SigLIP 2 in the resampling too.
 */
function impliedProcessor(checkpointDir: string, side: number): unknown {
  const file = join(checkpointDir, 'config.json')
  const base = new ConfigReader(file, readJson(file)).text('vision_model_name_or_path', '')
  if (/openai\/clip-vit-[^/]*$/.test(base)) {
    return { image_processor_type: 'CLIPImageProcessor', size: side, crop_size: side }
  }
  if (/google\/siglip-[^/]*$/.test(base)) {
    return { image_processor_type: 'SiglipImageProcessor', size: { height: side, width: side } }
  }
  return undefined
}
