/** A test's worker: doubles numbers; some jobs make the worker exit, throw or fail. */
import { XmasdError } from '../../src/errors.ts'
import { serve } from '../../src/score/serve.ts'

export type ExitJob = {
  value: number
  action?: 'exit' | 'throw' | 'fail' | 'operating' | 'kill' | 'abort'
}

await serve<{ refuses?: boolean; dies?: boolean }, ExitJob, number>(async ({ refuses, dies }) => {
  if (dies === true) process.kill(process.pid, 'SIGKILL')
  if (refuses === true) throw new XmasdError('PROXY_INVALID', 'no proxy here', 'bring one')
  return async ({ value, action }) => {
    if (action === 'exit') process.exit(3)
    if (action === 'kill') process.kill(process.pid, 'SIGKILL')
    if (action === 'abort') process.abort()
    if (action === 'throw') {
      setImmediate(() => {
        throw new Error('out of the blue')
      })
      await new Promise(() => {})
    }
    if (action === 'fail') throw new TypeError('a defect')
    if (action === 'operating') throw new XmasdError('ENGINE_FAILED', 'no memory', 'buy some')
    return { result: value * 2 }
  }
})
