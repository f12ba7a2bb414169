/** Tests of the tensorflow engine's addon: the loud skip where it is not built. */
import type { TestContext } from 'node:test'
import {
  findTensorflowAddon,
  startTensorflow,
  type TensorflowBackend,
} from '../src/engine/tensorflow/backend.ts'

/** Starts `backend`; false after a loud skip where that is the addon and it is not built. */
export async function withBackend(t: TestContext, backend: TensorflowBackend): Promise<boolean> {
  if (backend === 'tensorflow' && findTensorflowAddon() === undefined) {
    if (process.env.REQUIRE_TENSORFLOW === '1') {
      throw new Error('the tensorflow addon is not built: npm run build:tensorflow')
    }
    process.stderr.write(`SKIPPED, the tensorflow addon is not built: ${t.name}\n`)
    t.skip('needs npm run build:tensorflow')
    return false
  }
  await startTensorflow(backend)
  return true
}
