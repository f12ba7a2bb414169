/**
 * A computation over `Ops`, written down once and run many times on an engine that computes at once.
 * Each value is let go right after its last use, so that a run holds one layer's values, not all layers'.
 */
import type { Ops } from '../../proxy/ops.ts'
import { type Build, outputsOf } from '../engine.ts'

/** A value of the tape: an input, or what a step gives. */
class Slot {}

type Method = keyof Ops<Slot>

type Step = {
  method: Method
  /** As `build` gave them: slots, and whatever else the operation takes. */
  args: readonly unknown[]
  output: Slot
  /** What no later step reads. */
  done: Slot[]
}

export type Tape<Names extends string> = {
  inputs: Record<Names, Slot>
  steps: readonly Step[]
  outputs: readonly Slot[]
}

/** Writes down what `build` does with `names`. */
export function record<Names extends string>(
  names: readonly Names[],
  build: Build<Names>,
): Tape<Names> {
  const steps: Step[] = []
  const step =
    (method: Method) =>
    (...args: unknown[]): Slot => {
      const output = new Slot()
      steps.push({ method, args, output, done: [] })
      return output
    }
  const recorder = new Proxy({} as Ops<Slot>, {
    get: (_, method) => step(method as Method),
  })
  const inputs = Object.fromEntries(names.map(name => [name, new Slot()])) as Record<Names, Slot>
  const outputs = outputsOf(build(recorder, inputs))
  noteLastUses(steps, outputs)
  return { inputs, steps, outputs }
}

function noteLastUses(steps: readonly Step[], outputs: readonly Slot[]): void {
  const lastUse = new Map<Slot, Step>()
  for (const step of steps) {
    for (const slot of [...slotsOf(step.args), step.output]) lastUse.set(slot, step)
  }
  for (const output of outputs) lastUse.delete(output)
  for (const [slot, step] of lastUse) step.done.push(slot)
}

function slotsOf(args: readonly unknown[]): Slot[] {
  return args.filter(arg => arg instanceof Slot)
}

/** How an engine's values are held. */
export type Values<V> = {
  /** Runs one operation and lets go what it made beside its result. */
  scope(operation: () => V): V
  dispose(value: V): void
}

/**
 * Runs a tape. Takes over `inputs` and gives the outputs to the caller; all else is disposed. Every
 * operation must give a value of its own: not an operand, not a parameter.
 */
export function replay<Names extends string, V>(
  tape: Tape<Names>,
  ops: Ops<V>,
  inputs: Record<Names, V>,
  { scope, dispose }: Values<V>,
): V[] {
  const names = Object.keys(tape.inputs) as Names[]
  const values = new Map<Slot, V>(names.map(name => [tape.inputs[name], inputs[name]]))
  try {
    for (const { method, args, output, done } of tape.steps) {
      const operands = args.map(arg => (arg instanceof Slot ? values.get(arg) : arg))
      const operation = ops[method] as (...args: unknown[]) => V
      values.set(
        output,
        scope(() => operation.apply(ops, operands)),
      )
      for (const slot of done) {
        dispose(values.get(slot)!)
        values.delete(slot)
      }
    }
    const results = tape.outputs.map(output => values.get(output)!)
    for (const output of tape.outputs) values.delete(output)
    return results
  } finally {
    for (const value of values.values()) dispose(value)
  }
}

/** How a parameter is read: row by row, or whole. */
export type Use = 'rows' | 'whole'

/** The parameters that a tape reads. */
export function parametersRead(
  { steps }: Tape<string>,
  has: (name: string) => boolean,
): Map<string, Use> {
  const uses = new Map<string, Use>()
  for (const { method, args } of steps) {
    for (const arg of args.flat().filter(arg => typeof arg === 'string')) {
      if (has(arg)) uses.set(arg, method === 'embed' ? 'rows' : 'whole')
      for (const name of [`${arg}.weight`, `${arg}.bias`]) if (has(name)) uses.set(name, 'whole')
    }
  }
  return uses
}
