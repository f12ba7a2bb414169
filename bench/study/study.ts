/**
 * Does selecting pay? The comparison of docs/evidence.md: `xmasd study`'s code over generated scenes with
 * known faults, or over NLVR's pictures.
 *
 *   npm run study -- [--quick] [--data scenes|nlvr] [--seeds 1-30] [--arms a,b] [--percents 5,10]
 *                    [--primary ARM@P] [--measure exact|tokens|loss] [--minutes N] [--out DIR] [--threads N]
 *
 * It goes on where it was stopped: DIR/runs.jsonl has a line a run; index.html and differences.svg are drawn
 * from it. `--minutes` stops it before a run.
 * `README.md` beside this file says which comparison is the primary one. `--quick` ends within an hour on
 * two cores. The last line is one JSON object.
 */
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { SIGNATURES } from '../../src/bundle/signature.ts'
import { readExamples } from '../../src/ingest/data/read.ts'
import { ARMS } from '../../src/study/arms.ts'
import { type StudyData, splitByPicture } from '../../src/study/data.ts'
import { differenceChart, studyPage } from '../../src/study/page.ts'
import { runStudy } from '../../src/study/run.ts'
import { judge, type Measure, sentenceOf } from '../../src/study/statistics.ts'
import { ROOT } from '../../test/support.ts'
import { bytesOf, POOL, STEPS, seedsOf, svgFile, target } from './options.ts'
import { generate } from './scenes.ts'

/** Named in README.md before the seeds of the comparison were run. */
export const PRIMARY = { arm: 'length', percent: 10 }
const MEASURE: Measure = 'tokens'
const WORTH = 3

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    data: { type: 'string', default: 'scenes' },
    seeds: { type: 'string' },
    arms: { type: 'string' },
    percents: { type: 'string', default: '10' },
    primary: { type: 'string', default: `${PRIMARY.arm}@${PRIMARY.percent}` },
    measure: { type: 'string', default: MEASURE },
    minutes: { type: 'string', default: 'Infinity' },
    out: { type: 'string' },
    threads: { type: 'string', default: '1' },
    pool: { type: 'string', default: String(POOL) },
    'held-out': { type: 'string', default: '240' },
    steps: { type: 'string', default: String(STEPS) },
  },
})

const ORACLE = 'source+clean'
const BY_GAIN = [
  ...['random+gain', 'random+aligned', 'length+gain', 'length+aligned'],
  ...SIGNATURES.flatMap(signature => [`${signature}+gain`, `${signature}+both`]),
]
const QUICK = { seeds: '1-6', arms: ['random', 'sum', 'length', 'question+random', ORACLE] }
const NLVR_HELD_OUT_PERCENT = 20

function scenes(): StudyData {
  const pool = Number(options.pool)
  return {
    name: `scenes ${pool}`,
    imageRoot: ROOT,
    partsOf: async seed => {
      const made = await generate(seed, { pool, heldOut: Number(options['held-out']) })
      return { pool: bytesOf(made.pool), heldOut: bytesOf(made.heldOut) }
    },
  }
}

async function nlvr(): Promise<StudyData> {
  const folder = resolve(ROOT, '../shared/data/nlvr')
  const values: Uint8Array[] = []
  for await (const value of readExamples(join(folder, 'data.jsonl'))) values.push(value)
  const partsOf = async (seed: number) => splitByPicture(values, seed, NLVR_HELD_OUT_PERCENT)
  return { name: 'nlvr', imageRoot: folder, partsOf }
}

async function main(): Promise<void> {
  const started = performance.now()
  const isOver = (): boolean => performance.now() - started > 60_000 * Number(options.minutes)
  const data = options.data === 'scenes' ? scenes() : await nlvr()
  const labelled = data.name === 'nlvr' ? [] : ['source', ORACLE]
  const all = [...ARMS, ...BY_GAIN, ...labelled]
  const out = options.out ?? join(ROOT, '.study', options.quick ? 'quick' : options.data)
  const [arm = '', percent = ''] = options.primary.split('@')
  const quickArms = QUICK.arms.filter(name => all.includes(name))
  const runs = await runStudy({
    data,
    arms: options.arms?.split(',') ?? (options.quick ? quickArms : all),
    percents: options.percents.split(',').map(Number),
    seeds: seedsOf(options.seeds ?? (options.quick ? QUICK.seeds : '1-30')),
    target: target(options.data, Number(options.steps)),
    proxy: undefined,
    clusters: undefined,
    threads: Number(options.threads),
    out,
    onRun: (run, done, total) =>
      process.stderr.write(
        `run ${done + 1} of ${total}: seed ${run.seed}, ${run.arm} at ${run.percent} %\n`,
      ),
    isOver,
  })
  const judgement = judge(runs, { measure: options.measure as Measure, worth: WORTH })
  const primary = { arm, percent: Number(percent) }
  const page = studyPage(judgement, runs, { title: data.name, primary, isNamed: true })
  writeFileSync(join(out, 'index.html'), page)
  writeFileSync(join(out, 'differences.svg'), svgFile(differenceChart(judgement.cells)))
  const sentence = sentenceOf(judgement, primary.arm, primary.percent)
  process.stdout.write(`${sentence}\n${JSON.stringify({ sentence, primary, ...judgement })}\n`)
}

await main()
