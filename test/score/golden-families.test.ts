/** The golden sets of other families, from their image files and rendered prompts, on both engines. */
import { test } from 'node:test'
import { ENGINES } from '../../src/engine/engine.ts'
import {
  compareAllPixels,
  compareScores,
  familySets,
  GOLDEN_RELATIVE_MAX,
} from '../golden-families.ts'
import { withBackend } from '../tensorflow.ts'

const SETS = [
  'smolvlm',
  'smolvlm-split',
  'idefics3-split',
  'idefics3',
  'llava-onevision',
  'llava-next',
  'qwen2.5-vl',
  'qwen3-vl',
]

for (const name of SETS) {
  test(`${name}: pixels and ids are the processor's`, async t => {
    for (const set of await familySets(t, name)) compareAllPixels(set)
  })

  for (const engine of ENGINES) {
    test(`${name}: every example and checkpoint, both modes and the loss, on ${engine}`, async t => {
      if (engine === 'tensorflow' && !(await withBackend(t, 'tensorflow'))) return
      for (const set of await familySets(t, name)) {
        await compareScores(t, set, engine, GOLDEN_RELATIVE_MAX)
      }
    })
  }
}
