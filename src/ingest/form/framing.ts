/**
 * Records that a producer has framed with a schema of a Confluent-compatible registry:
 *
 *     0 u8 · schema id u32, big endian · Avro, Protobuf (with its message indexes) or JSON text
 *
 * With `log.schemaRegistry` they are read by their schema and become JSON; bytes are base64 there.
 */
import { readFileSync } from 'node:fs'
import type { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import { messageOf, XmasdError } from '../../errors.ts'
import { withDeadline } from '../deadline.ts'

/** A Confluent-compatible schema registry, and who reads it. Plain data, for workers. */
export type RegistryOptions = {
  url: string
  username?: string | undefined
  password?: string | undefined
  passwordFile?: string | undefined
}

const HEAD_BYTES = 5
/** The registry's failures are retried where every other failure of an example is. */
const ASK_AGAIN_MS = 1_000
/** A registry answers in milliseconds, or not at all. */
const ANSWER_MS_MAX = 10_000
const silent = () => unanswered(`it is silent for ${ANSWER_MS_MAX / 1000} s`)

/**
 * The JSON of a record, framed or not. No JSON text begins with a zero byte.
 *
 * @throws XmasdError RECORD_FRAMED without a registry; SCHEMA_UNKNOWN; SCHEMA_MISMATCH where the bytes do not
 * follow their schema; REGISTRY_UNAVAILABLE, retryable
 */
export async function unframed(
  value: Uint8Array,
  options: RegistryOptions | undefined,
): Promise<Uint8Array> {
  if (value[0] !== 0 || value.length <= HEAD_BYTES) return value
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  const schema = bytes.readUInt32BE(1)
  if (options === undefined) throw framed(schema)
  const registry = await registryAt(options)
  try {
    await withDeadline(ANSWER_MS_MAX, silent, () => registry.getSchema(schema))
  } catch (error) {
    throw unreadableSchema(schema, error)
  }
  try {
    return Buffer.from(JSON.stringify(await registry.decode(bytes), plain))
  } catch (error) {
    throw new XmasdError(
      'SCHEMA_MISMATCH',
      `the record does not follow its schema ${schema}: ${messageOf(error)}`,
      'produce it again with the schema that it is framed with',
    )
  }
}

/** What JSON lacks: bytes as base64; a null is a field that is not there. */
function plain(this: Record<string, unknown>, key: string, value: unknown): unknown {
  const raw = this[key]
  if (raw instanceof Uint8Array) return Buffer.from(raw).toString('base64')
  return value === null && !Array.isArray(this) ? undefined : value
}

const registries = new Map<string, Promise<SchemaRegistry>>()

/** One in a process: it keeps the schemas that it has read. */
function registryAt(options: RegistryOptions): Promise<SchemaRegistry> {
  const name = JSON.stringify(options)
  const known = registries.get(name)
  if (known !== undefined) return known
  const registry = openRegistry(options)
  registries.set(name, registry)
  registry.catch(() => registries.delete(name))
  return registry
}

/** The package is loaded where a registry is configured: it is a fifth of a start. */
async function openRegistry(options: RegistryOptions): Promise<SchemaRegistry> {
  const { SchemaRegistry } = await import('@kafkajs/confluent-schema-registry')
  const { url, username } = options
  return new SchemaRegistry({
    host: url.replace(/\/+$/, ''),
    ...(username === undefined ? {} : { auth: { username, password: passwordOf(options) } }),
    retry: { retries: 0 },
  })
}

/** Throws CONFIG_INVALID where the file of the password cannot be read. */
export function checkRegistry(options: RegistryOptions | undefined): void {
  if (options?.username !== undefined) passwordOf(options)
}

function passwordOf({ password, passwordFile }: RegistryOptions): string {
  if (password !== undefined || passwordFile === undefined) return password ?? ''
  try {
    return readFileSync(passwordFile, 'utf8').trimEnd()
  } catch (error) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `log.schemaRegistry.passwordFile cannot be read: ${messageOf(error)}`,
      'let the daemon read the file',
    )
  }
}

function framed(schema: number): XmasdError {
  return new XmasdError(
    'RECORD_FRAMED',
    `the record is framed with schema ${schema} of a schema registry, and log.schemaRegistry is not set`,
    'set log.schemaRegistry.url to the registry of the producers, or produce plain JSON',
  )
}

function unreadableSchema(schema: number, error: unknown): XmasdError {
  if (error instanceof XmasdError) return error
  const { status, name } = error as { status?: unknown; name?: unknown }
  if (status === 404) {
    return new XmasdError(
      'SCHEMA_UNKNOWN',
      `the registry has no schema ${schema}`,
      'register the schema, then send the record again: xmasd redrive --code SCHEMA_UNKNOWN',
    )
  }
  if (typeof status !== 'number' && name !== 'ResponseError') {
    return new XmasdError(
      'SCHEMA_MISMATCH',
      `schema ${schema} cannot be read: ${messageOf(error)}`,
      'register a valid Avro, Protobuf or JSON schema',
    )
  }
  return unanswered(`schema ${schema}: ${messageOf(error)}`)
}

function unanswered(why: string): XmasdError {
  return new XmasdError(
    'REGISTRY_UNAVAILABLE',
    `the registry does not answer: ${why}`,
    'check log.schemaRegistry.url, its username and password, and that the registry is up; then xmasd redrive --code REGISTRY_UNAVAILABLE',
    { retryable: true, retryAfterMs: ASK_AGAIN_MS },
  )
}
