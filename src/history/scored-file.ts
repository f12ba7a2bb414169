/**
 * Scored examples of a file, as assignments: what `score` has written counts in the subset without being
 * scored again. An example whose key the log holds already is left out, so that a file may be appended
 * again after it broke off.
 */
import type { Bundle } from '../bundle/bundle.ts'
import { contentOfKey } from '../bundle/protected.ts'
import { recordedPreparation } from '../bundle/publication.ts'
import { rawSignature, signatureOf } from '../bundle/signature.ts'
import { invalidLine, linesOf, readLine, readTrajectoriesMeta } from '../cluster/trajectories.ts'
import type { Config } from '../config.ts'
import { messageOf, XmasdError } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { type Assignment, FILE_SOURCE, keyOf } from '../record.ts'
import { differenceOf, recordedIdentity } from '../score/identity.ts'
import { instabilityOf } from '../score/metric.ts'
import { assignmentsOf } from './assignments.ts'

/**
 * Refuses a file whose scores are not those that the bundle was fitted to. Throws DATA_INVALID
 * where the file does not say what it was scored with; BUNDLE_MISMATCH.
 */
export async function checkScoredFile(
  log: Log,
  config: Config,
  file: string,
  bundle: Bundle,
): Promise<void> {
  const meta = await readTrajectoriesMeta(file)
  if (meta === undefined || meta.schedule.fingerprint === null) {
    const what = meta === undefined ? `${file}.meta.json is missing` : 'its scores are not of xmasd'
    throw new XmasdError(
      'DATA_INVALID',
      `it is not known what ${file} was scored with: ${what}`,
      'score the examples with the proxy of this log: xmasd score',
    )
  }
  const recorded = await recordedPreparation(log, config.log.topics.bundles, bundle)
  const wanted = { ...recordedIdentity(bundle.manifest), ...recorded }
  const difference = differenceOf(wanted, recordedIdentity(meta))
  if (difference === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${file} does not fit ${config.bundle}: the bundle is for ${difference.one}, the file has ${difference.other}`,
    'score the examples again with the proxy and the settings of this log',
  )
}

/**
 * The examples of `file` under `bundle`: in the order of the file, then the text-only ones by ascending
 * id, as the batch rule takes them, then those whose content an earlier line has. Lines with an error are
 * passed over, and told to `onFailed`. Throws FILE_UNREADABLE; DATA_INVALID, naming the line, where
 * one was not written by `score`.
 */
export async function* scoredExamples(
  file: string,
  bundle: Bundle,
  onFailed: () => void = () => {},
): AsyncGenerator<Assignment> {
  const toAssignment = assigner(file, bundle)
  const isOfBaseline = baselineMatcher(bundle)
  const seen = new Set<string>()
  const duplicates: Assignment[] = []
  const texts: { id: Buffer; assignment: Assignment }[] = []
  let line = 0
  for await (const text of linesOf(file)) {
    line++
    if (text.trim() === '') continue
    const assignment = asInvalid(`${file}, line ${line}`, () => toAssignment(text))
    if (assignment === undefined) {
      onFailed()
      continue
    }
    const content = contentOfKey(assignment.key)!
    const isKnown = seen.has(content)
    seen.add(content)
    if (isKnown) {
      duplicates.push(assignment)
      continue
    }
    if (isOfBaseline(assignment.instability)) assignment.baseline = true
    if (assignment.cluster !== 'text') yield assignment
    else texts.push({ id: Buffer.from(assignment.id), assignment })
  }
  texts.sort((a, b) => Buffer.compare(a.id, b.id))
  for (const { assignment } of texts) yield assignment
  yield* duplicates
}

function asInvalid<T>(where: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw invalidLine(`${where}: ${messageOf(error)}`)
  }
}

function assigner(file: string, bundle: Bundle): (line: string) => Assignment | undefined {
  const { manifest, index, id: bundleId } = bundle
  const topic = `${FILE_SOURCE}${file.split('/').at(-1)}`
  const signature = signatureOf(manifest)
  let offset = -1
  return text => {
    offset++
    const line = readLine(text)
    if (line === undefined) return undefined
    const { trajectory = null, singularValues = null } = line
    const { words = undefined, layout = null, embedding = null, question } = line
    const { size, gain, gains } = line
    const id = String(line.id)
    const { key, content } = identityOf(id, line)
    if (trajectory !== null && trajectory.length !== manifest.schedule.T) {
      throw new Error(`${trajectory.length} scores where the bundle has ${manifest.schedule.T}`)
    }
    const example = { trajectory, singularValues, embedding, question }
    if (trajectory !== null && rawSignature(manifest.signature, example) === undefined) {
      throw new Error(`it lacks the values of signature ${manifest.signature}`)
    }
    const found = trajectory === null ? undefined : index.nearest(signature(example))
    const instability = trajectory && (line.instability ?? instabilityOf(trajectory))
    return {
      v: 1,
      key,
      id,
      cluster: found?.cluster ?? 'text',
      singularValues,
      trajectory,
      instability,
      distance: found?.distance ?? null,
      content,
      bundle: bundleId,
      source: { topic, partition: 0, offset },
      ...(words == null ? {} : { words, layout, embedding }),
      ...(question === undefined ? {} : { question }),
      ...(size === undefined ? {} : { size }),
      ...(gain === undefined ? {} : { gain }),
      ...(gains === undefined ? {} : { gains }),
    }
  }
}

/** Files of earlier releases have no `content`; the key has as much of it as identity needs. */
function identityOf(
  id: string,
  { key, content }: { key?: string | null | undefined; content?: string | null | undefined },
): { key: string; content: string } {
  const hash = content ?? key?.slice(id.length + 1)
  if (hash != null && /^[0-9a-f]{16,64}$/.test(hash) && key === keyOf(id, hash)) {
    return { key, content: hash }
  }
  throw new Error(`the key "${key ?? ''}" is not the id "${id}" + @ + 16 hex digits of the content`)
}

/** Whether the bundle's members hold an example of this instability that was not asked for yet. */
function baselineMatcher({ manifest, members }: Bundle): (instability: number | null) => boolean {
  const left = new Map<number | null, number>([[null, manifest.baseline.textOnly]])
  for (const value of members?.instability ?? []) left.set(value, (left.get(value) ?? 0) + 1)
  return instability => {
    const value = instability && Math.fround(instability)
    const count = members === undefined ? 0 : (left.get(value) ?? 0)
    if (count > 0) left.set(value, count - 1)
    return count > 0
  }
}

/** Removes from `keys` those that `assignments` holds. */
export async function removeAssigned(log: Log, config: Config, keys: Set<string>): Promise<void> {
  for await (const { assignment } of assignmentsOf(log, config)) keys.delete(assignment.key)
}
