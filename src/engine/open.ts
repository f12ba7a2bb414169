/** Opens the engine that an options object names. Only what is named is loaded. */
import { XmasdError } from '../errors.ts'
import type { Engine, EngineChoice } from './engine.ts'

/** `threads` of one run; `positionsMax` is the longest sequence. */
export type EngineOptions = EngineChoice & { threads: number; positionsMax: number }

/** Throws CONFIG_INVALID where the engine has no such precision, ENGINE_UNAVAILABLE. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  switch (options.engine ?? 'onnx') {
    case 'onnx': {
      if (options.precision === 'bfloat16') {
        const fix = 'set proxy.engine to tensorflow, or proxy.precision to float32'
        throw new XmasdError('CONFIG_INVALID', 'the onnx engine has no precision bfloat16', fix)
      }
      const { onnxEngine } = await import('./onnx.ts')
      return onnxEngine(options)
    }
    case 'tensorflow': {
      const { tensorflowEngine } = await import('./tensorflow.ts')
      return { ...tensorflowEngine(options), device: options.device ?? 'cpu' }
    }
  }
}
