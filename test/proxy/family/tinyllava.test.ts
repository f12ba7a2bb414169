import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { readProxyConfig } from '../../../src/proxy/checkpoint/config.ts'
import { tinyllava } from '../../../src/proxy/family/tinyllava.ts'
import { configJson, TINY } from '../../fixtures-tiny-proxy.ts'
import { hasCode } from '../../ingest/fixtures.ts'
import { temporaryFolder } from '../../support.ts'

test('a checkpoint without an image processor has its base model’s, which its trainer loads', t => {
  const read = (base: string, processor?: object) => {
    const folder = temporaryFolder(t)
    const json = { ...configJson({ ...TINY, kind: 'tinyllava' }), vision_model_name_or_path: base }
    writeFileSync(join(folder, 'config.json'), JSON.stringify(json))
    const file = join(folder, 'preprocessor_config.json')
    if (processor !== undefined) writeFileSync(file, JSON.stringify(processor))
    return tinyllava.pictures(readProxyConfig(folder), folder, undefined).described
  }
  const side = TINY.vision.imageSize
  const clip = { image_processor_type: 'CLIPImageProcessor', size: { shortest_edge: side } }
  const crop_size = { height: side, width: side }
  assert.deepEqual(read('openai/clip-vit-large-patch14-336'), read('', { ...clip, crop_size }))
  const siglip = { image_processor_type: 'SiglipImageProcessor', size: crop_size }
  assert.deepEqual(read('google/siglip-so400m-patch14-384'), read('', siglip))
  const unknown = ['google/siglip2-so400m-patch14-384', 'facebook/dinov2-large', '/models/mine']
  for (const base of unknown) assert.throws(() => read(base), hasCode('PROXY_INVALID'))
})
