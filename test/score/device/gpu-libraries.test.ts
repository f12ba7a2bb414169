import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { missingForWebgpu } from '../../../src/score/device/gpu-libraries.ts'
import { temporaryFolder } from '../../support.ts'

const isLinux = process.platform === 'linux'

test('webgpu needs a Vulkan loader and the manifest of a driver', { skip: !isLinux }, t => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'libvulkan.so.1'), '')
  const manifests = join(folder, 'share/vulkan/icd.d')
  const env = {
    LD_LIBRARY_PATH: folder,
    XDG_DATA_DIRS: join(folder, 'share'),
    XDG_DATA_HOME: folder,
  }
  mkdirSync(manifests, { recursive: true })
  const named = missingForWebgpu({ ...env, VK_DRIVER_FILES: join(folder, 'none.json') })
  assert.match(named!.reason, /no Vulkan driver/)
  assert.ok(named!.fix)
  writeFileSync(join(manifests, 'driver.json'), '{}')
  assert.equal(missingForWebgpu(env), undefined)
  assert.equal(missingForWebgpu({ ...env, VK_ICD_FILENAMES: manifests }), undefined)
})
