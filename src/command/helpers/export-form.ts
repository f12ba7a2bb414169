/** Forms that trainers read: one kept example in, one record of the form out. */

import { existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { basename, dirname, extname, join } from 'node:path'
import type { SchemaElement } from 'hyparquet-writer'
import { messageOf, XmasdError } from '../../errors.ts'
import { type DecodeOptions, decodeExample } from '../../ingest/form/decode.ts'
import { IMAGE_MARK } from '../../ingest/form/example.ts'
import { writeJsonArray, writeJsonLines, writeWhole } from './output.ts'

/** The forms of JSON. */
const FORMS = {
  llava: { toRecord: llavaForm, write: writeJsonArray },
  'llama-factory': { toRecord: llamaFactoryForm, write: writeJsonArray },
  'ms-swift': { toRecord: messagesForm, write: writeJsonLines },
  trl: { toRecord: trlForm, write: writeJsonLines },
}
export type Format = 'keys' | keyof typeof FORMS | 'parquet'
export const FORMATS = ['keys', ...Object.keys(FORMS), 'parquet'] as readonly Format[]

/** What every form is made of; `<image>` in a turn stands for the next image. */
export type Conversation = {
  id: string
  turns: { role: string; content: string }[]
  images: string[]
  /** The functions that may be called, as JSON. */
  tools?: string | undefined
}

/** A kept example. `weight`: the examples of its cluster over the kept ones, where it is asked for. */
export type Exported = Conversation & { weight?: number | undefined }

type Json = Record<string, unknown>

const SPEAKERS: Record<string, string> = { user: 'human', assistant: 'gpt' }
const CALLS: Record<string, string> = { tool_call: 'function_call', tool: 'observation' }

/** The turns of a record that was assigned. Throws as `decodeExample`. */
export function conversationOf(
  value: Uint8Array,
  key: string,
  options: DecodeOptions = {},
): Conversation {
  const { turns, images, tools } = decodeExample(value, options)
  return {
    id: key.slice(0, key.lastIndexOf('@')),
    turns: turns.map(({ role, text }) => ({ role, content: text })),
    images,
    tools,
  }
}

function llavaForm({ id, turns, images, ...rest }: Exported): Json {
  return {
    id,
    ...(images.length === 0 ? {} : { image: images.length === 1 ? images[0] : images }),
    conversations: turns.map(({ role, content }) => {
      return { from: SPEAKERS[role] ?? CALLS[role] ?? role, value: content }
    }),
    ...given(rest),
  }
}

function llamaFactoryForm({ turns, ...example }: Exported): Json {
  const renamed = turns.map(({ role, content }) => ({ role: CALLS[role] ?? role, content }))
  return messagesForm({ ...example, turns: renamed })
}

function trlForm({ id, turns, images, ...rest }: Exported): Json {
  let left = images.length
  const messages = withOnePlace(turns, images).map(({ role, content }) => {
    const parts = partsOf(content, left)
    left -= parts.filter(({ type }) => type === 'image').length
    return { role, content: parts }
  })
  return { id, messages, images, ...given(rest) }
}

function messagesForm({ id, turns, images, ...rest }: Exported): Json {
  return { id, messages: withOnePlace(turns, images), images, ...given(rest) }
}

function given({ tools, weight }: Pick<Exported, 'tools' | 'weight'>): Json {
  return { ...(tools === undefined ? {} : { tools }), ...(weight === undefined ? {} : { weight }) }
}

/** LLaVA's trainer gives one picture one place, however often its turn has `<image>`; others count. */
function withOnePlace(
  turns: Conversation['turns'],
  images: readonly string[],
): Conversation['turns'] {
  if (images.length !== 1) return turns
  return turns.map(({ role, content }) => {
    const isOften = content.split(IMAGE_MARK).length > 2
    const plain = `${IMAGE_MARK}\n${content.replaceAll(IMAGE_MARK, '').trim()}`
    return { role, content: isOften ? plain : content }
  })
}

/**
 * Text and at most `imagesMax` images in turn. A part has all fields, so that every row has one type in
 * Arrow.
 */
function partsOf(content: string, imagesMax: number): Json[] {
  const parts: Json[] = []
  let rest = content
  for (let images = 0; images < imagesMax; images++) {
    const at = rest.indexOf(IMAGE_MARK)
    if (at < 0) break
    if (at > 0) parts.push({ type: 'text', text: rest.slice(0, at) })
    parts.push({ type: 'image', text: null })
    rest = rest.slice(at + IMAGE_MARK.length)
  }
  if (rest !== '' || parts.length === 0) parts.push({ type: 'text', text: rest })
  return parts
}

/**
 * Writes `examples` to `out` in `format`; returns how many there were. Throws FILE_UNWRITABLE; what
 * `examples` throws.
 */
export async function writeForm(
  out: string,
  format: Exclude<Format, 'keys'>,
  examples: AsyncIterable<Exported>,
): Promise<number> {
  if (format === 'parquet') return writeWhole(out, file => writeParquet(file, examples))
  const { toRecord, write } = FORMS[format]
  let hasTools = false
  const texts = async function* (): AsyncGenerator<string> {
    for await (const example of examples) {
      hasTools ||= example.tools !== undefined
      yield JSON.stringify(toRecord(example))
    }
  }
  const written = await write(out, texts())
  if (format === 'llama-factory') await describeDataset(out, hasTools)
  return written
}

/** Adds the file to LLaMA-Factory's dataset_info.json beside it, under its name without the ending. */
async function describeDataset(out: string, hasTools: boolean): Promise<void> {
  const file = join(dirname(out), 'dataset_info.json')
  const known = existsSync(file) ? readInfo(file) : {}
  const entry = {
    file_name: basename(out),
    formatting: 'sharegpt',
    columns: { messages: 'messages', images: 'images', ...(hasTools ? { tools: 'tools' } : {}) },
    tags: {
      role_tag: 'role',
      content_tag: 'content',
      user_tag: 'user',
      assistant_tag: 'assistant',
      system_tag: 'system',
      function_tag: 'function_call',
      observation_tag: 'observation',
    },
  }
  const info = { ...known, [basename(out, extname(out))]: entry }
  await writeWhole(file, temporary => writeFile(temporary, `${JSON.stringify(info, null, 2)}\n`))
}

function readInfo(file: string): Json {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Json
  } catch (error) {
    throw new XmasdError(
      'DATA_INVALID',
      `${file} is not the JSON that LLaMA-Factory reads: ${messageOf(error)}`,
      'correct it, or write to another folder',
    )
  }
}

const TEXT = { type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' } as const

function listOf(name: string, element: SchemaElement[]): SchemaElement[] {
  return [
    { name, repetition_type: 'OPTIONAL', converted_type: 'LIST', num_children: 1 },
    { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
    ...element,
  ]
}

const COLUMNS = ['id', 'messages', 'images', 'tools', 'weight'] as const
const SCHEMA: SchemaElement[] = [
  { name: 'root', num_children: COLUMNS.length },
  { name: 'id', ...TEXT },
  ...listOf('messages', [
    { name: 'element', repetition_type: 'OPTIONAL', num_children: 2 },
    { name: 'role', ...TEXT },
    { name: 'content', ...TEXT },
  ]),
  ...listOf('images', [{ name: 'element', ...TEXT }]),
  { name: 'tools', ...TEXT },
  { name: 'weight', type: 'DOUBLE', repetition_type: 'OPTIONAL' },
]
/** Rows that are held in memory; pictures may be inline. */
const GROUP_ROWS = 500

async function writeParquet(file: string, examples: AsyncIterable<Exported>): Promise<number> {
  const { fileWriter, parquetWriteRows } = await import('hyparquet-writer')
  let written = 0
  const rows = async function* () {
    for await (const { id, turns, images, tools = null, weight = null } of examples) {
      written++
      yield { id, messages: withOnePlace(turns, images), images, tools, weight }
    }
  }
  await parquetWriteRows({
    writer: fileWriter(file),
    rows: rows(),
    columns: COLUMNS.map(name => ({ name })),
    schema: SCHEMA,
    rowGroupSize: GROUP_ROWS,
  })
  return written
}
