/** node check.mjs PACKAGE: loads the addon that build.sh made and runs a few operations on it. */
import { createRequire } from 'node:module'

const [name] = process.argv.slice(2)
const tf = createRequire(import.meta.url)(name)

const SIZE = 64
const ids = Float32Array.from({ length: SIZE * SIZE }, (_, i) => (i * 7919) % 101)
const x = tf.tensor2d(ids, [SIZE, SIZE])
const checks = {
  'matMul with a transposed factor': () => {
    const got = tf.matMul(x, x, false, true).dataSync()
    const at = (i, j) =>
      ids.subarray(i * SIZE, (i + 1) * SIZE).reduce((s, v, k) => s + v * ids[j * SIZE + k], 0)
    return got[3 * SIZE + 5] === at(3, 5) && got[63 * SIZE] === at(63, 0)
  },
  softmax: () => Math.abs(tf.sum(tf.softmax(x)).dataSync()[0] - SIZE) < 1e-3,
  gather: () => tf.gather(x, tf.tensor1d([5], 'int32')).dataSync()[1] === ids[5 * SIZE + 1],
  topk: () => tf.topk(x, 1).values.dataSync()[0] === Math.max(...ids.subarray(0, SIZE)),
}
const failed = Object.keys(checks).filter(check => !checks[check]())
if (failed.length > 0) {
  console.error(`the addon is built but computes wrong: ${failed.join(', ')}`)
  process.exit(1)
}
const { binding } = tf.backend()
const device = binding.isUsingGpuDevice() ? 'a CUDA GPU' : 'the CPU'
console.log(
  `${name} ${tf.version['tfjs-node']} on TensorFlow ${binding.TF_Version} computes on ${device}`,
)
