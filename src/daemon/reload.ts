/** What of a configuration can change while the daemon runs, and what needs a restart. */
import { type Config, configKeys, getAt, setAt } from '../config.ts'

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

/** `current` with the values of `next` at `keys`. */
export function withChanges(current: Config, next: Config, keys: readonly string[]): Config {
  const merged = structuredClone(current)
  for (const key of keys) setAt(merged, key.split('.'), getAt(next, key.split('.')))
  return merged
}

function textAt(config: Config, key: string): string {
  return JSON.stringify(getAt(config, key.split('.'))) ?? ''
}
