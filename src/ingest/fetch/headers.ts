/**
 * Headers for http hosts, such as bearer tokens, from a file that the configuration names: YAML or JSON,
 *
 *     https://images.example.org:
 *       authorization: Bearer …
 *
 * An entry is an origin: scheme, host and port. Its headers are sent there and nowhere else, not behind a
 * redirect either. No message holds a value of the file.
 */
import { readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { z } from 'zod'
import { messageOf, XmasdError } from '../../errors.ts'

/** What is sent to a URL. */
export type HostHeaders = (url: URL) => Readonly<Record<string, string>>

const Headers = z.record(z.string().regex(/^[\w-]+$/), z.string().regex(/^[\t\x20-\x7e]+$/))
const File = z.record(z.string(), Headers)

const known = new Map<string, HostHeaders>()

/** Reads the file once in a process. Throws CONFIG_INVALID. */
export function headersFor(file: string | undefined): HostHeaders {
  if (file === undefined) return () => ({})
  const headers = known.get(file) ?? readHeaders(file)
  known.set(file, headers)
  return headers
}

function readHeaders(file: string): HostHeaders {
  const byOrigin = new Map<string, Readonly<Record<string, string>>>()
  for (const [name, headers] of Object.entries(parseFile(file))) {
    const origin = URL.canParse(name) ? new URL(name).origin : 'null'
    if (!/^https?:/.test(origin) || !/^https?:\/\/[^/]+\/?$/i.test(name)) {
      throw invalid(file, `an entry is no origin, such as https://images.example.org`)
    }
    byOrigin.set(origin, headers)
  }
  return url => byOrigin.get(url.origin) ?? {}
}

function parseFile(file: string): z.infer<typeof File> {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw invalid(file, messageOf(error))
  }
  let tree: unknown
  try {
    tree = parse(text, { logLevel: 'silent' }) ?? {}
  } catch {
    throw invalid(file, 'it is not YAML')
  }
  const parsed = File.safeParse(tree)
  if (parsed.success) return parsed.data
  throw invalid(file, 'it is not a mapping of origins to headers, each a text')
}

function invalid(file: string, why: string): XmasdError {
  return new XmasdError(
    'CONFIG_INVALID',
    `images.headersFile is ${file}: ${why}`,
    'write YAML or JSON: an origin such as https://images.example.org, below it header names and values',
  )
}
