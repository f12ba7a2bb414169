/** `export`: the current subset, as keys or, with --data, as the examples themselves. */

import { Command } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { countExamples, readExamples } from '../ingest/data.ts'
import { startProgress } from '../observe/progress.ts'
import { openLogToRead } from '../open-log.ts'
import { readSubset } from '../report/history.ts'
import { startIdentifying } from '../score/measure.ts'
import { writeJsonArray } from './json-array.ts'

type Options = { config?: string; out: string; data?: string; images?: string; json?: boolean }

export function exportCommand(): Command {
  return new Command('export')
    .description('Write the current subset: a JSON array of keys, or of the examples themselves.')
    .requiredOption('--out <file>', 'file to write')
    .option(
      '--data <file>',
      'LLaVA file that was produced: write its kept examples instead of keys',
    )
    .option('--images <dir>', "folder of that file's images (default: the config's images.root)")
    .option('--config <file>', 'configuration file')
    .option('--json', 'report as one JSON document on stdout')
    .action(exportSubset)
}

async function exportSubset(options: Options): Promise<void> {
  const config = loadConfig(options.config, process.env, { 'images.root': options.images })
  const log = await openLogToRead(config)
  try {
    const keys = await readSubset(log, config)
    const entries =
      options.data === undefined
        ? [...keys].map(key => JSON.stringify(key))
        : keptExamples(config, options.data, keys)
    const written = await writeJsonArray(options.out, entries)
    report(options, keys.size, written)
  } finally {
    await log.close()
  }
}

const CHUNK_EXAMPLES = 256

/** The raw examples of `data` whose key is in `keys`, each key once; keys need the images' pixels. */
async function* keptExamples(
  config: Config,
  data: string,
  keys: Set<string>,
): AsyncIterable<string> {
  const progress = startProgress('read', await countExamples(data))
  const identifying = await startIdentifying(config)
  const wanted = new Set(keys)
  let read = 0
  try {
    for await (const chunk of chunks(readExamples(data), CHUNK_EXAMPLES)) {
      const found = await identifying.identify(chunk)
      for (const [i, key] of found.entries()) {
        if (key !== undefined && wanted.delete(key)) yield Buffer.from(chunk[i]!).toString()
      }
      read += chunk.length
      progress.update(read)
    }
  } finally {
    progress.stop()
    await identifying.close()
  }
}

/** Groups of `size`, the last one smaller. */
export async function* chunks<T>(items: AsyncIterable<T>, size: number): AsyncIterable<T[]> {
  let group: T[] = []
  for await (const item of items) {
    group.push(item)
    if (group.length < size) continue
    yield group
    group = []
  }
  if (group.length > 0) yield group
}

function report(options: Options, kept: number, written: number): void {
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ v: 1, kept, written, out: options.out })}\n`)
    return
  }
  const what =
    options.data === undefined ? 'keys' : `of ${kept} kept examples, found in ${options.data},`
  process.stdout.write(`${written} ${what} written to ${options.out}\n`)
}
