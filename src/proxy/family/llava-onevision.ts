/** Hugging Face's LlavaOnevisionForConditionalGeneration. */
import type { ConfigReader } from '../config.ts'
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
import { HALF_LOOK, processorReader, readLook } from './pictures.ts'

/** LlavaOnevisionConfig's: up to 6 × 6 tiles of 384. */
const TILES = [1, 2, 3, 4, 5, 6]
const PINPOINTS: readonly Pinpoint[] = TILES.flatMap(rows =>
  TILES.map((columns): Pinpoint => [384 * rows, 384 * columns]),
)

export const llavaOnevision: Family = {
  kind: 'llava_onevision',
  readConfig(top, checkpointDir) {
    const vision = readVision(top, ['default', 'full'], { layer: -1, strategy: 'full' })
    checkTiles(top, vision)
    const lengthMax = lengthMaxOf(top, checkpointDir)
    return {
      kind: 'llava_onevision',
      vision,
      connector: { activation: top.activation('projector_hidden_act', 'gelu') },
      text: readText(top, lengthMax),
      imageTokens: featureRows(vision) + 1,
      imageTokenId: top.integer('image_token_index', top.integer('image_token_id', 151_646)),
      lengthMax,
      aspect: 'square',
      newline: true,
      blends: true,
      more: { pinpoints: readPinpoints(top, PINPOINTS).flat(), tilesMax: readTilesMax(top) },
    }
  },
  nameOf: ANYRES_NAMES,
  tower: SQUARE_TOWER,
  connector: MLP_CONNECTOR,
  pictures(config, checkpointDir, budget) {
    const reader = processorReader(checkpointDir)
    return anyresPictures(config, {
      look: readLook(reader, HALF_LOOK),
      pinpoints: allowed(readFields(reader, config, PINPOINTS), budget),
      tilesMax: config.more!.tilesMax as number,
      onePadded: true,
    })
  },
  usual: usualCut,
  shrunk: shrunkAnyres,
}

/** `anyres_max_N`. Throws PROXY_UNSUPPORTED. */
function readTilesMax(top: ConfigReader): number {
  const aspect = top.text('vision_aspect_ratio', 'anyres_max_9')
  const found = /^anyres_max_(\d+)$/.exec(aspect)?.[1]
  if (found === undefined) throw top.unsupported('vision_aspect_ratio', 'anyres_max_N')
  return Number(found)
}
