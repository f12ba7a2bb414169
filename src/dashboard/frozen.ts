/**
 * The report: the page of the dashboard with its data in one file, as it was at one moment. It makes no
 * request and runs no script but its own.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import type { ExampleSource } from '../ingest/prepare.ts'
import type { Log } from '../log/log.ts'
import { printableJson } from '../observe/text.ts'
import { packageRoot, version } from '../version.ts'
import { Answers } from './answers.ts'
import { Landscape } from './landscape.ts'
import type { Model } from './model.ts'
import { Records } from './records.ts'
import { chartsOf, countsOf, endsOf, readWhole } from './report.ts'
import type { ExampleDocument, Frozen, HeldRow, ReportCounts } from './schemas.ts'

/** Examples that a report holds with their conversation and picture. */
const EXAMPLES_MAX = 600
const A_CLUSTER_MIN = 6
const DUPLICATES_A_CLUSTER = 4
const FAR_MAX = 24
const PICTURE_SIDE = 160

/** All that the page of a report shows. Throws LOG_UNAVAILABLE. */
export async function freeze(log: Log, config: Config, source: ExampleSource): Promise<Frozen> {
  const model = await readWhole(log, config)
  const records = new Records(log, config.log.topics.examples, source, model)
  const answers = new Answers(log, config, model, records)
  const landscape = new Landscape(model, answers)
  const counts = countsOf(model, config)
  const drift = await landscape.drift()
  const far = drift.far.slice(0, FAR_MAX)
  const held = heldOf(
    model,
    far.map(({ key }) => model.columns.rowOf(key)),
  )
  const clusters = answers.clusters()
  const shown = new Set(held.map(({ row }) => model.columns.keys[row]))
  return {
    v: 1,
    version: version(),
    at: Date.now(),
    says: saysOf(counts),
    counts,
    charts: await chartsOf(model, log, config),
    clusters: {
      ...clusters,
      clusters: clusters.clusters.map(one => ({ ...one, cover: coverOf(model, one, shown) })),
    },
    galleries: await galleriesOf(answers, clusters.clusters),
    map: landscape.map(-1),
    drift: { ...drift, far },
    shadow: await landscape.shadow(),
    deadLetters: await answers.deadLetters(null, Number.MAX_SAFE_INTEGER),
    ...(await examplesOf(answers, records, held)),
  }
}

function saysOf({ examples, waiting }: ReportCounts): string | null {
  if (examples > 0) return null
  return waiting > 0 ? 'Nothing has been decided yet.' : 'No example has been assigned yet.'
}

type Held = { row: number; rank: number | null }

/** Of each cluster, the largest first: both ends of kept and dropped, and some duplicates. */
function heldOf(model: Model, far: readonly number[]): Held[] {
  const clusters = model.clusters()
  const share = Math.max(A_CLUSTER_MIN, Math.floor(EXAMPLES_MAX / Math.max(1, clusters.length)))
  const held = new Map<number, Held>()
  for (const { cluster } of clusters) {
    const { rows, counted } = model.ranked(cluster)
    const ends = endsOf(model, cluster, Math.ceil(share / 2))
    const copies = rows.slice(counted, counted + DUPLICATES_A_CLUSTER)
    const wanted = new Set([...ends.kept, ...ends.dropped, ...copies])
    if (held.size + wanted.size > EXAMPLES_MAX) break
    rows.forEach((row, rank) => {
      if (wanted.has(row)) held.set(row, { row, rank })
    })
  }
  for (const row of far) if (!held.has(row)) held.set(row, { row, rank: null })
  return [...held.values()]
}

type Tile = Frozen['clusters']['clusters'][number]

/** The key of an example whose picture the report holds. */
function coverOf(model: Model, { cluster }: Tile, shown: ReadonlySet<unknown>): string | null {
  const { rows } = model.ranked(cluster)
  const row = rows.find(one => shown.has(model.columns.keys[one]))
  return row === undefined ? null : model.columns.keys[row]!
}

async function galleriesOf(answers: Answers, tiles: readonly Tile[]): Promise<Frozen['galleries']> {
  const galleries: Frozen['galleries'] = {}
  for (const { cluster } of tiles) {
    const { rows, from, ...gallery } = await answers.gallery(cluster, 0, 0)
    galleries[cluster] = gallery
  }
  return galleries
}

async function examplesOf(
  answers: Answers,
  records: Records,
  held: readonly Held[],
): Promise<Pick<Frozen, 'rows' | 'examples' | 'bands' | 'pictures'>> {
  const rows: HeldRow[] = []
  const examples: Frozen['examples'] = {}
  const bands: Frozen['bands'] = {}
  const pictures: Frozen['pictures'] = {}
  for (const { row, rank } of held) {
    const example = await answers.row(row)
    rows.push({ ...example, row, rank })
    const { band, ...document } = (await answers.example(example.key)) as ExampleDocument
    examples[example.key] = document
    bands[example.cluster] = band
    const picture = example.images === 0 ? undefined : await pictureOf(records, row)
    if (picture !== undefined) pictures[example.key] = picture
  }
  return { rows, examples, bands, pictures }
}

/** Undefined where it cannot be fetched or decoded. */
async function pictureOf(records: Records, row: number): Promise<string | undefined> {
  const bytes = await records.picture(row, 0, PICTURE_SIDE).catch(() => undefined)
  return bytes && `data:image/webp;base64,${bytes.toString('base64')}`
}

/** One HTML file: style, script and data are within it, and its policy allows these alone. */
export function reportPage(frozen: Frozen): string {
  const [style, script] = ['page.css', 'page.js'].map(name =>
    readFileSync(join(packageRoot(), 'dist/dashboard/page', name), 'utf8'),
  ) as [string, string]
  const policy =
    `default-src 'none'; script-src ${hashOf(script)}; style-src ${hashOf(style)}; ` +
    "img-src data:; base-uri 'none'; form-action 'none'"
  return [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    `<meta http-equiv="Content-Security-Policy" content="${policy}">`,
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    `<title>xmasd report</title><style>${style}</style></head>`,
    `<body><div id="app"><main><h1>xmasd report</h1><p>${plainText(frozen)}</p></main></div>`,
    '<noscript>The rest of the report needs JavaScript.</noscript>',
    `<script type="application/json" id="frozen">${embedded(frozen)}</script>`,
    `<script type="module">${script}</script></body></html>\n`,
  ].join('\n')
}

/** For readers without JavaScript. */
function plainText({ counts, says, at }: Frozen): string {
  const { kept, examples, budget, clusters } = counts
  const what =
    says ??
    `${kept} of ${examples} examples in ${clusters.length} clusters are kept; the budget is ${budget}.`
  return `${new Date(at).toISOString()}: ${what}`
}

function hashOf(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`
}

/** JSON that ends no script element and holds no character that acts. */
function embedded(value: unknown): string {
  return printableJson(JSON.stringify(value)).replaceAll('<', '\\u003c')
}
