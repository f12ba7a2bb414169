/** Hugging Face's LlavaNextForConditionalGeneration: LLaVA 1.6. */
import type { Family } from '../model.ts'
import { featureRows, MLP_CONNECTOR, SQUARE_TOWER } from '../vision.ts'
import {
  ANYRES_NAMES,
  allowed,
  anyresPictures,
  checkTiles,
  type Pinpoint,
  readFields,
  readPinpoints,
  shrunkAnyres,
  usualCut,
} from './anyres.ts'
import { lengthMaxOf, readText, readVision } from './parts.ts'
import { CLIP_LOOK, processorReader, readLook } from './pictures.ts'

/** LlavaNextConfig's. */
const PINPOINTS: readonly Pinpoint[] = [
  [336, 672],
  [672, 336],
  [672, 672],
  [1008, 336],
  [336, 1008],
]

export const llavaNext: Family = {
  kind: 'llava_next',
  readConfig(top, checkpointDir) {
    const vision = readVision(top, ['default', 'full'])
    checkTiles(top, vision)
    const lengthMax = lengthMaxOf(top, checkpointDir)
    return {
      kind: 'llava_next',
      vision,
      connector: { activation: top.activation('projector_hidden_act', 'gelu') },
      text: readText(top, lengthMax),
      imageTokens: featureRows(vision) + 1,
      imageTokenId: top.integer('image_token_index', top.integer('image_token_id', 32_000)),
      lengthMax,
      aspect: 'square',
      newline: true,
      more: { pinpoints: readPinpoints(top, PINPOINTS).flat() },
    }
  },
  nameOf: ANYRES_NAMES,
  tower: SQUARE_TOWER,
  connector: MLP_CONNECTOR,
  pictures(config, checkpointDir, budget) {
    const reader = processorReader(checkpointDir)
    const pinpoints = allowed(readFields(reader, config, PINPOINTS), budget)
    return anyresPictures(config, { look: readLook(reader, CLIP_LOOK), pinpoints })
  },
  usual: usualCut,
  shrunk: shrunkAnyres,
}
