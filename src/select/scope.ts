/**
 * Several folds in one group's state, each under a name. The first one, from before any swap, has none and
 * stands as it always did.
 */
import { z } from 'zod'
import { XmasdError } from '../errors.ts'
import type { StateKey, StateReader, StateWriter } from '../log/log.ts'
import { REBUILD_HINT } from './blocks.ts'

const IN_FORCE = 'inForce'
const SCOPE = 'bundle'

/** The bundle whose clusters a fold counts by, and the name that its state stands under. */
const Named = z.strictObject({ bundle: z.string().nullable(), scope: z.string().nullable() })
export type Named = z.infer<typeof Named>

/** Which fold decides, and which one decides beside it for comparison. */
const InForce = z.strictObject({
  v: z.literal(1),
  /** The bundle that the log began with, whose fold has no name; null before the first assignment. */
  first: z.string().nullable(),
  /** The fold that decides. */
  active: Named,
  /** The fold that decides beside it; null where there is none. */
  shadow: Named.nullable(),
})
export type InForce = z.infer<typeof InForce>

/** @throws XmasdError STATE_INVALID */
export function readInForce(reader: StateReader): InForce {
  const bytes = reader.get([IN_FORCE])
  if (bytes === undefined)
    return {
      v: 1,
      first: null,
      active: { bundle: null, scope: null },
      shadow: null,
    }
  const parsed = InForce.safeParse(JSON.parse(Buffer.from(bytes).toString()))
  if (parsed.success) return parsed.data
  throw new XmasdError(
    'STATE_INVALID',
    "the select state's 'inForce' entry is not of this version of the format",
    REBUILD_HINT,
  )
}

export function writeInForce(writer: StateWriter, inForce: InForce): void {
  writer.put([IN_FORCE], Buffer.from(JSON.stringify(inForce)))
}

/** The part of `reader` that belongs to `scope`, as if it were all. */
export function scopedReader(reader: StateReader, scope: string | null): StateReader {
  if (scope === null) return reader
  return {
    get: key => reader.get(within(scope, key)),
    *range(from, to) {
      for (const { key, value } of reader.range(within(scope, from), within(scope, to))) {
        yield { key: without(key), value }
      }
    },
  }
}

export function scopedWriter(writer: StateWriter, scope: string | null): StateWriter {
  if (scope === null) return writer
  return {
    put: (key, value) => writer.put(within(scope, key), value),
    remove: key => writer.remove(within(scope, key)),
  }
}

function within(scope: string, key: StateKey): StateKey {
  return [SCOPE, scope, ...partsOf(key)]
}

function without(key: StateKey): StateKey {
  return partsOf(key).slice(2)
}

function partsOf(key: StateKey): readonly (string | number)[] {
  return typeof key === 'object' ? key : [key]
}
