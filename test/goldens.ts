/** Reads golden tensors: a plain safetensors reader, apart from the one under test. */
import { readFileSync } from 'node:fs'

export type GoldenTensor = {
  dtype: string
  shape: number[]
  data: Float32Array | Float64Array | Uint8Array | Int32Array | BigInt64Array
}

const VIEWS = {
  F32: Float32Array,
  F64: Float64Array,
  U8: Uint8Array,
  I32: Int32Array,
  I64: BigInt64Array,
}

/** Every tensor of a .safetensors file by name. Half precision is not read. */
export function readTensors(path: string): Map<string, GoldenTensor> {
  const file = readFileSync(path)
  const headerEnd = 8 + Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, headerEnd)) as Record<
    string,
    { dtype: keyof typeof VIEWS; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = new Map<string, GoldenTensor>()
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const View = VIEWS[entry.dtype]
    const [from, to] = entry.data_offsets
    const { buffer } = Uint8Array.from(file.subarray(headerEnd + from, headerEnd + to))
    tensors.set(name, { dtype: entry.dtype, shape: entry.shape, data: new View(buffer) })
  }
  return tensors
}
