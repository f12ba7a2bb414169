/**
 * What `produce` takes for a large JSONL and a large Parquet file with pictures inline: its rate beside
 * that of `cat`, and its largest resident memory. Needs Linux's /proc. The last line is one JSON object.
 * Usage: node .build/bench/produce.js [--megabytes 3000]
 */
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  createWriteStream,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { fileWriter, ParquetWriter } from 'hyparquet-writer'

const MAIN = resolve(import.meta.dirname, '../../dist/main.js')
const PICTURE_BYTES = 150_000
const GROUP_ROWS = 100
const MEGABYTE = 1e6
const SAMPLE_MS = 20

const { values } = parseArgs({ options: { megabytes: { type: 'string', default: '3000' } } })
const rows = Math.ceil((Number(values.megabytes) * MEGABYTE) / PICTURE_BYTES)

const talkOf = (i: number) => [{ user: `What is picture ${i}?`, assistant: `Number ${i}.` }]

async function writeLines(file: string): Promise<void> {
  const out = createWriteStream(file)
  for (let i = 0; i < rows; i++) {
    const images = [{ bytes: randomBytes(PICTURE_BYTES).toString('base64'), path: `${i}.jpg` }]
    const line = `${JSON.stringify({ id: i, images, texts: talkOf(i) })}\n`
    if (!out.write(line)) await once(out, 'drain')
  }
  out.end()
  await once(out, 'close')
}

/** Pictures as the sets of the Hub have them, and alpaca columns. */
function writeParquet(file: string): void {
  const text = { repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY', converted_type: 'UTF8' } as const
  const schema = [
    { name: 'root', num_children: 3 },
    { name: 'image', repetition_type: 'OPTIONAL', num_children: 2 },
    { name: 'bytes', repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY' },
    { name: 'path', ...text },
    { name: 'instruction', ...text },
    { name: 'output', ...text },
  ] as const
  const writer = new ParquetWriter({ writer: fileWriter(file), schema: [...schema] })
  for (let from = 0; from < rows; from += GROUP_ROWS) {
    const numbers = Array.from({ length: Math.min(GROUP_ROWS, rows - from) }, (_, i) => from + i)
    const image = numbers.map(i => ({ bytes: randomBytes(PICTURE_BYTES), path: `${i}.jpg` }))
    const columnData = [
      { name: 'image', data: image },
      { name: 'instruction', data: numbers.map(i => `What is picture ${i}?`) },
      { name: 'output', data: numbers.map(i => `Number ${i}.`) },
    ]
    writer.write({ columnData, rowGroupSize: GROUP_ROWS })
  }
  writer.finish()
}

/** Megabytes a second, and the peak of resident memory in megabytes. */
async function measure(command: string, args: string[]): Promise<{ rate: number; rss: number }> {
  const file = args.at(-1)!
  const started = performance.now()
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  let peak = 0
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8')
      peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0))
    } catch {}
  }, SAMPLE_MS)
  const [code] = await once(child, 'exit')
  clearInterval(timer)
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}: exit ${code}`)
  const seconds = (performance.now() - started) / 1000
  return { rate: statSync(file).size / MEGABYTE / seconds, rss: (peak * 1024) / MEGABYTE }
}

const folder = mkdtempSync(join(tmpdir(), 'xmasd-bench-produce-'))
try {
  const result: Record<string, number> = {}
  for (const kind of ['jsonl', 'parquet'] as const) {
    const file = join(folder, `data.${kind}`)
    if (kind === 'jsonl') await writeLines(file)
    else writeParquet(file)
    const config = join(folder, `${kind}.yaml`)
    const place = `log: { kind: local, path: ${join(folder, `log-${kind}`)} }\n`
    writeFileSync(config, `${place}images: { root: ${folder} }\n`)
    const cat = await measure('cat', [file])
    const own = await measure(process.execPath, [
      MAIN,
      'produce',
      '--config',
      config,
      '--data',
      file,
    ])
    console.log(
      `${kind}: produce ${own.rate.toFixed(0)} MB/s, cat ${cat.rate.toFixed(0)} MB/s, ` +
        `${own.rss.toFixed(0)} MB resident`,
    )
    Object.assign(result, { [`${kind}Rate`]: own.rate, [`${kind}CatRate`]: cat.rate })
    result[`${kind}ResidentMegabytes`] = own.rss
    execFileSync('rm', ['-rf', file, join(folder, `log-${kind}`)])
  }
  console.log(JSON.stringify({ megabytes: Number(values.megabytes), ...result }))
} finally {
  rmSync(folder, { recursive: true })
}
