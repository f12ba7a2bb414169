/** What a GPU needs to be usable at all, looked for on disk: nothing is loaded, no driver is woken. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { homedir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { messageOf } from '../../errors.ts'

/** Why something is missing, and what brings it. */
export type Missing = { reason: string; fix: string }

type Environment = Readonly<Record<string, string | undefined>>

/**
 * What webgpu lacks; undefined where it may work. On Linux: the Vulkan loader and a driver's manifest
 * (the loader's own search order). Elsewhere the system brings Metal or D3D12.
 */
export function missingForWebgpu(env: Environment = process.env): Missing | undefined {
  if (process.platform !== 'linux') return undefined
  if (!hasVulkanLoader(env)) {
    return { reason: 'no Vulkan: libvulkan.so.1 is not installed', fix: VULKAN_FIX }
  }
  if (!hasVulkanDriver(env)) {
    const reason = 'libvulkan.so.1 is there, but no Vulkan driver (no manifest in vulkan/icd.d)'
    return { reason, fix: VULKAN_FIX }
  }
  return undefined
}

const VULKAN_FIX =
  "for webgpu install the GPU's driver with its Vulkan part, and libvulkan1 (Debian, Ubuntu)"

const LIBRARY = 'libvulkan.so.1'
const LIBRARY_FOLDERS = ['/lib', '/usr/lib', '/lib64', '/usr/lib64', '/usr/local/lib']

function hasVulkanLoader(env: Environment): boolean {
  const folders = [...split(env.LD_LIBRARY_PATH), ...LIBRARY_FOLDERS]
  if (folders.some(folder => existsSync(join(folder, LIBRARY)))) return true
  try {
    return readFileSync('/etc/ld.so.cache').includes(LIBRARY)
  } catch {
    return false // no cache: musl, whose loader looks into the folders above
  }
}

/** https://github.com/KhronosGroup/Vulkan-Loader/blob/main/docs/LoaderDriverInterface.md */
function hasVulkanDriver(env: Environment): boolean {
  const named = env.VK_DRIVER_FILES ?? env.VK_ICD_FILENAMES
  if (named !== undefined) return split(named).some(hasManifest)
  const data = env.XDG_DATA_HOME ?? join(homedir(), '.local/share')
  const shared = split(env.XDG_DATA_DIRS ?? '/usr/local/share:/usr/share')
  const icds = ['/etc', data, ...shared].map(folder => join(folder, 'vulkan/icd.d'))
  return [...split(env.VK_ADD_DRIVER_FILES), ...icds].some(hasManifest)
}

/** A manifest, or a folder that holds one. */
function hasManifest(path: string): boolean {
  if (path.endsWith('.json')) return existsSync(path)
  try {
    return readdirSync(path).some(name => name.endsWith('.json'))
  } catch {
    return false
  }
}

function split(list: string | undefined): string[] {
  return (list ?? '').split(delimiter).filter(path => path !== '')
}

const CUDA_PROVIDER = 'libonnxruntime_providers_cuda.so'

/** What onnxruntime lacks for CUDA; undefined where it may work. npm does not bring its provider. */
export function missingForCuda(): Missing | undefined {
  const fix =
    'node node_modules/onnxruntime-node/script/install.js --onnxruntime-node-install=cuda12 ' +
    'fetches it; CUDA 12 and cuDNN 9 must be installed too'
  try {
    const main = createRequire(import.meta.url).resolve('onnxruntime-node/package.json')
    const platform = join('bin/napi-v6', process.platform, process.arch)
    if (existsSync(join(dirname(main), platform, CUDA_PROVIDER))) return undefined
  } catch (error) {
    return { reason: `onnxruntime-node is not installed: ${messageOf(error)}`, fix: 'npm ci' }
  }
  return { reason: "no CUDA: onnxruntime's CUDA provider is not installed", fix }
}
