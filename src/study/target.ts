/** Targets: models trained on a subset, and how well they answer the held-out examples. */
import { createHash } from 'node:crypto'
import type { DecodeOptions } from '../ingest/form/decode.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { prepareTraining } from '../train/run.ts'
import type { Sample } from '../train/samples.ts'
import { configOf, type ParameterValues, type ProxyShape } from '../train/shape.ts'
import { evaluate, type TrainingOptions, trainProxy } from '../train/train.ts'
import { answersOf, type Labels, labelsOf, type Parts, type StudyData } from './data.ts'
import type { FamilyResult, Run } from './runs.ts'

/** All targets of a study train alike: the same steps on whichever subset. */
export type TargetOptions = Omit<TrainingOptions, 'seed'> & { shape: ProxyShape }

/** The examples of both parts that can be trained on, ready for training. */
export type Prepared = {
  config: ProxyConfig
  pool: { values: Uint8Array[]; labels: Labels[]; samples: Sample[] }
  heldOut: { labels: Labels[]; samples: Sample[]; isCommon: boolean[] }
}

/** Throws as `prepareTraining`. */
export async function prepareParts(
  parts: Parts,
  shape: ProxyShape,
  { imageRoot, form }: Pick<StudyData, 'imageRoot' | 'form'>,
): Promise<Prepared> {
  const config = configOf(shape)
  const of = async (values: readonly Uint8Array[]) => {
    const { samples, indices } = await prepareTraining(values, config, { imageRoot, form })
    const usable = indices.map(i => values[i]!)
    return { values: usable, labels: usable.map(value => labelsOf(value, form)), samples }
  }
  const [pool, heldOut] = [await of(parts.pool), await of(parts.heldOut)]
  const common = commonAnswers(pool, form)
  const isCommon = heldOut.values.map(
    (value, i) => common.get(heldOut.labels[i]!.source) === answersOf(value, form),
  )
  return { config, pool, heldOut: { labels: heldOut.labels, samples: heldOut.samples, isCommon } }
}

/** The most frequent answers of each family; of equally frequent ones the first. */
function commonAnswers(
  { values, labels }: Omit<Prepared['pool'], 'samples'>,
  form?: DecodeOptions,
): Map<string, string> {
  const counts = new Map<string, Map<string, number>>()
  for (const [i, value] of values.entries()) {
    const { source } = labels[i]!
    const answers = answersOf(value, form)
    const family = counts.get(source) ?? new Map<string, number>()
    counts.set(source, family.set(answers, (family.get(answers) ?? 0) + 1))
  }
  const most = (family: Map<string, number>): string =>
    [...family].reduce((best, one) => (one[1] > best[1] ? one : best))[0]
  return new Map([...counts].map(([source, family]) => [source, most(family)]))
}

/** Held-out examples of one forward pass. */
export const EVALUATED = 48

/** Trains a target on the examples `indices` of the pool, and lets it answer what is held out. */
export async function targetOn(
  { config, pool, heldOut }: Prepared,
  indices: readonly number[],
  options: TargetOptions & { seed: number; onStep: (step: number) => void },
): Promise<Run['families']> {
  let parameters: ReadonlyMap<string, ParameterValues> = new Map()
  const samples = indices.map(i => pool.samples[i]!)
  await trainProxy(samples, config, options, step => {
    parameters = step.parameters
    options.onStep(step.step)
  })
  const answered = await evaluate(heldOut.samples, config, parameters, EVALUATED)
  const families: Run['families'] = {}
  for (const [i, { source }] of heldOut.labels.entries()) {
    families[source] ??= { examples: 0, exact: 0, tokens: 0, loss: 0, common: 0 }
    const family = families[source]
    const { right, tokens, loss } = answered[i]!
    family.examples++
    family.exact += right === tokens ? 1 : 0
    family.tokens += right / tokens
    family.loss += loss
    family.common = (family.common ?? 0) + (heldOut.isCommon[i] ? 1 : 0)
  }
  return Object.fromEntries(Object.entries(families).map(([name, sums]) => [name, meanOf(sums)]))
}

function meanOf({ examples, exact, tokens, loss, common = 0 }: FamilyResult): FamilyResult {
  const mean = (sum: number): number => Number((sum / examples).toPrecision(6))
  const shares = { exact: mean(exact), tokens: mean(tokens), loss: mean(loss) }
  return { examples, ...shares, common: mean(common) }
}

/** What must be equal for runs to be compared. */
export function digestOf(settings: object): string {
  return createHash('sha256').update(JSON.stringify(settings)).digest('hex').slice(0, 12)
}
