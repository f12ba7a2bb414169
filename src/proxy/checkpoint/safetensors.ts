/**
 * The safetensors format, read in place and written whole: 8 bytes of header length (little endian),
 * a JSON header, then the tensors' bytes without holes (https://github.com/huggingface/safetensors).
 */
import { closeSync, fstatSync, openSync, readSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { messageOf, XmasdError } from '../../errors.ts'

/** Bytes of one element. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const
export type Dtype = keyof typeof DTYPE_BYTES

/** One tensor of a file. `offset` counts from the start of the file. */
export type SafetensorsEntry = { dtype: Dtype; shape: number[]; offset: number; bytes: number }

export type SafetensorsHeader = {
  file: string
  tensors: Map<string, SafetensorsEntry>
  /** dtypes of tensors that are not among those above, by name: nothing here reads them. */
  unreadable: Map<string, string>
  metadata: Record<string, string>
}

export type TensorData = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array
export type TensorToWrite = { shape: readonly number[]; data: TensorData }

/** The official reader's limit. */
const HEADER_BYTES_MAX = 100_000_000
const LENGTH_BYTES = 8

const Entry = z.object({
  dtype: z.string(),
  shape: z.array(z.int().min(0)),
  data_offsets: z.tuple([z.int().min(0), z.int().min(0)]),
})

/**
 * What a file holds, without its weights. Throws FILE_UNREADABLE where there is no such file and
 * CHECKPOINT_INVALID, with file and reason, for every malformed form.
 */
export function readHeader(file: string): SafetensorsHeader {
  return withFile(file, (descriptor, fileBytes) => {
    if (fileBytes < LENGTH_BYTES) throw invalid(file, `${fileBytes} bytes are too few for a header`)
    const length = readExactly(file, descriptor, 0, LENGTH_BYTES).readBigUInt64LE()
    if (length > BigInt(HEADER_BYTES_MAX) || Number(length) > fileBytes - LENGTH_BYTES) {
      throw invalid(file, `its header of ${length} bytes goes beyond the file's ${fileBytes}`)
    }
    const text = readExactly(file, descriptor, LENGTH_BYTES, Number(length))
    return parseHeader(file, text, LENGTH_BYTES + Number(length), fileBytes)
  })
}

/** A tensor's values as float32: F32, F16 and BF16 exactly, F64 rounded. Reads only its own bytes. */
export function readTensor(file: string, entry: SafetensorsEntry): Float32Array {
  return floatsOf(file, entry, readBytes(file, entry))
}

/** Files that stay open, so that what is read later is what lay there first, whatever replaced them. */
export class OpenFiles {
  readonly #descriptors = new Map<string, number>()

  /** Throws FILE_UNREADABLE. */
  open(file: string): void {
    if (!this.#descriptors.has(file)) this.#descriptors.set(file, openFile(file))
  }

  /** As `readTensor`, of a file that is open, into `target`, which has its size. */
  readInto(target: Float32Array, file: string, entry: SafetensorsEntry): void {
    const descriptor = this.#descriptors.get(file)
    if (descriptor === undefined) throw new RangeError(`${file} is not open`)
    const { dtype, offset, bytes } = entry
    if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
      target.set(floatsOf(file, entry, readExactly(file, descriptor, offset, bytes)))
      return
    }
    // Halves stand in the upper half of the target, and become floats from the front.
    const { buffer, byteOffset, byteLength } = target
    const at = byteOffset + byteLength - bytes
    readFully(file, descriptor, offset, Buffer.from(buffer, at, bytes))
    if (dtype !== 'F32') widen(new Uint16Array(buffer, at, target.length), target, dtype)
  }

  close(): void {
    for (const descriptor of this.#descriptors.values()) closeSync(descriptor)
    this.#descriptors.clear()
  }
}

function floatsOf(file: string, entry: SafetensorsEntry, bytes: Buffer): Float32Array {
  switch (entry.dtype) {
    case 'F32':
      return viewOf(bytes, Float32Array)
    case 'F64':
      return Float32Array.from(viewOf(bytes, Float64Array))
    case 'BF16':
    case 'F16':
      return floatsOfHalves(viewOf(bytes, Uint16Array), entry.dtype)
    default:
      throw invalid(file, `dtype ${entry.dtype} where F32, F16, BF16 or F64 is expected`)
  }
}

/** A tensor's values as float64: F64, I32, I64, U8 as they are, the rest as `readTensor`. */
export function readTensorFloat64(file: string, entry: SafetensorsEntry): Float64Array {
  if (entry.dtype === 'F64') return viewOf(readBytes(file, entry), Float64Array)
  if (entry.dtype === 'I32') return Float64Array.from(viewOf(readBytes(file, entry), Int32Array))
  if (entry.dtype === 'U8') return Float64Array.from(readBytes(file, entry))
  if (entry.dtype === 'I64') {
    return Float64Array.from(viewOf(readBytes(file, entry), BigInt64Array), Number)
  }
  return Float64Array.from(readTensor(file, entry))
}

/** A tensor's bytes as they stand in the file (little endian). */
export function readBytes(file: string, entry: SafetensorsEntry): Buffer {
  return withFile(file, descriptor => readExactly(file, descriptor, entry.offset, entry.bytes))
}

/**
 * Writes a file in the official writer's order (wider elements first, then by name) with a header
 * padded to 8 bytes, so that every tensor is aligned. Not atomic: bundles and checkpoints become
 * visible as whole folders. Throws FILE_UNWRITABLE.
 */
export function writeSafetensors(
  file: string,
  tensors: Record<string, TensorToWrite>,
  metadata?: Record<string, string>,
): void {
  const entries = Object.entries(tensors).sort(
    ([a, { data: p }], [b, { data: q }]) =>
      q.BYTES_PER_ELEMENT - p.BYTES_PER_ELEMENT || (a < b ? -1 : 1),
  )
  const header: [string, unknown][] = metadata === undefined ? [] : [['__metadata__', metadata]]
  let offset = 0
  for (const [name, { shape, data }] of entries) {
    if (elements(shape) !== data.length) {
      throw new RangeError(`${name}: shape [${shape}] does not hold ${data.length} elements`)
    }
    const data_offsets = [offset, offset + data.byteLength]
    header.push([name, { dtype: dtypeOf(data), shape, data_offsets }])
    offset += data.byteLength
  }
  const payload = entries.map(([, { data }]) =>
    Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  )
  try {
    writeFileSync(file, Buffer.concat([...headerBytes(Object.fromEntries(header)), ...payload]))
  } catch (error) {
    throw new XmasdError(
      'FILE_UNWRITABLE',
      `cannot write ${file}: ${messageOf(error)}`,
      'Check that the folder exists, is writable and has room.',
    )
  }
}

function headerBytes(header: Record<string, unknown>): Buffer[] {
  const text = JSON.stringify(header)
  const padding = (8 - (Buffer.byteLength(text) % 8)) % 8
  const json = Buffer.from(text + ' '.repeat(padding))
  const length = Buffer.alloc(LENGTH_BYTES)
  length.writeBigUInt64LE(BigInt(json.length))
  return [length, json]
}

function parseHeader(file: string, text: Buffer, start: number, end: number): SafetensorsHeader {
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text))
  } catch (error) {
    throw invalid(file, `its header is not JSON: ${messageOf(error)}`)
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw invalid(file, 'its header is not a JSON object')
  }
  const tensors = new Map<string, SafetensorsEntry>()
  const unreadable = new Map<string, string>()
  const extents: Extent[] = []
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') {
      metadata = parseMetadata(file, value)
      continue
    }
    const { dtype, shape, offset, bytes } = parseEntry(file, name, value, start)
    extents.push({ name, offset, bytes })
    if (isDtype(dtype)) tensors.set(name, { dtype, shape, offset, bytes })
    else unreadable.set(name, dtype)
  }
  checkCoverage(file, extents, { start, end })
  return { file, tensors, unreadable, metadata }
}

function parseMetadata(file: string, value: unknown): Record<string, string> {
  const isMap = typeof value === 'object' && value !== null && !Array.isArray(value)
  if (isMap && Object.values(value).every(text => typeof text === 'string')) return { ...value }
  throw invalid(file, 'its __metadata__ is not a map of strings')
}

function parseEntry(
  file: string,
  name: string,
  value: unknown,
  start: number,
): Omit<SafetensorsEntry, 'dtype'> & { dtype: string } {
  const parsed = Entry.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw invalid(file, `tensor ${name}: ${issue?.path.join('.')} ${issue?.message}`)
  }
  const { dtype, shape } = parsed.data
  const [from, to] = parsed.data.data_offsets
  const expected = isDtype(dtype) ? elements(shape) * DTYPE_BYTES[dtype] : to - from
  if (to - from !== expected || to < from) {
    throw invalid(
      file,
      `tensor ${name}: offsets ${from}..${to} do not hold ${dtype} [${shape}], ${expected} bytes`,
    )
  }
  return { dtype, shape, offset: start + from, bytes: expected }
}

type Extent = { name: string; offset: number; bytes: number }

/** Tensors must fill the file from the header to its end: no overlap, no gap, nothing cut off. */
function checkCoverage(
  file: string,
  extents: Extent[],
  { start, end }: { start: number; end: number },
): void {
  extents.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let at = start
  for (const { name, offset, bytes } of extents) {
    if (offset + bytes > end) {
      throw invalid(file, `truncated: tensor ${name} ends at ${offset + bytes}, the file at ${end}`)
    }
    if (offset !== at) {
      throw invalid(file, `tensor ${name} starts at byte ${offset} where ${at} is expected`)
    }
    at = offset + bytes
  }
  if (at !== end) throw invalid(file, `${end - at} bytes after the last tensor belong to none`)
}

function withFile<T>(file: string, read: (descriptor: number, fileBytes: number) => T): T {
  const descriptor = openFile(file)
  try {
    const stat = fstatSync(descriptor)
    if (!stat.isFile()) throw invalid(file, 'it is not a file')
    return read(descriptor, stat.size)
  } finally {
    closeSync(descriptor)
  }
}

function openFile(file: string): number {
  try {
    return openSync(file, 'r')
  } catch (error) {
    throw new XmasdError(
      'FILE_UNREADABLE',
      `cannot read ${file}: ${messageOf(error)}`,
      'Check that the path is right and the file readable.',
    )
  }
}

/** A buffer of its own, so that typed arrays may view it from byte 0. */
function readExactly(file: string, descriptor: number, offset: number, bytes: number): Buffer {
  const buffer = Buffer.from(new ArrayBuffer(bytes))
  readFully(file, descriptor, offset, buffer)
  return buffer
}

function readFully(file: string, descriptor: number, offset: number, buffer: Buffer): void {
  const bytes = buffer.length
  let done = 0
  while (done < bytes) {
    const got = readSync(descriptor, buffer, done, Math.min(bytes - done, 2 ** 30), offset + done)
    if (got === 0) {
      throw invalid(file, `truncated: ${bytes} bytes at ${offset} wanted, ${done} there`)
    }
    done += got
  }
}

function viewOf<T>(
  bytes: Buffer,
  type: { new (buffer: ArrayBuffer, offset: number, length: number): T; BYTES_PER_ELEMENT: number },
): T {
  const { buffer, byteOffset, byteLength } = bytes as Buffer<ArrayBuffer>
  return new type(buffer, byteOffset, byteLength / type.BYTES_PER_ELEMENT)
}

function floatsOfHalves(halves: Uint16Array, dtype: 'F16' | 'BF16'): Float32Array {
  const floats = new Float32Array(halves.length)
  widen(halves, floats, dtype)
  return floats
}

/** Every binary16 as float32. */
let halfTable: Float32Array | undefined

/** bfloat16 is the upper half of a float32. */
function widen(halves: Uint16Array, floats: Float32Array, dtype: 'F16' | 'BF16'): void {
  if (dtype === 'BF16') {
    const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length)
    for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16
    return
  }
  halfTable ??= Float32Array.from({ length: 2 ** 16 }, (_, half) => floatOfHalf(half))
  for (let i = 0; i < halves.length; i++) floats[i] = halfTable[halves[i]!]!
}

/** IEEE binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
function floatOfHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Infinity : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

function dtypeOf(data: TensorData): Dtype {
  if (data instanceof Float32Array) return 'F32'
  if (data instanceof Float64Array) return 'F64'
  if (data instanceof Int32Array) return 'I32'
  return data instanceof BigInt64Array ? 'I64' : 'U8'
}

function isDtype(name: string): name is Dtype {
  return Object.hasOwn(DTYPE_BYTES, name)
}

/** How many values a tensor of this shape has. */
export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

function invalid(file: string, reason: string): XmasdError {
  return new XmasdError(
    'CHECKPOINT_INVALID',
    `${file} is not a valid safetensors file: ${reason}`,
    'Copy or save the checkpoint again; it may be incomplete.',
  )
}
