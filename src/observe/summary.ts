/** What a run did, read from its own metrics. */
import type { Metrics } from './metrics.ts'

export type Summary = {
  v: 1
  examples: Record<string, number>
  deadLetters: Record<string, number>
  decisions: Record<string, number>
  subset: number
  history: number
}

/** Counts since the process started; `subset` and `history` are totals of the log. */
export async function summaryOf(metrics: Metrics): Promise<Summary> {
  return {
    v: 1,
    examples: await byLabel(metrics.examples, 'outcome'),
    deadLetters: await byLabel(metrics.deadLetters, 'code'),
    decisions: await byLabel(metrics.decisions, 'action'),
    subset: await single(metrics.subset),
    history: await single(metrics.history),
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

export function summaryText(summary: Summary): string {
  const list = (counts: Record<string, number>): string =>
    Object.entries(counts)
      .filter(([, count]) => count > 0)
      .map(
        ([name, count]) =>
          `${count} ${name === name.toLowerCase() ? name.replaceAll('_', ' ') : name}`,
      )
      .join(', ') || 'none'
  const share = summary.history === 0 ? 0 : (100 * summary.subset) / summary.history
  return [
    `examples      ${list(summary.examples)}`,
    `dead letters  ${list(summary.deadLetters)}`,
    `decisions     ${list(summary.decisions)}`,
    `subset        ${summary.subset} of ${summary.history} kept (${share.toFixed(1)}%)`,
    '',
  ].join('\n')
}
