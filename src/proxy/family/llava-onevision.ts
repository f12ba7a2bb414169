/** Hugging Face's LlavaOnevisionForConditionalGeneration. */
import type { ConfigReader } from '../config.ts'
import type { Family } from '../model.ts'
import { MLP_CONNECTOR, SQUARE_TOWER } from '../vision.ts'
import {
  ANYRES_NAMES,
  allowed,
  anyresPictures,
  type Pinpoint,
  readAnyres,
  readFields,
  readPinpoints,
  shrunkAnyres,
  usualCut,
} from './anyres.ts'
import { readVision } from './parts.ts'
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
    return {
      kind: 'llava_onevision',
      ...readAnyres(top, checkpointDir, vision, 151_646),
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
