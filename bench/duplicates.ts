/**
 * Near-duplicates: recall and precision on a labelled stream, and the cost of a look-up among a million
 * exemplars.
 *
 *   npm run bench:duplicates -- [--data DIR] [--proxy DIR] [--train N] [--originals N] [--exemplars N]
 *     [--protected N [--leaks]] [--seed N] [--keep DIR]
 *
 * `DIR` has data.jsonl and images (NLVR, Suhr et al. 2017); the default is the demo's pictures and its
 * proxy. A proxy is trained on the first N examples, which the radii are learned from too. The rest is
 * the stream (`duplicates-stream.ts`), scored by the built command and folded as the select role does.
 * A second stream holds changes that no rule was written for (`duplicates-held-out.ts`).
 *
 * The last line is one JSON object: `recall` and `precision` over the stream; recall by what was
 * changed; each kind's share that was taken for a duplicate; the same for the held-out stream; the
 * costs of an index of N exemplars. `leaks`: the first `--protected` originals as a benchmark that leaks
 * (`duplicates-protected.ts`); `--leaks` measures nothing else. `byWords` and `byState` use one way alone.
 * `amongStrangers` is the
 * stream after N unrelated exemplars that ask the same questions about other pictures.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { openBundle } from '../src/bundle/bundle.ts'
import type { SimilarityModel } from '../src/bundle/similarity.ts'
import { demoExamples } from '../src/demo/stream.ts'
import { seededRandom } from '../src/math/random.ts'
import { NearDuplicates } from '../src/select/dedup/near-duplicates.ts'
import type { FoldedAssignment } from '../src/select/fold.ts'
import { SelectState } from '../src/select/state.ts'
import { MemoryState } from '../test/select/stream.ts'
import { ROOT } from '../test/support.ts'
import { HELD_OUT_DUPLICATES, heldOutLookalikes } from './duplicates-held-out.ts'
import { fillIndex, identify } from './duplicates-index.ts'
import { type Leaks, leakingStream, measureLeaks } from './duplicates-protected.ts'
import {
  type Changes,
  DUPLICATES,
  type Labelled,
  labelledStream,
  lookalikes,
  type Original,
  type Turn,
} from './duplicates-stream.ts'

const { values: options } = parseArgs({
  options: {
    data: { type: 'string', default: resolve(ROOT, '../shared/data/nlvr') },
    proxy: { type: 'string' },
    train: { type: 'string', default: '700' },
    originals: { type: 'string', default: '100000' },
    exemplars: { type: 'string', default: '1000000' },
    protected: { type: 'string', default: '1000' },
    leaks: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' },
    keep: { type: 'string' },
  },
})
/** The most originals between an original and its variant. */
const LAG = 200

const folder = options.keep ?? mkdtempSync(join(tmpdir(), 'xmasd-duplicates-'))
const at = (name: string): string => join(folder, name)

function xmasd(...args: string[]): void {
  process.stderr.write(`\n$ xmasd ${args.join(' ')}\n`)
  const { status, signal } = spawnSync(process.execPath, [join(ROOT, 'dist/main.js'), ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  if (status !== 0) throw new Error(`xmasd ${args[0]} ended with ${status ?? signal}`)
}

function writeExamples(name: string, examples: readonly object[]): void {
  writeFileSync(at(name), examples.map(example => `${JSON.stringify(example)}\n`).join(''))
}

type Data = { proxy: string; history: string; images: string; originals: Original[] }

/** The first examples are the history that radii are learned from; the others are originals of the stream. */
async function readData(): Promise<Data> {
  const count = Number(options.train)
  const most = Number(options.originals)
  if (!existsSync(join(options.data, 'data.jsonl'))) return demoData(count, Math.min(most, 500))
  const lines = readFileSync(join(options.data, 'data.jsonl'), 'utf8').trimEnd().split('\n')
  writeFileSync(at('history.jsonl'), `${lines.slice(0, count).join('\n')}\n`)
  const originals = lines.slice(count, count + most).map(line => {
    const { id, image, conversations } = JSON.parse(line)
    return { id, image: readFileSync(join(options.data, image)), conversations }
  })
  const data = { history: at('history.jsonl'), images: options.data, originals }
  if (options.proxy !== undefined) return { ...data, proxy: options.proxy }
  const trained = ['--data', data.history, '--images', data.images, '--out', at('proxy')]
  if (!existsSync(at('proxy'))) xmasd('train', ...trained)
  return { ...data, proxy: at('proxy') }
}

type DemoExample = { id: string; image?: string; conversations: Turn[] }

async function demoData(count: number, most: number): Promise<Data> {
  const examples = (await demoExamples(11, count + most)) as DemoExample[]
  writeExamples('history.jsonl', examples.slice(0, count))
  const originals = examples.slice(count).flatMap(({ id, image, conversations }) => {
    if (image === undefined) return []
    const bytes = Buffer.from(image.slice(image.indexOf(',') + 1), 'base64')
    return [{ id, image: bytes, conversations }]
  })
  const proxy = options.proxy ?? join(ROOT, 'config/demo/proxy')
  return { proxy, history: at('history.jsonl'), images: folder, originals }
}

function score({ proxy, images }: Data, data: string, out: string): FoldedAssignment[] {
  xmasd('score', '--proxy', proxy, '--images', images, '--data', data, '--out', out)
  const lines = readFileSync(out, 'utf8').trimEnd().split('\n')
  return lines.map(line => {
    const scored = JSON.parse(line)
    const content = (scored.key as string).slice(-16)
    const cluster = scored.trajectory === null ? 'text' : 0
    return { ...scored, content, cluster, bundle: 'bench', distance: 0 }
  })
}

type Verdict = { example: Labelled; isDropped: boolean; isTaken: boolean }

/** The select role's decision. `isTaken`: as a duplicate of its own original, or of a variant of that. */
function judge(
  stream: readonly Labelled[],
  scored: FoldedAssignment[],
  model: SimilarityModel,
): Verdict[] {
  const state = new SelectState(new MemoryState(), {
    policy: 'revisable',
    percent: 20,
    settleEvery: 1,
  })
  const near = new NearDuplicates({ exemplarsMax: 1_000_000 })
  near.learn(model)
  const originalOf = new Map<string, string>()
  return stream.map((example, offset) => {
    const record = scored[offset]!
    const { decisions } = state.fold(record, offset, { findNear: near.identify })
    originalOf.set(record.key, example.of)
    const decision = decisions.find(({ duplicateOf }) => duplicateOf !== undefined)
    const isTaken = decision !== undefined && originalOf.get(decision.duplicateOf!) === example.of
    return { example, isDropped: decision !== undefined, isTaken }
  })
}

/** The same with an index that holds exemplars; exact duplicates are found first, as in the fold. */
function judgeAmong(
  near: NearDuplicates,
  stream: readonly Labelled[],
  scored: readonly FoldedAssignment[],
): Verdict[] {
  const contents = new Map<string, number>()
  return stream.map((example, sequence) => {
    const record = scored[sequence]!
    const owner = contents.get(record.content) ?? identify(near, record, sequence)?.sequence
    if (owner === undefined) contents.set(record.content, sequence)
    const isTaken = owner !== undefined && stream[owner]?.of === example.of
    return { example, isDropped: owner !== undefined, isTaken }
  })
}

type Kind = { examples: number; taken: number; wrongly: number }

/** By kind: how many were taken for a duplicate, and how many for one of another original. */
function byKind(verdicts: readonly Verdict[]): Map<string, Kind> {
  const kinds = new Map<string, Kind>()
  for (const { example, isDropped, isTaken } of verdicts) {
    const kind = kinds.get(example.kind) ?? { examples: 0, taken: 0, wrongly: 0 }
    kind.examples++
    if (isTaken) kind.taken++
    else if (isDropped) kind.wrongly++
    kinds.set(example.kind, kind)
  }
  return kinds
}

type Summary = { recall: number; precision: number }

function summary(verdicts: readonly Verdict[]): Summary {
  const dropped = verdicts.filter(({ isDropped }) => isDropped).length
  const found = verdicts.filter(({ isTaken, example }) => isTaken && example.isDuplicate).length
  return { recall: recallOf(verdicts), precision: found / dropped }
}

function recallOf(verdicts: readonly Verdict[]): number {
  const duplicates = verdicts.filter(({ example }) => example.isDuplicate)
  return duplicates.filter(({ isTaken }) => isTaken).length / duplicates.length
}

type Measured = Summary & {
  /** By what was changed. */
  recallOf: Record<string, number>
  /** Either way alone. */
  byWords: Summary
  byState: Summary
  kinds: Record<string, Kind>
}

type StreamChanges = { duplicates: Readonly<Record<string, Changes>>; lookalikes: Changes }

/** One stream: made, scored and folded alone; `scored` is what the daemon sees of it. */
async function measureStream(
  name: string,
  data: Data,
  { duplicates, lookalikes }: StreamChanges,
  model: SimilarityModel,
): Promise<{ measured: Measured; stream: Labelled[]; scored: FoldedAssignment[] }> {
  const all = { duplicates: Object.assign({}, ...Object.values(duplicates)), lookalikes }
  const random = seededRandom(Number(options.seed))
  const stream = await labelledStream(data.originals, all, { random, lag: LAG })
  writeExamples(
    `${name}.jsonl`,
    stream.map(({ id, image, conversations }) => ({ id, image, conversations })),
  )
  const scored = score(data, at(`${name}.jsonl`), at(`${name}.trajectories.jsonl`))
  const verdicts = judge(stream, scored, model)
  const wordless = scored.map((one, i) => ({ ...one, words: i.toString(16).padStart(16, '0') }))
  const kinds = byKind(verdicts)
  const groups = Object.entries(duplicates).map(([group, changes]) => {
    const ofGroup = verdicts.filter(({ example }) => example.kind in changes)
    return [group, recallOf(ofGroup)] as const
  })
  const measured = {
    ...summary(verdicts),
    recallOf: Object.fromEntries(groups),
    byWords: summary(judge(stream, scored, { ...model, stateRadius: 0 })),
    byState: summary(judge(stream, wordless, model)),
    kinds: Object.fromEntries(kinds),
  }
  describe(name, Object.keys({ ...all.duplicates, original: 0, ...lookalikes }), kinds)
  return { measured, stream, scored }
}

function describe(name: string, order: string[], kinds: ReadonlyMap<string, Kind>): void {
  console.log(`${name.padEnd(24)}examples  taken  for another`)
  for (const kind of order) {
    const { examples, taken, wrongly } = kinds.get(kind) ?? { examples: 0, taken: 0, wrongly: 0 }
    const share = examples === 0 ? '-' : (taken / examples).toFixed(3)
    const counts = `${String(examples).padStart(8)}${share.padStart(7)}${String(wrongly).padStart(6)}`
    console.log(kind.padEnd(24) + counts)
  }
}

/** Protects the first originals with a bundle of the same history, and lets them leak. */
async function measureProtected(data: Data, fitted: readonly string[]): Promise<Leaks> {
  const count = Number(options.protected)
  const questions = data.originals.slice(0, count)
  writeExamples('benchmark.jsonl', questions.map(exampleOf))
  score(data, at('benchmark.jsonl'), at('benchmark.trajectories.jsonl'))
  const protect = ['--protect', at('benchmark.trajectories.jsonl')]
  xmasd('fit', ...fitted, ...protect, '--out', at('protecting'))
  const others = data.originals.slice(count)
  const changes = lookalikes(data.originals)
  const stream = await leakingStream(questions, others, changes, Number(options.seed))
  writeExamples(
    'leaks.jsonl',
    stream.map(({ id, image, conversations }) => ({ id, image, conversations })),
  )
  const scored = score(data, at('leaks.jsonl'), at('leaks.trajectories.jsonl'))
  const leaks = measureLeaks(questions.length, stream, scored, await openBundle(at('protecting')))
  console.log(`leaks of ${leaks.questions} questions   recall ${leaks.recall.toFixed(4)}`)
  return leaks
}

function exampleOf({ id, image, conversations }: Original): object {
  return { id, image: `data:image/png;base64,${image.toString('base64')}`, conversations }
}

async function main(): Promise<void> {
  const data = await readData()
  score(data, data.history, at('history.trajectories.jsonl'))
  const fitted = ['--trajectories', at('history.trajectories.jsonl'), '--clusters', '40', '--force']
  xmasd('fit', ...fitted, '--out', at('bundle'))
  if (options.leaks) {
    console.log(JSON.stringify({ leaks: await measureProtected(data, fitted) }))
    return
  }
  const model = (await openBundle(at('bundle'))).manifest.nearness!
  const { originals } = data
  const known = { duplicates: DUPLICATES, lookalikes: lookalikes(originals) }
  const { measured, stream, scored } = await measureStream('stream', data, known, model)
  const unknown = { duplicates: HELD_OUT_DUPLICATES, lookalikes: heldOutLookalikes(originals) }
  const heldOut = (await measureStream('held-out', data, unknown, model)).measured
  const { layoutRadius, stateRadius } = model
  const size = { count: Number(options.exemplars), room: stream.length }
  const { near, costs } = fillIndex(model, scored, size)
  const amongStrangers = summary(judgeAmong(near, stream, scored))
  const radii = { layoutRadius, stateRadius }
  const leaks = await measureProtected(data, fitted)
  const found = { ...measured, heldOut, amongStrangers, leaks, ...radii }
  console.log(JSON.stringify({ ...found, index: costs() }))
}

try {
  await main()
} finally {
  if (options.keep === undefined) rmSync(folder, { recursive: true, force: true })
}
