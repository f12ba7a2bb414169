/** An engine whose forward passes are timed. */
import type { Engine } from './engine.ts'

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
