/**
 * May this bundle be used with this proxy, and on this log: what `run`, `bundle` and `replay` refuse and
 * `doctor` foretells. What is refused here throws BUNDLE_MISMATCH.
 */
import { type Bundle, similarityModelOf } from '../bundle/bundle.ts'
import {
  publishBundle,
  publishedIds,
  publishedScores,
  publishScores,
} from '../bundle/publication.ts'
import { rawSignature } from '../bundle/signature.ts'
import type { Config } from '../config.ts'
import { XmasdError } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { shellWord } from '../observe/text.ts'
import { readAssignment } from '../record.ts'
import { differenceOf, recordedIdentity } from '../score/identity.ts'
import type { ScoringPipeline } from '../score/pipeline.ts'
import { checkDraws, type Ranking, wantsGain } from '../select/rule/rank.ts'

/** A proxy's scores, and how its prompts are made. */
type Proxy = Pick<ScoringPipeline, 'scores' | 'prompt'>

/** A bundle's clusters are of the scores that it was fitted to: of one schedule, prepared in one way. */
export function checkBundleFits(
  { manifest }: Bundle,
  { scores, prompt }: Proxy,
  config: Config,
): void {
  const difference = differenceOf(recordedIdentity(manifest), recordedIdentity(scores))
  if (difference === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${config.bundle} does not fit ${config.proxy.path}: the bundle is for ${difference.one}, the proxy has ${difference.other}`,
    fixOf(difference.other, prompt),
  )
}

/** What to do where the proxy has `found` and its bundle another value of that field. */
function fixOf(found: string, { formerly }: Proxy['prompt']): string {
  if (found.startsWith('prompt') && formerly !== undefined) {
    return `set proxy.template: ${formerly} where the bundle was fitted to its prompts, or score and fit with this proxy again`
  }
  if (found === 'gain on') {
    return 'set proxy.gain: false; or score with --gain, fit that, and start new log.topics with the new bundle'
  }
  if (found === 'gain off') return 'set proxy.gain: true, as the bundle was fitted'
  return 'score and fit with this proxy and configuration, or point proxy.path and bundle at a pair that belongs together'
}

/**
 * Bundles of releases up to 0.1.0 record no prompt, tokenizer and image processor. The first proxy that
 * scores with such a bundle is recorded beside it on the log; every later one must be the same.
 * `readonly` only compares. Returns a warning where the scores of before are not known.
 */
export async function checkScoresContinue(
  log: Log,
  config: Config,
  { id, manifest }: Bundle,
  { scores, prompt }: Proxy,
  options: { readonly?: boolean } = {},
): Promise<string | undefined> {
  if (manifest.preparation !== undefined) return undefined
  const { bundles } = config.log.topics
  const recorded = await publishedScores(log, bundles, id)
  if (recorded !== undefined) {
    const found = differenceOf({ ...recorded.preparation }, recordedIdentity(scores))
    if (found === undefined) return undefined
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      `bundle ${id} has scored with ${found.one} on this log, the proxy has ${found.other}`,
      'restore the template and files of then, or start over with new log.topics',
    )
  }
  if (prompt.formerly !== undefined) {
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      `bundle ${id} does not record its prompt: earlier releases chose the template ${prompt.formerly}, now it is ${prompt.origin}`,
      `set proxy.template: ${prompt.formerly} to go on as before, or name the template that the bundle was fitted with`,
    )
  }
  if (options.readonly !== true && scores.preparation !== undefined) {
    await publishScores(log, bundles, id, { v: 1, preparation: scores.preparation })
  }
  return `bundle ${id} does not record its prompt, tokenizer and image processor: those of this proxy are taken for its own`
}

/** Clusters of other scores mean nothing to a log: they need topics of their own. */
export function checkSameScores(current: Bundle, next: Bundle): void {
  const [active, wanted] = [current, next].map(({ manifest }) => recordedIdentity(manifest))
  const difference = differenceOf(active!, wanted!)
  if (difference === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `bundle ${next.id} is for ${difference.other}, the active bundle ${current.id} for ${difference.one}`,
    'fit it to the assignments of this log (xmasd fit --assignments); a new schedule starts new topics',
  )
}

/** A bundle clusters by what the assignments of the log have from the first scored one on. */
export async function checkHasSignature(
  log: Log,
  config: Config,
  { id, manifest: { signature } }: Bundle,
): Promise<void> {
  const { assignments } = config.log.topics
  for await (const record of log.read(assignments)) {
    const value = readAssignment(record)
    if ('control' in value || value.trajectory === null) continue
    if (rawSignature(signature, value) !== undefined) return
    throw new XmasdError(
      'BUNDLE_MISMATCH',
      `bundle ${id} clusters by ${signature}, which assignments of this log lack, such as ${value.key}`,
      'fit another --signature; or score the history again into new log.topics: older releases do not record it',
    )
  }
}

/** Ranks and limits by image gain need scores that have it. */
export function checkGains({ id, manifest }: Bundle, select: Ranking): void {
  if (manifest.gain === true || !wantsGain(select)) return
  const asked =
    select.gainMin === undefined ? `select.rank is ${select.rank}` : 'select.gainMin is set'
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${asked}, but bundle ${id} is for scores without the image gain`,
    'score with --gain, fit that, and start new log.topics with proxy.gain: true; or leave out select.gainMin and set select.rank: instability',
  )
}

/** A baseline that counts is ranked as the stream is. */
function checkBaseline({ members }: Bundle, select: Config['select']): void {
  const { policy, baseline } = select
  if (members === undefined || policy === 'revisable' || baseline === 'ignore') return
  checkDraws(select, members.draw)
}

/** A swap must not let copies of evaluation data in that were kept out before. */
export function checkProtects(current: Bundle, next: Bundle): void {
  const keys = new Set(next.protectedSet.map(({ key }) => key))
  const lacking = current.protectedSet.filter(({ key }) => !keys.has(key))
  if (lacking.length === 0) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `bundle ${next.id} does not protect ${lacking.length} of the ${current.protectedSet.length} examples that the active bundle ${current.id} protects, such as ${lacking[0]!.key}`,
    'Fit it with the same --protect files; `xmasd fit --assignments` takes over what the active bundle protects.',
  )
}

/**
 * The configuration's bundle must be known to the log, and is put there: the first one begins it, every
 * later one comes by `xmasd bundle swap`. Which one is in force is the log's to say. `readonly` only looks.
 */
export async function checkBundleContinues(
  log: Log,
  config: Config,
  bundle: Bundle,
  options: { readonly?: boolean } = {},
): Promise<void> {
  const { assignments, bundles } = config.log.topics
  checkGains(bundle, config.select)
  checkBaseline(bundle, config.select)
  if ((await publishedIds(log, bundles)).has(bundle.id)) return
  const begun = await lastBundle(log, assignments)
  if (begun === undefined || begun === bundle.id) {
    if (config.select.nearDuplicates.enabled) similarityModelOf(bundle.manifest)
    if (options.readonly !== true) await publishBundle(log, bundles, bundle)
    return
  }
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${assignments} holds assignments of bundle ${begun}, ${config.bundle} is ${bundle.id}`,
    `put the old bundle back and swap: xmasd bundle swap --bundle ${shellWord(config.bundle)}; or start over in a new log.path, or with new log.topics and groups`,
  )
}

/** The bundle of the last assignment; undefined where there is none. */
async function lastBundle(log: Log, topic: string): Promise<string | undefined> {
  const [end = 0] = await log.ends(topic)
  for (let offset = end - 1; offset >= 0; offset--) {
    const record = await log.get(topic, 0, offset)
    if (record === undefined || record.value === null) continue
    const value = readAssignment(record)
    if (!('control' in value)) return value.bundle
  }
  return undefined
}
