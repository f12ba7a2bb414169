/**
 * Bundles on the log: every bundle whose clusters the select role may be told to use lies, whole, in the
 * compacted topic `bundles`, so that a replay from zero finds it wherever it runs.
 *
 *     key `<id>/<file>/<part>`   up to 512 kB of the file; header `parts` counts them
 *     key `<id>`                 the manifest's bytes, written last: the bundle is there
 *     key `<id>/map/<older id>`  JSON, see `ClusterMap`: which old cluster became which
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { XmasdError } from '../errors.ts'
import type { Log, OutRecord } from '../log/log.ts'
import { BUNDLE_FILES, type Bundle, MANIFEST, openBundle } from './bundle.ts'

/** Kafka's default limit of a record is 1 MB. */
const PART_BYTES = 512 * 1024

/** For each old cluster the new one that most of its examples are in now, and how many of them. */
export type ClusterMap = {
  v: 1
  from: string
  to: string
  clusters: { old: number; new: number; examples: number; share: number }[]
}

/** Puts `bundle` on the log where it is not there yet. Returns whether it had to. */
export async function publishBundle(log: Log, topic: string, bundle: Bundle): Promise<boolean> {
  if ((await publishedIds(log, topic)).has(bundle.id)) return false
  const records: OutRecord[] = []
  for (const name of BUNDLE_FILES) {
    if (bundle.manifest.files[name] === undefined) continue
    records.push(...partsOf(topic, `${bundle.id}/${name}`, await readFile(join(bundle.dir, name))))
  }
  const manifest = await readFile(join(bundle.dir, MANIFEST))
  records.push({ topic, key: bundle.id, value: manifest, partition: 0 })
  for (const record of records) await log.append([record])
  return true
}

function partsOf(topic: string, key: string, bytes: Buffer): OutRecord[] {
  const parts = Math.max(1, Math.ceil(bytes.length / PART_BYTES))
  return Array.from({ length: parts }, (_, part) => ({
    topic,
    key: `${key}/${part}`,
    value: bytes.subarray(part * PART_BYTES, (part + 1) * PART_BYTES),
    headers: { parts: String(parts) },
    partition: 0,
  }))
}

/** Appends the map beside the bundle that it leads to. */
export async function publishMap(log: Log, topic: string, map: ClusterMap): Promise<void> {
  const value = Buffer.from(JSON.stringify(map))
  await log.append([{ topic, key: `${map.to}/map/${map.from}`, value, partition: 0 }])
}

/** Ids of the bundles that lie whole on the log. */
export async function publishedIds(log: Log, topic: string): Promise<Set<string>> {
  const ids = new Set<string>()
  for await (const { key, value } of log.read(topic)) {
    if (key !== null && value !== null && !key.includes('/')) ids.add(key)
  }
  return ids
}

/**
 * The bundle `id` from the log, every byte checked.
 *
 * @throws XmasdError BUNDLE_INVALID where it is not there; as `openBundle`
 */
export async function fetchBundle(log: Log, topic: string, id: string): Promise<Bundle> {
  const dir = await mkdtemp(join(tmpdir(), 'xmasd-bundle-'))
  try {
    const files = await collect(log, topic, id)
    for (const [name, bytes] of files) await writeFile(join(dir, name), bytes)
    return await openBundle(dir)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function collect(log: Log, topic: string, id: string): Promise<Map<string, Buffer>> {
  const parts = new Map<string, Uint8Array[]>(BUNDLE_FILES.map(name => [name, []]))
  let manifest: Uint8Array | null = null
  for await (const { key, value } of log.read(topic)) {
    if (key === id) manifest = value
    const [owner, name, part] = key?.split('/') ?? []
    const list = owner === id ? parts.get(name ?? '') : undefined
    if (list !== undefined && value !== null) list[Number(part)] = value
  }
  if (manifest === null) {
    throw new XmasdError(
      'BUNDLE_INVALID',
      `bundle ${id} does not lie in the topic ${topic}`,
      '`xmasd bundle list` shows what lies there; `xmasd bundle swap --bundle DIR` publishes one from its folder',
    )
  }
  const files = [...parts]
    .filter(([, list]) => list.length > 0)
    .map(([name, list]) => [name, Buffer.concat(list)] as const)
  return new Map([...files, [MANIFEST, Buffer.from(manifest)]])
}
