/** The segments of a history and its subset, and what a run did. */
import type { Metrics } from './metrics.ts'

export type Part = { examples: number; kept: number }

/**
 * The policy decides `stream` and `baseline`: N counts both. The topic `subset` holds what is kept of
 * `stream` and `control`.
 */
export type Parts = {
  /** Examples that arrived and that the policy decides. */
  stream: Part
  /** The bundle's own data, where final decisions continue from it. */
  baseline: Part
  /** The random holdout: examples that arrived and are decided at random, for comparison. */
  control: Part
}

export const PARTS = ['stream', 'baseline', 'control'] as const satisfies (keyof Parts)[]

/** Stream and baseline together. */
export function policyPart({ stream, baseline }: Parts): Part {
  return {
    examples: stream.examples + baseline.examples,
    kept: stream.kept + baseline.kept,
  }
}

/** In words, with the kept share and `more` in brackets. */
export function partsText(parts: Parts, more = ''): string {
  const { stream, baseline, control } = parts
  const { examples, kept } = policyPart(parts)
  const share = examples === 0 ? 0 : (100 * kept) / examples
  const all =
    baseline.examples === 0
      ? `${kept} of ${examples} examples kept`
      : `${stream.kept} of ${stream.examples} of the stream kept, with the baseline ${kept} of ${examples}`
  const holdout =
    control.examples === 0 ? '' : `; random holdout: ${control.kept} of ${control.examples}`
  return `${all} (${share.toFixed(1)} %${more})${holdout}`
}

/* What a run did, from its own metrics. */

export type ScoreSummary = {
  v: 1
  examples: Record<string, number>
  deadLetters: Record<string, number>
}

export type Summary = ScoreSummary & {
  decisions: Record<string, number>
  subset: number
  history: number
  parts: Parts
}

/** Counts since the process started; `subset` and `history` are totals of the log, baseline included. */
export async function summaryOf(metrics: Metrics): Promise<Summary> {
  return {
    v: 1,
    examples: await byLabel(metrics.examples, 'outcome'),
    deadLetters: await byLabel(metrics.deadLetters, 'code'),
    decisions: await byLabel(metrics.decisions, 'action'),
    subset: await single(metrics.subset),
    history: await single(metrics.history),
    parts: await partsOf(metrics),
  }
}

/** Of a score role alone: another process decides what it assigns. */
export async function scoreSummaryOf(metrics: Metrics): Promise<ScoreSummary> {
  const { dead_letter = 0 } = await byLabel(metrics.examples, 'outcome')
  const { values } = await metrics.batchExamples.get()
  const scored = values.find(({ metricName }) => metricName?.endsWith('_sum'))?.value ?? 0
  return {
    v: 1,
    examples: { assigned: scored - dead_letter, dead_letter },
    deadLetters: await byLabel(metrics.deadLetters, 'code'),
  }
}

export type Readable = {
  get(): Promise<{ values: { labels: Partial<Record<string, string | number>>; value: number }[] }>
}

async function byLabel(metric: Readable, label: string): Promise<Record<string, number>> {
  const sums: Record<string, number> = {}
  for (const { labels, value } of (await metric.get()).values) {
    const name = String(labels[label])
    sums[name] = (sums[name] ?? 0) + value
  }
  return sums
}

/** The value of a gauge that has no labels. */
export async function single(metric: Readable): Promise<number> {
  return (await metric.get()).values[0]?.value ?? 0
}

async function partsOf({ parts }: Metrics): Promise<Parts> {
  const { values } = await parts.get()
  const count = (part: keyof Parts, state: string): number =>
    values.find(({ labels }) => labels.part === part && labels.state === state)?.value ?? 0
  const of = (part: keyof Parts): Part => {
    const kept = count(part, 'kept')
    return { examples: kept + count(part, 'not_kept'), kept }
  }
  return { stream: of('stream'), baseline: of('baseline'), control: of('control') }
}

export function summaryLines(summary: ScoreSummary | Summary): string[] {
  const { examples, deadLetters } = summary
  const lines = [
    `examples      ${listOf(examples, 'none')}`,
    `dead letters  ${listOf(deadLetters, 'none')}`,
  ]
  if (!('parts' in summary)) return lines
  const decisions = listOf(summary.decisions, 'none')
  return [...lines, `decisions     ${decisions}`, `subset        ${partsText(summary.parts)}`]
}

/** The same as one sentence. */
export function summaryText(summary: ScoreSummary | Summary): string {
  const subset = 'parts' in summary ? `; ${partsText(summary.parts)}` : ''
  return `${listOf(summary.examples, 'no examples')}${subset}`
}

function listOf(counts: Record<string, number>, none: string): string {
  const items = Object.entries(counts).filter(([, count]) => count > 0)
  return items.map(([name, count]) => `${count} ${inWords(name)}`).join(', ') || none
}

/** Outcomes and actions in words; error codes as they are. */
function inWords(name: string): string {
  return name === name.toLowerCase() ? name.replaceAll('_', ' ') : name
}
