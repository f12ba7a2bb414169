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
  const type = protobuf.parse(ONNX).root.lookupType('onnx.ModelProto')
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

/** As onnx.proto3 says them, without the fields that are not written here. */
const ONNX = `
syntax = "proto3";
package onnx;
message ModelProto {
  int64 ir_version = 1;
  string producer_name = 2;
  GraphProto graph = 7;
  repeated OperatorSetIdProto opset_import = 8;
}
message OperatorSetIdProto { string domain = 1; int64 version = 2; }
message GraphProto {
  repeated NodeProto node = 1;
  string name = 2;
  repeated TensorProto initializer = 5;
  repeated ValueInfoProto input = 11;
  repeated ValueInfoProto output = 12;
}
message NodeProto {
  repeated string input = 1;
  repeated string output = 2;
  string name = 3;
  string op_type = 4;
  repeated AttributeProto attribute = 5;
  string domain = 7;
}
message AttributeProto {
  string name = 1;
  float f = 2;
  int64 i = 3;
  bytes s = 4;
  repeated int64 ints = 8;
  int32 type = 20;
}
message TensorProto {
  repeated int64 dims = 1;
  int32 data_type = 2;
  repeated int64 int64_data = 7;
  string name = 8;
  bytes raw_data = 9;
  repeated StringStringEntryProto external_data = 13;
  int32 data_location = 14;
}
message StringStringEntryProto { string key = 1; string value = 2; }
message ValueInfoProto { string name = 1; TypeProto type = 2; }
message TypeProto { TensorTypeProto tensor_type = 1; }
message TensorTypeProto { int32 elem_type = 1; TensorShapeProto shape = 2; }
message TensorShapeProto { repeated DimensionProto dim = 1; }
message DimensionProto { int64 dim_value = 1; string dim_param = 2; }
`
