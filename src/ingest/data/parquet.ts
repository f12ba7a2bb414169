/**
 * The rows of a Parquet file as JSON records. Bytes become base64 under `bytes`, as pictures of the
 * Hub's data sets have them. A row group is in memory at a time.
 */
import { type FileHandle, open } from 'node:fs/promises'
import {
  type AsyncBuffer,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
} from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { messageOf } from '../../errors.ts'

/** Larger row groups are read in parts, where the file says where its pages lie. */
const GROUP_BYTES_MAX = 32 * 2 ** 20

/**
 * Yields a record a row. `onNote` is told of rows that cannot be read, with file, rows and reason, and how
 * many they are; the others go on. `onRows` is told how many rows of how many are done. Throws what is wrong with the file.
 */
export async function* readParquet(
  path: string,
  file: string,
  onNote: (note: string, leftOut: number) => void,
  onRows: (done: number, of: number) => void = () => {},
): AsyncGenerator<Uint8Array> {
  const handle = await open(path)
  try {
    const buffer = await bufferOf(handle)
    const metadata = await parquetMetadataAsync(buffer)
    const total = Number(metadata.num_rows)
    for (const [rowStart, rowEnd] of stretches(metadata)) {
      const rows = await rowsBetween(buffer, metadata, rowStart, rowEnd).catch(error => {
        const which = `rows ${rowStart + 1} to ${rowEnd}`
        onNote(`${file}, ${which} are left out: ${messageOf(error)}`, rowEnd - rowStart)
        return []
      })
      for (let i = 0; i < rows.length; i++) {
        const row = rows[i]
        rows[i] = undefined
        yield Buffer.from(JSON.stringify(row, jsonValue))
        onRows(rowStart + i + 1, total)
      }
    }
  } finally {
    await handle.close()
  }
}

/** Rows of a Parquet file, from its footer. */
export async function countParquet(path: string): Promise<number> {
  const handle = await open(path)
  try {
    return Number((await parquetMetadataAsync(await bufferOf(handle))).num_rows)
  } finally {
    await handle.close()
  }
}

async function bufferOf(handle: FileHandle): Promise<AsyncBuffer> {
  const { size } = await handle.stat()
  return {
    byteLength: size,
    slice: async (start, end = size) => {
      const bytes = new Uint8Array(end - start)
      for (let at = 0; at < bytes.length; ) {
        const { bytesRead } = await handle.read(bytes, at, bytes.length - at, start + at)
        if (bytesRead === 0) throw new Error('the file ends early')
        at += bytesRead
      }
      return bytes.buffer
    },
  }
}

/** [from, to) of the rows that are read together. */
function* stretches({ row_groups }: FileMetaData): Generator<[number, number]> {
  let from = 0
  for (const group of row_groups) {
    const rows = Number(group.num_rows)
    const hasPages = group.columns.every(column => column.offset_index_offset !== undefined)
    const parts = hasPages ? Math.ceil(Number(group.total_byte_size) / GROUP_BYTES_MAX) : 1
    const step = Math.max(1, Math.ceil(rows / Math.max(1, parts)))
    for (let at = 0; at < rows; at += step) yield [from + at, from + Math.min(rows, at + step)]
    from += rows
  }
}

async function rowsBetween(
  file: AsyncBuffer,
  metadata: FileMetaData,
  rowStart: number,
  rowEnd: number,
): Promise<unknown[]> {
  const options = { file, metadata, rowStart, rowEnd, compressors }
  return await parquetReadObjects({ ...options, utf8: false, useOffsetIndex: true })
}

/** For JSON.stringify: bytes in base64, and integers that JSON keeps; longer ones as their digits. */
function jsonValue(key: string, value: unknown): unknown {
  if (typeof value === 'bigint') {
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : String(value)
  }
  if (!(value instanceof Uint8Array)) return value
  const base64 = () =>
    Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64')
  if (key === 'bytes') return base64()
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(value)
  } catch {
    return { bytes: base64() }
  }
}
