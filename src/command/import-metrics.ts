/** `import-metrics`: per-checkpoint files of the published code -> a file of trajectories. */
import { writeFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import {
  isTextOnly,
  type MetricFiles,
  type Named,
  namesOf,
  readMetricFiles,
  readStability,
  uniqueIds,
} from '../cluster/interchange.ts'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data/read.ts'
import { VALUES } from '../math/singular-values.ts'
import { shellWord } from '../observe/text.ts'
import { instabilityOf, METRICS, type Metric } from '../score/metric.ts'
import { print } from './helpers/options.ts'
import { writeJsonLines } from './helpers/output.ts'

type Options = {
  metrics: string
  metric?: Metric
  data?: string
  stability?: string
  out: string
  json?: boolean
}

export function command(): Command {
  return new Command('import-metrics')
    .description('Make trajectories from the per-checkpoint metric files of the published code.')
    .requiredOption(
      '--metrics <dir>',
      'folder of checkpoint-N_attn_svd_….json or checkpoint-N_loss.json',
    )
    .requiredOption('--out <file>', 'JSON lines to write, as `xmasd score` does')
    .addOption(new Option('--metric <metric>', 'where the folder holds both').choices(METRICS))
    .option(
      '--data <file>',
      'the LLaVA file that was scored: one line an example, in its order. Without it, where some ' +
        'ids have a ::, those without are text-only',
    )
    .option('--stability <file>', '…_stability_vals_….json: instabilities as computed')
    .option('--json', 'one JSON document on stdout')
    .action(importMetrics)
}

type Line = {
  id: string
  key: string
  trajectory: number[] | null
  instability: number | null
  singularValues: number[][] | null
  error?: object
}

async function importMetrics(options: Options): Promise<void> {
  const files = readMetricFiles(options.metrics, options.metric)
  const stability = options.stability === undefined ? undefined : readStability(options.stability)
  const rows = new Map(files.ids.map((id, row) => [id, row]))
  const examples = options.data === undefined ? named(files) : await readNamed(options.data, rows)
  const lines = examples.map(example => lineOf(files, rows, stability, example))
  await writeJsonLines(
    options.out,
    lines.map(line => JSON.stringify(line)),
  )
  const { metric, steps } = files
  const mode = metric === 'attention' ? 'reference' : null
  const meta = { v: 1, schedule: { fingerprint: null, steps }, mode, metric }
  writeFileSync(`${options.out}.meta.json`, `${JSON.stringify(meta)}\n`)
  report(options, files, lines)
}

type Example = { id: string; key: string; isTextOnly: boolean }

/** Without the data file only unique ids are known. */
function named({ ids }: MetricFiles): Example[] {
  const tells = ids.some(id => id.includes('::'))
  return ids.map(id => ({ id, key: id, isTextOnly: tells && !id.includes('::') }))
}

/** Throws DATA_INVALID where the data lack an id of the metrics: they are of other data. */
async function readNamed(file: string, rows: ReadonlyMap<string, number>): Promise<Example[]> {
  const examples: Named[] = []
  for await (const bytes of readExamples(file)) examples.push(namesOf(bytes))
  const keys = uniqueIds(examples)
  const known = new Set(keys)
  const stray = [...rows.keys()].find(id => !known.has(id))
  if (stray !== undefined) {
    throw new XmasdError(
      'DATA_INVALID',
      `${file} has no example of the unique id ${stray}`,
      'give the file that these metrics were computed on; ids are `unique_idx`, else id::image',
    )
  }
  return examples.map((example, i) => {
    return { id: String(example.id), key: keys[i]!, isTextOnly: isTextOnly(example) }
  })
}

function lineOf(
  { scores, singularValues }: MetricFiles,
  rows: ReadonlyMap<string, number>,
  stability: ReadonlyMap<string, number> | undefined,
  { id, key, isTextOnly }: Example,
): Line {
  const none = { trajectory: null, instability: null, singularValues: null }
  if (isTextOnly) return { id, key, ...none }
  const row = rows.get(key)
  if (row === undefined) return failed({ id, key, ...none }, 'no metric was computed for it')
  const trajectory = scores.map(values => values[row]!)
  const instability = stability?.get(key) ?? instabilityOf(trajectory)
  if (![...trajectory, instability].every(Number.isFinite)) {
    return failed({ id, key, ...none }, 'a metric that is not finite')
  }
  const spectrum = singularValues?.map(values => [
    ...values.subarray(row * VALUES, (row + 1) * VALUES),
  ])
  return { id, key, trajectory, instability, singularValues: spectrum ?? null }
}

function failed(line: Line, message: string): Line {
  const hint = 'score this example again'
  return { ...line, error: { code: 'SCORE_NOT_FINITE', message, hint } }
}

function report(options: Options, { metric, steps }: MetricFiles, lines: readonly Line[]): void {
  const failed = lines.filter(line => line.error !== undefined).length
  const scored = lines.filter(line => line.trajectory !== null).length
  const textOnly = lines.length - scored - failed
  const { out } = options
  print(options, { metric, checkpoints: steps, scored, textOnly, failed, out }, [
    `${scored} trajectories over ${steps.length} checkpoints (${metric}), ${textOnly} text-only, ${failed} failed`,
    `written to ${out}`,
    `next: xmasd fit --trajectories ${shellWord(out)} --out bundle`,
  ])
}
