/**
 * Records whose fields have other names. `columns` and `tags` are those of LLaMA-Factory's
 * dataset_info.json, so that an entry can be copied from there.
 */
import { z } from 'zod'
import type { Json } from './json.ts'

const Name = z.string().min(1).optional()

/** What a record is read by: each names the field that holds it. */
const Columns = z.strictObject({
  id: Name,
  messages: Name,
  system: Name,
  tools: Name,
  images: Name,
  videos: Name,
  audios: Name,
  prompt: Name,
  query: Name,
  response: Name,
  history: Name,
  chosen: Name,
})
type Column = keyof z.infer<typeof Columns>

/** What a turn's fields, and its roles, are called. */
const Tags = z.strictObject({
  role_tag: Name,
  content_tag: Name,
  user_tag: Name,
  assistant_tag: Name,
  observation_tag: Name,
  function_tag: Name,
  system_tag: Name,
})
export type Tags = z.infer<typeof Tags>

/** `data.fields` of the configuration. */
export const Fields = z.strictObject({ columns: Columns.prefault({}), tags: Tags.prefault({}) })
export type Fields = Partial<z.infer<typeof Fields>>

/** Fields that are read by default where LLaMA-Factory's column has another name. */
const DEFAULTS: Partial<Record<Column, readonly string[]>> = {
  messages: ['conversations', 'texts'],
  images: ['image'],
  videos: ['video'],
  audios: ['audio'],
  prompt: ['instruction'],
  query: ['input'],
  response: ['output', 'completion'],
}

/** The record with its columns under the names that it is read by. The named column is the only one. */
export function renamed(record: Json, { columns = {} }: Fields): Json {
  const named = Object.entries(columns).filter(([, name]) => name !== undefined)
  if (named.length === 0) return record
  const left = { ...record }
  const moved = named.map(([column, name]) => [column, record[name!]] as const)
  for (const [column, name] of named) {
    for (const other of [column, name!, ...(DEFAULTS[column as Column] ?? [])]) delete left[other]
  }
  return Object.assign(left, Object.fromEntries(moved))
}
