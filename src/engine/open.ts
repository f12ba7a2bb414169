/** Opens the engine that an options object names. Only what is named is loaded. */
import type { Engine, EngineChoice } from './engine.ts'

/** `threads` of one run; `positionsMax` is the longest sequence. Throws ENGINE_UNAVAILABLE. */
export type EngineOptions = EngineChoice & { threads: number; positionsMax: number }

export async function openEngine({
  engine = 'onnx',
  threads,
  positionsMax,
}: EngineOptions): Promise<Engine> {
  switch (engine) {
    case 'onnx': {
      const { onnxEngine } = await import('./onnx.ts')
      return onnxEngine({ threads, positionsMax })
    }
    case 'tensorflow': {
      const { tensorflowEngine } = await import('./tensorflow.ts')
      return tensorflowEngine()
    }
  }
}
