/** Hugging Face's LlavaNextForConditionalGeneration: LLaVA 1.6. */
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
    return {
      kind: 'llava_next',
      ...readAnyres(top, checkpointDir, vision, 32_000),
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
