/** Opens the engine that an options object names. Only what is named is loaded. */
import type { Engine, EngineChoice } from './engine.ts'

/** `threads` of one run; `positionsMax` is the longest sequence. Throws ENGINE_UNAVAILABLE. */
export type EngineOptions = EngineChoice & { threads: number; positionsMax: number }

export async function openEngine(options: EngineOptions): Promise<Engine> {
  switch (options.engine ?? 'onnx') {
    case 'onnx': {
      const { onnxEngine } = await import('./onnx.ts')
      return onnxEngine(options)
    }
    case 'tensorflow': {
      const { tensorflowEngine } = await import('./tensorflow.ts')
      return { ...tensorflowEngine(), device: options.device ?? 'cpu' }
    }
  }
}
