/** A test's worker: doubles numbers; some jobs make the worker exit, throw or fail. */
import { XmasdError } from '../../../src/errors.ts'
import { runWorkerLoop } from '../../../src/score/workers/loop.ts'

type Action =
  | 'exit'
  | 'throw'
  | 'fail'
  | 'operating'
  | 'kill'
  | 'abort'
  | 'loop'
  | 'native'
  | 'wait'
  | 'items'

export type ExitJob = {
  value: number
  action?: Action
}

await runWorkerLoop<{ refuses?: boolean; dies?: boolean }, ExitJob, number>(
  async ({ refuses, dies }) => {
    if (dies === true) process.kill(process.pid, 'SIGKILL')
    if (refuses === true) throw new XmasdError('PROXY_INVALID', 'no proxy here', 'bring one')
    return async ({ value, action }, { progress }) => {
      if (action === 'exit') process.exit(3)
      if (action === 'kill') process.kill(process.pid, 'SIGKILL')
      if (action === 'abort') process.abort()
      if (action === 'throw') {
        setImmediate(() => {
          throw new Error('out of the blue')
        })
        await new Promise(() => {})
      }
      if (action === 'loop') for (;;);
      if (action === 'items') {
        for (let item = 0; item < 10; item++) {
          await new Promise(resolve => setTimeout(resolve, 300))
          progress(false)
          progress(true)
        }
      }
      if (action === 'wait') await new Promise(() => {})
      // No interrupt reaches ICU: marks of two classes in turns are sorted in quadratic time.
      if (action === 'native') `a${'\u0301'.repeat(2e5)}${'\u0316'.repeat(2e5)}`.normalize('NFC')
      if (action === 'fail') throw new TypeError('a defect')
      if (action === 'operating') throw new XmasdError('ENGINE_FAILED', 'no memory', 'buy some')
      return { result: value * 2 }
    }
  },
)
