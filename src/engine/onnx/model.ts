/**
 * The part of the ONNX format that graphs with external weights need, written through protobufjs
 * (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
 */
import protobuf from 'protobufjs'
import type { Dtype } from '../../proxy/checkpoint/safetensors.ts'
import type { CheckpointTensor } from '../../proxy/checkpoint/weights.ts'

/** TensorProto.DataType */
export const ELEMENT_TYPES = { float32: 1, int32: 6, int64: 7, bool: 9, float64: 11 } as const
const WEIGHT_TYPES: Partial<Record<Dtype, number>> = { F32: 1, F16: 10, BF16: 16 }

const IR_VERSION = 10
const OPSET_VERSION = 23

export type AttributeValue = number | string | readonly number[] | { float: number }

/** A value of the graph, by name. */
export type Edge = string

/** How the names of nodes begin that stay on the CPU, whatever the device. */
export const HOST = 'host.'

export type Node = {
  domain: '' | 'com.microsoft'
  type: string
  inputs: readonly Edge[]
  output: Edge
  attributes: Record<string, AttributeValue>
}

export type Initializer = { name: string; shape: readonly number[] } & (
  | { kind: 'float32'; data: Float32Array }
  | { kind: 'int64'; data: readonly number[] }
  | { kind: 'external'; dtype: Dtype; file: string; offset: number; bytes: number }
)

export type GraphInput = {
  name: string
  type: 'float32' | 'float64' | 'int32'
  shape: readonly (number | string)[]
}

/** An input that is a checkpoint's own: what is no input is the same for all checkpoints of one base. */
export type Fed = {
  name: string
  type: 'float32'
  shape: readonly number[]
  /** A tensor as it is stored, W + s · B A where an adapter adds to it; or the one value s. */
  from: CheckpointTensor | number
}

export type Graph = {
  nodes: readonly Node[]
  initializers: readonly Initializer[]
  inputs: readonly GraphInput[]
  fed: readonly Fed[]
  /** Float32, as the others are. */
  output: string
  others: readonly string[]
}

/** A ModelProto. External initializers name their file alone, without its folder. */
export function encodeModel(graph: Graph): Uint8Array {
  const model = {
    irVersion: IR_VERSION,
    producerName: 'xmasd',
    graph: {
      name: 'xmasd',
      node: graph.nodes.map(nodeProto),
      initializer: graph.initializers.map(tensorProto),
      input: [...graph.inputs, ...graph.fed].map(inputProto),
      output: [graph.output, ...graph.others].map(name => ({
        name,
        type: { tensorType: { elemType: ELEMENT_TYPES.float32 } },
      })),
    },
    opsetImport: [
      { domain: '', version: OPSET_VERSION },
      { domain: 'com.microsoft', version: 1 },
    ],
  }
  const type = protobuf.Root.fromJSON(ONNX).lookupType('onnx.ModelProto')
  return type.encode(model).finish()
}

function nodeProto({ domain, type, inputs, output, attributes }: Node): object {
  return {
    input: [...inputs],
    output: [output],
    name: output,
    opType: type,
    domain,
    attribute: Object.entries(attributes).map(([name, value]) => attributeProto(name, value)),
  }
}

/** AttributeProto.AttributeType: FLOAT 1, INT 2, STRING 3, INTS 7. A plain number is an INT. */
function attributeProto(name: string, value: AttributeValue): object {
  if (typeof value === 'number') return { name, i: value, type: 2 }
  if (typeof value === 'string') return { name, s: Buffer.from(value), type: 3 }
  if ('float' in value) return { name, f: value.float, type: 1 }
  return { name, ints: [...value], type: 7 }
}

function tensorProto(initializer: Initializer): object {
  const { name, kind, shape } = initializer
  const dims = [...shape]
  if (kind === 'float32') {
    const { buffer, byteOffset, byteLength } = initializer.data
    const rawData = new Uint8Array(buffer, byteOffset, byteLength)
    return { name, dims, dataType: ELEMENT_TYPES.float32, rawData }
  }
  if (kind === 'int64') {
    return { name, dims, dataType: ELEMENT_TYPES.int64, int64Data: [...initializer.data] }
  }
  const { dtype, file, offset, bytes } = initializer
  const externalData = [
    { key: 'location', value: file },
    { key: 'offset', value: String(offset) },
    { key: 'length', value: String(bytes) },
  ]
  return { name, dims, dataType: WEIGHT_TYPES[dtype], dataLocation: 1, externalData }
}

function inputProto({ name, type, shape }: GraphInput | Fed): object {
  const dim = shape.map(size =>
    typeof size === 'number' ? { dimValue: size } : { dimParam: size },
  )
  return { name, type: { tensorType: { elemType: ELEMENT_TYPES[type], shape: { dim } } } }
}

type Fields = Record<string, { type: string; id: number; rule?: 'repeated' }>

function one(type: string, id: number): Fields[string] {
  return { type, id }
}
function many(type: string, id: number): Fields[string] {
  return { type, id, rule: 'repeated' }
}

const MESSAGES: Record<string, Fields> = {
  ModelProto: {
    irVersion: one('int64', 1),
    producerName: one('string', 2),
    graph: one('GraphProto', 7),
    opsetImport: many('OperatorSetIdProto', 8),
  },
  OperatorSetIdProto: { domain: one('string', 1), version: one('int64', 2) },
  GraphProto: {
    node: many('NodeProto', 1),
    name: one('string', 2),
    initializer: many('TensorProto', 5),
    input: many('ValueInfoProto', 11),
    output: many('ValueInfoProto', 12),
  },
  NodeProto: {
    input: many('string', 1),
    output: many('string', 2),
    name: one('string', 3),
    opType: one('string', 4),
    attribute: many('AttributeProto', 5),
    domain: one('string', 7),
  },
  AttributeProto: {
    name: one('string', 1),
    f: one('float', 2),
    i: one('int64', 3),
    s: one('bytes', 4),
    ints: many('int64', 8),
    type: one('int32', 20),
  },
  TensorProto: {
    dims: many('int64', 1),
    dataType: one('int32', 2),
    int64Data: many('int64', 7),
    name: one('string', 8),
    rawData: one('bytes', 9),
    externalData: many('StringStringEntryProto', 13),
    dataLocation: one('int32', 14),
  },
  StringStringEntryProto: { key: one('string', 1), value: one('string', 2) },
  ValueInfoProto: { name: one('string', 1), type: one('TypeProto', 2) },
  TypeProto: { tensorType: one('TensorTypeProto', 1) },
  TensorTypeProto: { elemType: one('int32', 1), shape: one('TensorShapeProto', 2) },
  TensorShapeProto: { dim: many('DimensionProto', 1) },
  DimensionProto: { dimValue: one('int64', 1), dimParam: one('string', 2) },
}

const ONNX: protobuf.INamespace = {
  nested: {
    onnx: {
      nested: Object.fromEntries(
        Object.entries(MESSAGES).map(([name, fields]) => [name, { fields }]),
      ),
    },
  },
}
