/** What a run did, read from its own metrics. */

import type { Metrics } from './metrics.ts'
import { type Part, type Parts, partsText } from './parts.ts'

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

/** Counts since the process started; `subset` and `history` are totals of the log, of the policy and its baseline. */
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

/** Where the score role runs alone: what becomes of what it assigns, another process knows. */
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

type Readable = {
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

async function single(metric: Readable): Promise<number> {
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

export function summaryText(summary: ScoreSummary | Summary): string {
  const list = (counts: Record<string, number>): string =>
    Object.entries(counts)
      .filter(([, count]) => count > 0)
      .map(
        ([name, count]) =>
          `${count} ${name === name.toLowerCase() ? name.replaceAll('_', ' ') : name}`,
      )
      .join(', ') || 'none'
  return [
    `examples      ${list(summary.examples)}`,
    `dead letters  ${list(summary.deadLetters)}`,
    ...('parts' in summary
      ? [`decisions     ${list(summary.decisions)}`, `subset        ${partsText(summary.parts)}`]
      : []),
    '',
  ].join('\n')
}
