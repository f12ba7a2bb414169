/** What it means that an engine failed: memory ran out, or anything else. */
import { messageOf, XmasdError } from '../errors.ts'
import type { Checkpoint } from '../proxy/schedule.ts'

/**
 * How allocations fail, in the words of those that fail: onnxruntime's arena, C++, CUDA and cuBLAS, Dawn
 * (webgpu), TensorFlow (its status 8), WebAssembly (which gives no reason when it aborts), V8.
 */
const OUT_OF_MEMORY = [
  /Failed to allocate memory/,
  /bad_?alloc/i,
  /out of memory/i,
  /CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED/,
  /RESOURCE_EXHAUSTED|OOM when allocating|Invalid TF_Status: 8\b/,
  /WebAssembly\.Memory|Cannot enlarge memory|^Aborted\(/,
  /Array buffer allocation failed|Cannot allocate memory|reaching memory limit/,
]

/** Also of a thread that outgrew its heap. */
export function isOutOfMemory(error: unknown): boolean {
  if (error instanceof XmasdError) return error.code === 'OUT_OF_MEMORY'
  const message = messageOf(error)
  return OUT_OF_MEMORY.some(pattern => pattern.test(message))
}

/** OUT_OF_MEMORY or ENGINE_FAILED. `engine` is the library's name. */
export function engineFailure(engine: string, checkpoint: Checkpoint, error: unknown): XmasdError {
  const message = `${engine} failed on ${checkpoint.dir}: ${messageOf(error)}`
  return isOutOfMemory(error)
    ? new XmasdError('OUT_OF_MEMORY', message, MEMORY_HINT, { cause: error })
    : new XmasdError('ENGINE_FAILED', message, 'Try the device: `xmasd doctor`; report it.', {
        cause: error,
      })
}

export const MEMORY_HINT =
  'Lower proxy.memoryMax or proxy.tokensMax, or give the daemon more memory.'
