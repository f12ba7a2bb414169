/** Opens the engine that an options object names. Only what is named is loaded. */
import { XmasdError } from '../errors.ts'
import type { Engine, EngineChoice } from './engine.ts'

/** `threads` of one run. */
export type EngineOptions = EngineChoice & { threads: number }

/** Throws CONFIG_INVALID where the engine has no such precision, ENGINE_UNAVAILABLE. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  switch (options.engine ?? 'onnx') {
    case 'onnx': {
      if (options.precision === 'bfloat16') {
        const fix = 'set proxy.engine to tensorflow, or proxy.precision to float32'
        throw new XmasdError('CONFIG_INVALID', 'the onnx engine has no precision bfloat16', fix)
      }
      const { onnxEngine } = await import('./onnx/engine.ts')
      return onnxEngine(options)
    }
    case 'tensorflow': {
      const { tensorflowEngine } = await import('./tensorflow/engine.ts')
      return { ...tensorflowEngine(options), device: options.device ?? 'cpu' }
    }
  }
}

/* An engine whose forward passes are timed. */

/** Calls `onRun` with the seconds of every forward pass, failed ones too. Compiling does not count. */
export function timed(engine: Engine, onRun: (seconds: number) => void): Engine {
  return {
    name: engine.name,
    device: engine.device,
    compile: async (checkpoint, inputs, build) => {
      const program = await engine.compile(checkpoint, inputs, build)
      return {
        run: async values => {
          const started = performance.now()
          try {
            return await program.run(values)
          } finally {
            onRun((performance.now() - started) / 1000)
          }
        },
        release: () => program.release(),
      }
    },
  }
}
