/** A group's key-value state in the local log. A key of one part equals that part alone. */
import type { StateKey, StateReader, StateWriter } from '../log.ts'
import type { Environment } from './environment.ts'

type StoredKey = (string | number)[]
type Change = { key: StoredKey; value: Buffer | undefined }

/** Entries fetched at a time: no cursor stays open while the reader works. */
const RANGE_ENTRIES = 512
/** LMDB's limit is 1978 bytes; the markers between parts take a few. */
const KEY_BYTES_MAX = 1900

/** Reads the committed state of `group`. */
export function stateReader(environment: Environment, group: string): StateReader {
  return {
    get(key) {
      return environment.state.get(storedKey(group, key))
    },
    *range(from, to) {
      let start = storedKey(group, from)
      const end = storedKey(group, to)
      for (let isFirst = true; ; isFirst = false) {
        const options = { start, end, limit: RANGE_ENTRIES, exclusiveStart: !isFirst }
        const entries = [...environment.state.getRange(options)]
        for (const { key, value } of entries) yield { key: stateKey(key), value }
        const last = entries.at(-1)
        if (last === undefined || entries.length < RANGE_ENTRIES) return
        start = last.key
      }
    },
  }
}

/** Runs `state` and returns its changes, in order. */
export function collectState(
  group: string,
  state: ((writer: StateWriter) => void) | undefined,
): Change[] {
  const changes: Change[] = []
  state?.({
    put(key, value) {
      changes.push({ key: storedKey(group, key), value: Buffer.from(value) })
    },
    remove(key) {
      changes.push({ key: storedKey(group, key), value: undefined })
    },
  })
  return changes
}

/** Inside a write: makes the changes. */
export function writeState(environment: Environment, changes: readonly Change[]): void {
  for (const { key, value } of changes) {
    if (value === undefined) environment.state.remove(key)
    else environment.state.put(key, value)
  }
}

function storedKey(group: string, key: StateKey): StoredKey {
  const parts = typeof key === 'object' ? key : [key]
  if (parts.length === 0) throw new RangeError('a state key without parts')
  const stored = [group, ...parts].map(part => (typeof part === 'string' ? escapeText(part) : part))
  if (stored.some(Number.isNaN)) throw new RangeError('a state key with NaN')
  const sizes = stored.map(part => (typeof part === 'number' ? 10 : Buffer.byteLength(part) + 2))
  const bytes = sizes.reduce((sum, size) => sum + size)
  if (bytes > KEY_BYTES_MAX) throw new RangeError(`a state key of ${bytes} bytes`)
  return stored
}

function stateKey(stored: StoredKey): StateKey {
  const parts = stored.slice(1).map(part => (typeof part === 'string' ? unescapeText(part) : part))
  return parts.length === 1 ? parts[0]! : parts
}

/** LMDB ends a part at the character 0, so it is stored as two characters; the order is kept. */
function escapeText(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters meant
  return text.replace(/[\0\x01]/g, found => (found === '\0' ? '\x01\x01' : '\x01\x02'))
}

function unescapeText(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters meant
  return text.replace(/\x01([\x01\x02])/g, (_, which) => (which === '\x01' ? '\0' : '\x01'))
}
