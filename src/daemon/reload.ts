/** What of a configuration can change while the daemon runs, and what needs a restart. */
import { type Config, configKeys } from '../config.ts'

/** Keys that a reload applies. All others decide what is on the log, or belong to an open resource. */
export const RELOADABLE = [
  'logging.level',
  'http.hosts',
  'http.stallMsMax',
  'images.hosts',
  'images.addressesAllowed',
  'images.buckets',
  'images.headersFile',
  'images.requestsPerSecondMax',
  'images.countMax',
  'images.bytesMax',
  'images.pixelsMax',
  'images.examplePixelsMax',
  'images.timeMsMax',
  'text.charactersMax',
  'text.turnsMax',
] as const

export type Reloaded = {
  /** Changed keys that are in effect now. */
  applied: string[]
  /** Changed keys that are in effect after a restart. */
  needRestart: string[]
}

/** The keys whose values differ. */
export function changesBetween(current: Config, next: Config): Reloaded {
  const changed = configKeys().filter(key => textAt(current, key) !== textAt(next, key))
  const isReloadable = (key: string): boolean => (RELOADABLE as readonly string[]).includes(key)
  return {
    applied: changed.filter(isReloadable),
    needRestart: changed.filter(key => !isReloadable(key)),
  }
}

/** `current` with the values of `next` at `keys`, which have the form section.key. */
export function withChanges(current: Config, next: Config, keys: readonly string[]): Config {
  const merged = structuredClone(current) as unknown as Record<string, Record<string, unknown>>
  for (const key of keys) {
    const [section, name] = key.split('.') as [string, string]
    merged[section]![name] = valueAt(next, key)
  }
  return merged as unknown as Config
}

function textAt(config: Config, key: string): string {
  return JSON.stringify(valueAt(config, key)) ?? ''
}

function valueAt(config: Config, key: string): unknown {
  return key
    .split('.')
    .reduce<unknown>((at, name) => (at as Record<string, unknown> | undefined)?.[name], config)
}
