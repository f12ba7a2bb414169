/** Where a test finds a Vulkan device: the machine's own, or the software driver of Debian's chromium-common. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { missingForWebgpu } from '../src/score/device/gpu-libraries.ts'

const CHROMIUM = '/usr/lib/chromium'

/**
 * The environment that a process on webgpu needs, or undefined after a loud skip where there is no
 * Vulkan. With REQUIRE_WEBGPU=1 its absence is a failure.
 */
export function vulkan(t: TestContext): NodeJS.ProcessEnv | undefined {
  const manifest = join(CHROMIUM, 'vk_swiftshader_icd.json')
  if (existsSync(manifest)) return { VK_DRIVER_FILES: manifest, LD_LIBRARY_PATH: CHROMIUM }
  const missing = missingForWebgpu()
  if (missing === undefined) return {}
  if (process.env.REQUIRE_WEBGPU === '1') throw new Error(missing.reason)
  process.stderr.write(`SKIPPED, ${missing.reason}: ${t.name}\n`)
  t.skip(`needs Vulkan (apt install chromium-common brings a software driver)`)
  return undefined
}

/** An environment in which no GPU is found, whatever the machine has. */
export const NO_GPU: NodeJS.ProcessEnv = {
  VK_DRIVER_FILES: '/nonexistent.json',
  LD_LIBRARY_PATH: '',
}
