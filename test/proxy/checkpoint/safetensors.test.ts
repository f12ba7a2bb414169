import assert from 'node:assert/strict'
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import fc from 'fast-check'
import { XmasdError } from '../../../src/errors.ts'
import {
  OpenFiles,
  readBytes,
  readHeader,
  readTensor,
  readTensorFloat64,
  type SafetensorsEntry,
  type TensorToWrite,
  writeSafetensors,
} from '../../../src/proxy/checkpoint/safetensors.ts'
import { shared, temporaryFolder } from '../../support.ts'

const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 })
const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

const tensor = shapes.chain(shape => {
  const length = { minLength: size(shape), maxLength: size(shape) }
  return fc.oneof(
    fc.array(fc.float(), length).map((x): TensorToWrite => ({ shape, data: new Float32Array(x) })),
    fc.array(fc.double(), length).map((x): TensorToWrite => ({ shape, data: new Float64Array(x) })),
    fc.uint8Array(length).map((data): TensorToWrite => ({ shape, data: Uint8Array.from(data) })),
    fc.int32Array(length).map((data): TensorToWrite => ({ shape, data: Int32Array.from(data) })),
  )
})
const names = fc.string({ unit: 'binary', minLength: 1 })

test('what was written is read back, bit by bit, aligned to its element size', t => {
  const file = join(temporaryFolder(t), 'a.safetensors')
  const files = fc.dictionary(names, tensor, { maxKeys: 6, noNullPrototype: true })
  fc.assert(
    fc.property(files, fc.dictionary(names, names), (tensors, metadata) => {
      writeSafetensors(file, tensors, { ...metadata })
      const header = readHeader(file)
      assert.deepEqual({ ...header.metadata }, { ...metadata })
      assert.deepEqual([...header.tensors.keys()].sort(), Object.keys(tensors).sort())
      for (const [name, { shape, data }] of Object.entries(tensors)) {
        const entry = header.tensors.get(name) as SafetensorsEntry
        assert.deepEqual(entry.shape, shape)
        assert.equal(entry.offset % data.BYTES_PER_ELEMENT, 0)
        const expected = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
        assert.ok(readBytes(file, entry).equals(expected), name)
        assert.deepEqual(readTensorFloat64(file, entry), Float64Array.from(data as Float64Array))
      }
    }),
    { numRuns: 200 },
  )
})

test('names that JavaScript objects treat specially are names like others', t => {
  const file = join(temporaryFolder(t), 'special.safetensors')
  const special = ['__proto__', 'constructor', 'toString']
  const one = { shape: [1], data: Float32Array.of(1) }
  const metadata = Object.fromEntries(special.map(name => [name, name]))
  writeSafetensors(file, Object.fromEntries(special.map(name => [name, one])), metadata)
  const header = readHeader(file)
  assert.deepEqual([...header.tensors.keys()].sort(), special)
  assert.deepEqual(header.metadata, metadata)
})

test('half precision widens exactly', t => {
  const file = join(temporaryFolder(t), 'half.safetensors')
  // 1, -2, 65504, the smallest subnormal, infinity, 0.333251953125
  raw(file, { a: ['F16', [6], 0, 12] }, halves([0x3c00, 0xc000, 0x7bff, 1, 0x7c00, 0x3555]))
  const f16 = readTensor(file, readHeader(file).tensors.get('a')!)
  assert.deepEqual([...f16], [1, -2, 65504, 2 ** -24, Infinity, 0.333251953125])
  raw(file, { a: ['BF16', [4], 0, 8] }, halves([0x3f80, 0xc000, 0x4049, 1]))
  const bf16 = readTensor(file, readHeader(file).tensors.get('a')!)
  assert.deepEqual([...bf16], [1, -2, 3.140625, 2 ** -133])
})

test('a file that stays open gives the same floats, into a place that is given', t => {
  const file = join(temporaryFolder(t), 'all.safetensors')
  const [f16, bf16] = [halves([0x3c00, 0xc000, 1, 0x3555]), halves([0x3f80, 0xc000, 0x4049, 1])]
  const doubles = Buffer.from(Float64Array.of(0.1, -2, 3, 4).buffer)
  raw(
    file,
    { d: ['F64', [4], 0, 32], a: ['F16', [4], 32, 40], b: ['BF16', [4], 40, 48] },
    Buffer.concat([doubles, f16, bf16]),
  )
  const files = new OpenFiles()
  t.after(() => files.close())
  files.open(file)
  const place = new Float32Array(6) // what stands beside it stays
  for (const entry of readHeader(file).tensors.values()) {
    place.fill(7)
    files.readInto(place.subarray(1, 5), file, entry)
    assert.deepEqual([...place], [7, ...readTensor(file, entry), 7], entry.dtype)
  }
})

test('every malformed file is refused with its name and the reason', t => {
  const file = join(temporaryFolder(t), 'bad.safetensors')
  const cases: [string, () => void, RegExp][] = [
    ['empty', () => writeFileSync(file, ''), /too few/],
    ['header beyond the file', () => writeFileSync(file, lengthThen(1000n, '{}')), /beyond/],
    ['huge header', () => writeFileSync(file, lengthThen(2n ** 63n, '{}')), /beyond/],
    ['not JSON', () => writeFileSync(file, lengthThen(4n, '{"a"')), /not JSON/],
    ['not UTF-8', () => writeFileSync(file, lengthThen(1n, Buffer.from([0xff]))), /not JSON/],
    ['not an object', () => writeFileSync(file, lengthThen(2n, '[]')), /not a JSON object/],
    ['metadata', () => json(file, { __metadata__: { a: 1 } }, 0), /__metadata__/],
    ['no dtype', () => json(file, { a: { shape: [1], data_offsets: [0, 4] } }, 4), /a: dtype/],
    ['unknown dtype backwards', () => raw(file, { a: ['Q4', [1], 4, 0] }, bytes(4)), /do not hold/],
    ['negative size', () => raw(file, { a: ['F32', [-1], 0, 4] }, bytes(4)), /shape/],
    ['fraction', () => raw(file, { a: ['F32', [1.5], 0, 6] }, bytes(6)), /shape/],
    ['wrong size', () => raw(file, { a: ['F32', [2], 0, 4] }, bytes(4)), /do not hold/],
    ['backwards', () => raw(file, { a: ['F32', [0], 4, 0] }, bytes(4)), /do not hold/],
    ['outside', () => raw(file, { a: ['F32', [2], 0, 8] }, bytes(4)), /truncated/],
    ['hole', () => raw(file, { a: ['F32', [1], 4, 8] }, bytes(8)), /where/],
    [
      'overlap',
      () => raw(file, { a: ['F32', [2], 0, 8], b: ['F32', [1], 4, 8] }, bytes(8)),
      /where/,
    ],
    ['rest', () => raw(file, { a: ['F32', [1], 0, 4] }, bytes(7)), /3 bytes after/],
  ]
  for (const [name, write, reason] of cases) {
    write()
    assert.throws(() => readHeader(file), refusal(file, reason), name)
  }
})

test('a tensor of an unknown dtype takes its place and nothing else', t => {
  const file = join(temporaryFolder(t), 'new.safetensors')
  raw(file, { a: ['Q4', [3], 0, 4], b: ['toString', [1], 4, 8], c: ['U8', [2], 8, 10] }, bytes(10))
  const { tensors, unreadable } = readHeader(file)
  assert.deepEqual([...tensors.keys()], ['c'])
  assert.deepEqual(Object.fromEntries(unreadable), { a: 'Q4', b: 'toString' })
})

test('a file cut short is refused at every length', t => {
  const file = join(temporaryFolder(t), 'cut.safetensors')
  const write = (): void =>
    writeSafetensors(file, { a: { shape: [3], data: Float32Array.of(1, 2, 3) } })
  write()
  const whole = readFileSync(file).length
  for (let length = whole - 1; length >= 0; length--) {
    truncateSync(file, length)
    assert.throws(() => readHeader(file), refusal(file, /./), `${length} of ${whole} bytes`)
  }
  write()
  const entry = readHeader(file).tensors.get('a')!
  truncateSync(file, whole - 1)
  assert.throws(() => readTensor(file, entry), refusal(file, /truncated/))
})

test('a missing file is unreadable, and writing leaves nothing behind', t => {
  const folder = temporaryFolder(t)
  const missing = join(folder, 'none.safetensors')
  assert.throws(() => readHeader(missing), { code: 'FILE_UNREADABLE' })
  const tensors = { a: { shape: [1], data: Float32Array.of(1) } }
  const nowhere = join(folder, 'no', 'a.safetensors')
  assert.throws(() => writeSafetensors(nowhere, tensors), { code: 'FILE_UNWRITABLE' })
  writeSafetensors(join(folder, 'a.safetensors'), tensors)
  assert.deepEqual(readdirSync(folder), ['a.safetensors'])
})

test('the goldens are read, sharded and in half precision too', t => {
  const run = shared(t, 'goldens/llava-clip-llama/run')
  if (run === undefined) return
  for (const checkpoint of readdirSync(run)) {
    const files = readdirSync(join(run, checkpoint)).filter(x => x.endsWith('.safetensors'))
    for (const name of files) {
      const header = readHeader(join(run, checkpoint, name))
      for (const [tensorName, entry] of header.tensors) {
        const values = readTensor(header.file, entry)
        assert.equal(values.length, size(entry.shape))
        assert.ok(values.every(Number.isFinite), tensorName)
      }
    }
  }
})

function halves(values: number[]): Buffer {
  const array = Uint16Array.from(values)
  return Buffer.from(array.buffer)
}

const bytes = (count: number): Buffer => Buffer.alloc(count)

function lengthThen(length: bigint, rest: string | Buffer): Buffer {
  const head = Buffer.alloc(8)
  head.writeBigUInt64LE(length)
  return Buffer.concat([head, Buffer.from(rest)])
}

function json(file: string, header: unknown, payload: number | Buffer): void {
  const text = Buffer.from(JSON.stringify(header))
  const rest = typeof payload === 'number' ? bytes(payload) : payload
  writeFileSync(file, Buffer.concat([lengthThen(BigInt(text.length), text), rest]))
}

type RawEntry = [dtype: string, shape: number[], from: number, to: number]

function raw(file: string, tensors: Record<string, RawEntry>, payload: Buffer): void {
  const entries = Object.entries(tensors).map(([name, [dtype, shape, from, to]]) => [
    name,
    { dtype, shape, data_offsets: [from, to] },
  ])
  json(file, Object.fromEntries(entries), payload)
}

function refusal(file: string, reason: RegExp): (error: unknown) => boolean {
  return error =>
    error instanceof XmasdError &&
    error.code === 'CHECKPOINT_INVALID' &&
    error.message.includes(file) &&
    reason.test(error.message)
}
