/** Hugging Face's LlavaForConditionalGeneration: LLaVA 1.5 and its relatives. */
import { XmasdError } from '../../errors.ts'
import { type ConfigReader, type ProxyConfig, patchesPerImage } from '../config.ts'
import { type Family, namedBy, shrunkText } from '../model.ts'
import { featureRows, MLP_CONNECTOR, SQUARE_TOWER, shrunkVision } from '../vision.ts'
import { lengthMaxOf, readAspect, readText, readVision } from './parts.ts'
import { squarePictures } from './pictures.ts'

/**
 * The modules of LLaVA and its relatives. TinyLLaVA's stand inside others, and its connector is a
 * Sequential: linear, GELU, linear.
 */
export const LLAVA_MODULES = {
  parts: {
    language_model: 'text',
    lm_head: 'head',
    vision_tower: 'vision',
    multi_modal_projector: 'connector',
    connector: 'connector',
  },
  containers: ['model', '_vision_tower', 'vision_model', '_connector'],
  connectorLayers: { linear_1: '1', linear_2: '2', '0': '1', '2': '2' },
} as const

export const llava: Family = {
  kind: 'llava',
  refuse: refuseRepositoryLayout,
  readConfig(top, checkpointDir) {
    const vision = readVision(top, ['default', 'full'])
    const lengthMax = top.positive('tokenizer_model_max_length', lengthMaxOf(top, checkpointDir))
    return {
      kind: 'llava',
      vision,
      connector: { activation: top.activation('projector_hidden_act', 'gelu') },
      text: readText(top, lengthMax),
      imageTokens: featureRows(vision),
      imageTokenId: top.integer('image_token_index', top.integer('image_token_id', 32_000)),
      lengthMax,
      aspect: readAspect(top),
    }
  },
  nameOf: namedBy(LLAVA_MODULES),
  ...squareParts(),
}

/**
 * The parts of a family whose every picture is one square. `implied` gives the image processor of a
 * checkpoint without one.
 */
export function squareParts(
  implied: (checkpointDir: string, side: number) => unknown = () => undefined,
): Pick<Family, 'tower' | 'connector' | 'pictures' | 'usual' | 'shrunk'> {
  return {
    tower: SQUARE_TOWER,
    connector: MLP_CONNECTOR,
    pictures: (config, checkpointDir) =>
      squarePictures(config, checkpointDir, implied(checkpointDir, config.vision.imageSize)),
    usual: ({ vision }) => ({ patches: patchesPerImage(vision) }),
    shrunk: shrunkSquare,
  }
}

/** A small proxy of the same kind, whose pictures are squares. */
export function shrunkSquare(config: ProxyConfig, gridMax: number): ProxyConfig {
  const vision = shrunkVision(config.vision, gridMax)
  return { ...config, vision, text: shrunkText(config.text), imageTokens: featureRows(vision) }
}

const REPOSITORY_KEYS = ['mm_vision_tower', 'mm_projector_type', 'mm_hidden_size']

/** The LLaVA repository writes model_type llava or llava_mistral; its tensors have other names. */
function refuseRepositoryLayout(top: ConfigReader): void {
  const classes = top.list('architectures').map(String)
  if (classes.includes('LlavaForConditionalGeneration')) return
  const sign =
    classes.find(name => /^Llava\w+ForCausalLM$/.test(name)) ??
    REPOSITORY_KEYS.find(key => top.has(key))
  if (sign === undefined) return
  throw new XmasdError(
    'PROXY_UNSUPPORTED',
    `${top.file} has ${sign}: the LLaVA repository's own layout`,
    'Convert every checkpoint to Hugging Face llava: convert_llava_weights_to_hf.py of transformers 4.',
  )
}
