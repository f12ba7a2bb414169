/**
 * The samples of a WebDataset shard as JSON records: members of one name up to the first dot are one
 * sample. Its .json is the record, its pictures go into it as bytes.
 */
import { Readable } from 'node:stream'
import { extract } from 'tar-stream'
import { dataUrl } from '../form/images.ts'
import { isObject, type Json, parsePythonJson } from '../form/json.ts'
import type { Chunks } from './stream.ts'

type Member = { name: string; bytes: Buffer }
type Sample = { key: string; members: Member[]; size: number }

const PICTURE = /\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif)$/i
const OTHER_MODALITY = /\.(?:mp4|webm|mov|avi|mkv|wav|mp3|flac|ogg)$/i

/**
 * Yields a record a sample. `onNote` is told of samples without a .json, which are left out. Throws
 * what is wrong with the archive, and RangeError where a sample is larger than `bytesMax`.
 */
export async function* readTar(
  chunks: Chunks,
  bytesMax: number,
  onNote: (note: string, leftOut: number) => void,
): AsyncGenerator<Uint8Array> {
  for await (const { key, members } of samplesOf(chunks, bytesMax)) {
    const json = members.find(({ name }) => name.slice(key.length) === '.json')
    if (json === undefined) onNote(withoutRecord(key, members), 1)
    else yield recordOf(key, json, members)
  }
}

function withoutRecord(key: string, members: readonly Member[]): string {
  const said = `the sample ${key} has no ${key}.json and is left out`
  const dotted = members.find(({ name }) => /\.json$/i.test(name))
  if (dotted === undefined) return said
  return `${said}; it has ${dotted.name}, but names end at their first dot: rename the members so that they have one dot each`
}

async function* samplesOf(chunks: Chunks, bytesMax: number): AsyncGenerator<Sample> {
  const archive = extract()
  const source = Readable.from(chunks)
  source.on('error', error => archive.destroy(error)).pipe(archive)
  let sample: Sample = { key: '', members: [], size: 0 }
  for await (const entry of archive) {
    const { name, type, size = 0 } = entry.header
    const key = keyOf(name)
    if (key !== sample.key) {
      if (sample.members.length > 0) yield sample
      sample = { key, members: [], size: 0 }
    }
    sample.size += size
    if (sample.size > bytesMax) {
      throw new RangeError(`the sample ${key} is larger than ${bytesMax} bytes`)
    }
    if (type === 'file' && key !== '')
      sample.members.push({ name, bytes: await bytesOf(entry as AsyncIterable<Uint8Array>) })
    else entry.resume()
  }
  if (sample.members.length > 0) yield sample
}

/** The path up to the first dot of its last part. Hidden files are in no sample. */
function keyOf(name: string): string {
  const from = name.lastIndexOf('/') + 1
  const dot = name.indexOf('.', from)
  return dot <= from ? '' : name.slice(0, dot)
}

async function bytesOf(entry: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const part of entry) parts.push(part)
  return Buffer.concat(parts)
}

/** What is no JSON object passes as it is: that is the example's error. */
function recordOf(key: string, json: Member, members: readonly Member[]): Uint8Array {
  let record: unknown
  try {
    record = parsePythonJson(json.bytes.toString())
  } catch {
    return json.bytes
  }
  if (!isObject(record)) return json.bytes
  const pictures = new Map<string, Member>()
  for (const member of members) {
    if (!PICTURE.test(member.name)) continue
    pictures.set(member.name, member)
    pictures.set(member.name.slice(member.name.lastIndexOf('/') + 1), member)
  }
  const others = members.map(({ name }) => name).filter(name => OTHER_MODALITY.test(name))
  const named = withBytes(record, pictures)
  const whole = { ...named.record, id: record.id ?? key }
  if (!named.isNamed && pictures.size > 0) {
    Object.assign(whole, { image: undefined, images: [...new Set(pictures.values())].map(inline) })
  }
  if (others.length > 0) Object.assign(whole, { videos: others })
  return Buffer.from(JSON.stringify(whole))
}

function inline({ name, bytes }: Member): { bytes: string; path: string } {
  return { bytes: bytes.toString('base64'), path: name }
}

/** The record with the names of its members replaced by their bytes. */
function withBytes(
  record: Json,
  pictures: ReadonlyMap<string, Member>,
): { record: Json; isNamed: boolean } {
  let isNamed = false
  const text = JSON.stringify(record, (_, value: unknown) => {
    const member = typeof value === 'string' ? pictures.get(value) : undefined
    if (member === undefined) return value
    isNamed = true
    return dataUrl(member.bytes.toString('base64'))
  })
  return { record: isNamed ? JSON.parse(text) : record, isNamed }
}
