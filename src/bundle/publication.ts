/**
 * Bundles on the log. The compacted topic `bundles` holds every bundle that the select role may make
 * active, so that a replay from zero finds it wherever it runs.
 *
 *     key `<id>/<file>/<segment>`  up to 512 kB of the file; the header `parts` counts the segments
 *     key `<id>`                   the manifest, written last: the bundle is whole
 *     key `<id>/map/<older id>`    JSON, see `ClusterMap`
 *     key `<id>/scores`            JSON, see `PublishedScores`: what scored with a bundle that does not say
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { XmasdError } from '../errors.ts'
import type { Log, OutRecord } from '../log/log.ts'
import type { RecordedAssignment } from '../record.ts'
import { Preparation } from '../score/identity.ts'
import { BUNDLE_FILES, type Bundle, MANIFEST, openBundle } from './bundle.ts'
import { signatureOf } from './signature.ts'

/** Kafka's default limit of a record is 1 MB. */
const SEGMENT_BYTES = 512 * 1024

/** For each old cluster: the new one that holds most of its examples, and how many of them. */
export type ClusterMap = {
  v: 1
  from: string
  to: string
  clusters: { old: number; new: number; examples: number; share: number }[]
}

/** Puts `bundle` on the log. Returns whether it was not there yet. */
export async function publishBundle(log: Log, topic: string, bundle: Bundle): Promise<boolean> {
  if ((await publishedIds(log, topic)).has(bundle.id)) return false
  const records: OutRecord[] = []
  for (const name of BUNDLE_FILES) {
    if (bundle.manifest.files[name] === undefined) continue
    records.push(
      ...segmentsOf(topic, `${bundle.id}/${name}`, await readFile(join(bundle.dir, name))),
    )
  }
  const manifest = await readFile(join(bundle.dir, MANIFEST))
  records.push({ topic, key: bundle.id, value: manifest, partition: 0 })
  for (const record of records) await log.append([record])
  return true
}

function segmentsOf(topic: string, key: string, bytes: Buffer): OutRecord[] {
  const count = Math.max(1, Math.ceil(bytes.length / SEGMENT_BYTES))
  return Array.from({ length: count }, (_, segment) => ({
    topic,
    key: `${key}/${segment}`,
    value: bytes.subarray(segment * SEGMENT_BYTES, (segment + 1) * SEGMENT_BYTES),
    headers: { parts: String(count) },
    partition: 0,
  }))
}

/** Appends the map beside the bundle that it leads to. */
export async function publishMap(log: Log, topic: string, map: ClusterMap): Promise<void> {
  const value = Buffer.from(JSON.stringify(map))
  await log.append([{ topic, key: `${map.to}/map/${map.from}`, value, partition: 0 }])
}

const PublishedScores = z.looseObject({ v: z.literal(1), preparation: Preparation })
export type PublishedScores = z.infer<typeof PublishedScores>

export async function publishScores(
  log: Log,
  topic: string,
  id: string,
  scores: PublishedScores,
): Promise<void> {
  const value = Buffer.from(JSON.stringify(scores))
  await log.append([{ topic, key: `${id}/scores`, value, partition: 0 }])
}

export async function publishedScores(
  log: Log,
  topic: string,
  id: string,
): Promise<PublishedScores | undefined> {
  let found: PublishedScores | undefined
  for await (const { key, value } of log.read(topic)) {
    if (key !== `${id}/scores` || value === null) continue
    found = PublishedScores.parse(JSON.parse(Buffer.from(value).toString()))
  }
  return found
}

/** How the examples of a bundle were prepared: as it says itself, or as the first proxy on the log did. */
export async function recordedPreparation(
  log: Log,
  topic: string,
  { id, manifest }: Pick<Bundle, 'id' | 'manifest'>,
): Promise<Preparation | undefined> {
  return manifest.preparation ?? (await publishedScores(log, topic, id))?.preparation
}

/** Ids of the bundles that are whole on the log. */
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
  const segments = new Map<string, Uint8Array[]>(BUNDLE_FILES.map(name => [name, []]))
  let manifest: Uint8Array | null = null
  for await (const { key, value } of log.read(topic)) {
    if (key === id) manifest = value
    const [owner, name, segment] = key?.split('/') ?? []
    const list = owner === id ? segments.get(name ?? '') : undefined
    if (list !== undefined && value !== null) list[Number(segment)] = value
  }
  if (manifest === null) {
    throw new XmasdError(
      'BUNDLE_INVALID',
      `bundle ${id} is not in the topic ${topic}`,
      'list the published bundles: xmasd bundle list; publish one from its folder: xmasd bundle swap --bundle DIR',
    )
  }
  const files = [...segments]
    .filter(([, list]) => list.length > 0)
    .map(([name, list]) => [name, Buffer.concat(list)] as const)
  return new Map([...files, [MANIFEST, Buffer.from(manifest)]])
}

/** The published bundles that have been needed, each fetched once. All fetches throw as `fetchBundle`. */
export class PublishedBundles {
  readonly #log: Log
  readonly #topic: string
  readonly #known = new Map<string, Bundle>()

  constructor(log: Log, topic: string) {
    this.#log = log
    this.#topic = topic
  }

  /** A bundle that need not be on the log. */
  add(bundle: Bundle): void {
    this.#known.set(bundle.id, bundle)
  }

  async get(id: string): Promise<Bundle> {
    const known = this.#known.get(id)
    if (known !== undefined) return known
    const bundle = await fetchBundle(this.#log, this.#topic, id)
    this.add(bundle)
    return bundle
  }

  /** The number of clusters of a bundle that has been fetched already. */
  clustersOf(id: string | null): number | undefined {
    return id === null ? undefined : this.#known.get(id)?.manifest.clusters
  }

  /**
   * The assignment under the bundle `id`: one that was scored with another bundle gets its cluster from its
   * trajectory again, so that decisions do not depend on the bundle of the score role.
   */
  reassign(
    value: RecordedAssignment,
    id: string,
  ): RecordedAssignment | Promise<RecordedAssignment> {
    if (value.bundle === id) return value
    const bundle = this.#known.get(id)
    if (bundle === undefined) return this.get(id).then(() => this.reassign(value, id))
    if (value.cluster === 'text') return value.reassigned({ ...value, bundle: id })
    const { cluster, distance } = bundle.index.nearest(signatureOf(bundle.manifest)(value))
    return value.reassigned({ cluster, distance, bundle: id })
  }

  /**
   * What an online policy begins with. Members are those of the log's first bundle alone: a later one may be
   * fitted to the stream itself, whose examples would count twice.
   */
  async beginning(id: string, { isFirst }: { isFirst: boolean }) {
    const { manifest, members } = await this.get(id)
    const { clusters, baseline } = manifest
    return { clusters, textOnly: baseline.textOnly, members: isFirst ? members : undefined }
  }
}
