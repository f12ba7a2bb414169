import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Build } from '../../../src/engine/engine.ts'
import { parametersRead, record, replay } from '../../../src/engine/tensorflow/tape.ts'
import type { Ops } from '../../../src/proxy/ops.ts'

type Cell = { value: number }

/** Sums and products of single numbers; counts what is alive. */
function cells(): {
  ops: Ops<Cell>
  alive: Set<Cell>
  most: () => number
  make: (n: number) => Cell
} {
  const alive = new Set<Cell>()
  let most = 0
  const make = (value: number): Cell => {
    const cell = { value }
    alive.add(cell)
    most = Math.max(most, alive.size)
    return cell
  }
  const read = (cell: Cell): number => {
    assert.ok(alive.has(cell), 'a value was let go before its last use')
    return cell.value
  }
  const ops = {
    add: (a: Cell, b: Cell) => make(read(a) + read(b)),
    scale: (a: Cell, factor: number) => make(read(a) * factor),
    softmax: () => {
      throw new Error('broken')
    },
  }
  return { ops: ops as unknown as Ops<Cell>, alive, most: () => most, make }
}

const PLAIN = { scope: (operation: () => Cell) => operation() }

/** A chain whose first value is read again at the end; one value is read by nobody. */
const build: Build<'x' | 'unread'> = (ops, { x }) => {
  let y = ops.scale(x, 2)
  ops.scale(y, 100)
  for (let i = 0; i < 50; i++) y = ops.add(y, y)
  return ops.add(x, y)
}

test('a tape gives what its computation gives, run after run, and holds few values at a time', () => {
  const tape = record(['x', 'unread'], build)
  for (const x of [1, 3]) {
    const { ops, alive, most, make } = cells()
    const dispose = (cell: Cell): void => void alive.delete(cell)
    const inputs = { x: make(x), unread: make(0) }
    const [output] = replay(tape, ops, inputs, { ...PLAIN, dispose })
    assert.equal(output!.value, x + 2 * x * 2 ** 50)
    assert.deepEqual([...alive], [output])
    assert.ok(most() <= 5, `${most()} alive`)
  }
})

test('several outputs outlive their last use', () => {
  const several: Build<'x'> = (ops, { x }) => {
    const y = ops.scale(x, 2)
    return [ops.scale(y, 5), y]
  }
  const tape = record(['x'], several)
  const { ops, alive, make } = cells()
  const dispose = (cell: Cell): void => void alive.delete(cell)
  const outputs = replay(tape, ops, { x: make(1) }, { ...PLAIN, dispose })
  assert.deepEqual(
    outputs.map(({ value }) => value),
    [10, 2],
  )
  assert.deepEqual(alive, new Set(outputs))
})

test('where an operation throws, nothing is left behind', () => {
  const tape = record(['x'], (ops, { x }) => ops.add(ops.softmax(ops.scale(x, 2)), x))
  const { ops, alive, make } = cells()
  const dispose = (cell: Cell): void => void alive.delete(cell)
  const run = () => replay(tape, ops, { x: make(1) }, { ...PLAIN, dispose })
  assert.throws(run, /broken/)
  assert.equal(alive.size, 0)
})

test('a tape knows which parameters it reads, and how', () => {
  const names = [
    'table',
    'a.weight',
    'a.bias',
    'n.weight',
    'h0.weight',
    'h1.weight',
    'other.weight',
  ]
  const has = (name: string): boolean => names.includes(name)
  const tape = record(['ids'], (ops, { ids }) => {
    const x = ops.rmsNorm(ops.linear(ops.embed(ids, 'table'), 'a'), 'n', 1e-6)
    return ops.layerNormHeads(ops.activation(x, 'gelu'), ['h0', 'h1'], 1e-6)
  })
  assert.deepEqual(Object.fromEntries(parametersRead(tape, has)), {
    table: 'rows',
    'a.weight': 'whole',
    'a.bias': 'whole',
    'n.weight': 'whole',
    'h0.weight': 'whole',
    'h1.weight': 'whole',
  })
})
