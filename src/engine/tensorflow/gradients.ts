/**
 * Gradients of the kernels that `ops.ts` calls. The CommonJS build of tfjs-core, which is
 * what Node loads, carries kernels without their gradients; those ship as modules that Node can't
 * load. Where tfjs-node has brought its own, they stay.
 *
 * A rule: dy, saved tensors and attributes -> for each input a function that gives its gradient.
 */
import * as tf from '@tensorflow/tfjs-core'

type Rule = Pick<tf.GradConfig, 'inputsToSave' | 'saveAllInputs' | 'outputsToSave'> & {
  of: (dy: tf.Tensor, saved: tf.Tensor[], attributes: tf.NamedAttrMap) => Gradients
}
type Gradients = Record<string, () => tf.Tensor>

/** Makes the operations differentiable; a second call does nothing. */
export function registerGradients(): void {
  for (const [kernelName, { of, ...saved }] of Object.entries(RULES)) {
    if (tf.getGradient(kernelName) !== undefined) continue
    const gradFunc: tf.GradFunc = (dy, tensors, attributes) =>
      of(dy as tf.Tensor, tensors, attributes)
    tf.registerGradient({ kernelName, gradFunc, ...saved })
  }
}

const RULES: Record<string, Rule> = {
  Add: binary((dy, [a, b]) => ({ a: () => sumTo(dy, a.shape), b: () => sumTo(dy, b.shape) })),
  Sub: binary((dy, [a, b]) => ({
    a: () => sumTo(dy, a.shape),
    b: () => sumTo(tf.neg(dy), b.shape),
  })),
  Multiply: binary((dy, [a, b]) => ({
    a: () => sumTo(tf.mul(dy, b), a.shape),
    b: () => sumTo(tf.mul(dy, a), b.shape),
  })),
  BatchMatMul: binary(matMulGradients),
  Sum: ofInput((dy, x, { axis }) => spread(dy, x.shape, axis as Axes)),
  Mean: ofInput((dy, x, { axis }) => {
    const wide = spread(dy, x.shape, axis as Axes)
    return tf.mul(wide, dy.size / x.size)
  }),
  Square: ofInput((dy, x) => tf.mul(dy, tf.mul(x, 2))),
  Rsqrt: ofOutput((dy, y) => tf.mul(dy, tf.mul(tf.mul(tf.square(y), y), -0.5))),
  Sigmoid: ofOutput((dy, y) => tf.mul(dy, tf.mul(y, tf.sub(1, y)))),
  Tanh: ofOutput((dy, y) => tf.mul(dy, tf.sub(1, tf.square(y)))),
  Erf: ofInput((dy, x) => tf.mul(dy, tf.mul(tf.exp(tf.neg(tf.square(x))), 2 / Math.sqrt(Math.PI)))),
  Relu: ofInput((dy, x) => tf.mul(dy, tf.step(x))),
  Softmax: {
    outputsToSave: [true],
    of: (dy, [y]) => ({
      logits: () => {
        const weighted = tf.mul(dy, y!)
        return tf.sub(weighted, tf.mul(tf.sum(weighted, -1, true), y!))
      },
    }),
  },
  Reshape: ofInput((dy, x) => tf.reshape(dy, x.shape)),
  Identity: ofInput(dy => dy),
  Transpose: ofInput((dy, _, { perm }) => {
    const order = perm as number[]
    return tf.transpose(
      dy,
      order.map((_, i) => order.indexOf(i)),
    )
  }),
  Slice: ofInput((dy, x, { begin }) => {
    const from = begin as number[]
    const paddings = x.shape.map((size, i): [number, number] => {
      const before = from[i] ?? 0
      return [before, size - before - dy.shape[i]!]
    })
    return tf.pad(dy, paddings)
  }),
  Concat: {
    saveAllInputs: true,
    of: (dy, saved, { axis }) => {
      const sizes = saved.map(tensor => tensor.shape[axis as number]!)
      const parts = tf.split(dy, sizes, axis as number)
      return Object.fromEntries(parts.map((part, i) => [i, () => part]))
    },
  },
}

function ofInput(
  gradient: (dy: tf.Tensor, x: tf.Tensor, attributes: tf.NamedAttrMap) => tf.Tensor,
): Rule {
  return {
    inputsToSave: ['x'],
    of: (dy, [x], attributes) => ({ x: () => gradient(dy, x!, attributes) }),
  }
}

function ofOutput(gradient: (dy: tf.Tensor, y: tf.Tensor) => tf.Tensor): Rule {
  return { outputsToSave: [true], of: (dy, [y]) => ({ x: () => gradient(dy, y!) }) }
}

function binary(
  of: (dy: tf.Tensor, ab: [tf.Tensor, tf.Tensor], attributes: tf.NamedAttrMap) => Gradients,
): Rule {
  return {
    inputsToSave: ['a', 'b'],
    of: (dy, [a, b], attributes) => of(dy, [a!, b!], attributes),
  }
}

/** y = a b, transposed as the attributes say; batches are equal on both sides. */
function matMulGradients(
  dy: tf.Tensor,
  [a, b]: [tf.Tensor, tf.Tensor],
  { transposeA, transposeB }: tf.NamedAttrMap,
): Gradients {
  const product = (x: tf.Tensor, y: tf.Tensor, flipX: unknown, flipY: unknown): tf.Tensor =>
    tf.matMul(x, y, flipX === true, flipY === true)
  return {
    a: () =>
      transposeA === true ? product(b, dy, transposeB, true) : product(dy, b, false, !transposeB),
    b: () =>
      transposeB === true ? product(dy, a, true, transposeA) : product(a, dy, !transposeA, false),
  }
}

/** Undoes broadcasting: sums `dy` over the axes along which `shape` was stretched. */
function sumTo(dy: tf.Tensor, shape: number[]): tf.Tensor {
  const extra = dy.rank - shape.length
  const axes = dy.shape.flatMap((size, i) => {
    const own = i < extra ? 1 : shape[i - extra]!
    return i < extra || (own === 1 && size > 1) ? [i] : []
  })
  return tf.reshape(axes.length === 0 ? dy : tf.sum(dy, axes), shape)
}

type Axes = number | number[] | null | undefined

/** Undoes a reduction: repeats `dy` along the reduced axes. No axes are all. */
function spread(dy: tf.Tensor, shape: number[], axis: Axes): tf.Tensor {
  const all = shape.map((_, i) => i)
  const axes = [axis ?? all].flat().map(i => (i < 0 ? i + shape.length : i))
  const kept = shape.map((size, i) => (axes.includes(i) ? 1 : size))
  return tf.mul(tf.reshape(dy, kept), tf.ones(shape))
}
