/** `export`: the current subset, as keys, or as the examples in a form that trainers read. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Command, Option } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { readSubset } from '../history/assignments.ts'
import {
  type KeptExample,
  type KeptPlaces,
  keptOnLog,
  readKeptPlaces,
} from '../history/kept-examples.ts'
import { countExamples, readExamples } from '../ingest/data/read.ts'
import { fetchImage } from '../ingest/fetch/image.ts'
import { jsonText } from '../ingest/form/json.ts'
import { formatOf } from '../ingest/image/format.ts'
import type { Log } from '../log/log.ts'
import { startProgress } from '../observe/progress.ts'
import { imageSource, startIdentifying } from '../score/pipeline.ts'
import {
  conversationOf,
  type Exported,
  FORMATS,
  type Format,
  writeForm,
} from './helpers/export-form.ts'
import { FLAGS, imagesOverride, inFlags, print, warn, withLog } from './helpers/options.ts'
import { checkNotRead, writeJsonArray, writeWhole } from './helpers/output.ts'

type Options = {
  config?: string
  out: string
  format?: Format
  data?: string[]
  images?: string
  weights?: boolean
  pictures?: string
  json?: boolean
}

export function command(): Command {
  return new Command('export')
    .description(
      'Write the current subset: a JSON array of keys, or its examples as trainers read them.',
    )
    .requiredOption('--out <file>', 'file to write')
    .addOption(
      new Option(
        '--format <form>',
        'of the examples, which the log still holds or --data has',
      ).choices(FORMATS),
    )
    .option(
      '--data <files...>',
      'the data files that were produced; without --format their kept examples as they are',
    )
    .option('--images <dir>', 'folder of their images (default: images.root)')
    .option(
      '--pictures <dir>',
      "the trainer's image folder: pictures that came as bytes become files in it",
    )
    .option('--weights', 'a field weight: the examples of the cluster over the kept ones')
    .option('--config <file>', 'configuration file')
    .option('--json', 'one JSON document on stdout')
    .action((options: Options, exporting: Command) => {
      const ofForms = (['weights', 'pictures'] as const).find(name => options[name] !== undefined)
      if (ofForms !== undefined && (options.format ?? 'keys') === 'keys') {
        exporting.error(`error: '--${ofForms}' wants a '--format' of examples`)
      }
      return inFlags(imagesOverride(options), () => exportSubset(options))
    })
}

async function exportSubset(options: Options): Promise<void> {
  const { out, data } = options
  const config = loadConfig(options.config, process.env, imagesOverride(options), FLAGS)
  await checkNotRead(out, data ?? [])
  if (options.format !== undefined && options.format !== 'keys') {
    return exportForm(options, options.format, config)
  }
  const keys = await withLog(config, log => readSubset(log, config))
  const isRaw = data !== undefined && options.format === undefined
  const raw = async function* (): AsyncGenerator<string> {
    for await (const { value } of keptIn(config, data!, new Set(keys))) {
      yield jsonText(value)
    }
  }
  const written = await writeJsonArray(
    out,
    isRaw ? raw() : [...keys].map(key => JSON.stringify(key)),
  )
  const what = isRaw ? `of ${keys.size} kept examples, found in ${data!.join(', ')},` : 'keys'
  print(options, { kept: keys.size, written, out }, [`${written} ${what} written to ${out}`])
}

async function exportForm(
  options: Options,
  format: Exclude<Format, 'keys'>,
  config: Config,
): Promise<void> {
  const { out } = options
  const form = { text: config.text, fields: config.data.fields }
  const inline = inlinePictures(config, options.pictures)
  const { kept, written } = await withLog(config, async log => {
    const keys = await readSubset(log, config)
    const places = await readKeptPlaces(log, config, keys)
    const weightOf = (key: string): number | undefined => {
      const place = places.places.get(key)
      return options.weights === true ? place && places.weights.get(place.cluster) : undefined
    }
    const examples = async function* (): AsyncGenerator<Exported> {
      for await (const { key, value } of keptExamples(
        log,
        config,
        places,
        new Set(keys),
        options,
      )) {
        const conversation = conversationOf(value, key, form)
        const images = await inline.placed(conversation.images)
        yield { ...conversation, images, weight: weightOf(key) }
      }
    }
    return { kept: keys.size, written: await writeForm(out, format, examples()) }
  })
  if (inline.count > 0 && options.pictures === undefined && format !== 'ms-swift') {
    warn(
      `${inline.count} pictures came as bytes and are data: URLs, which ms-swift alone reads; write them as files with --pictures`,
    )
  }
  print(options, { kept, written, format, out }, [
    `${written} of ${kept} kept examples written to ${out} as ${format}`,
  ])
  const { examples } = config.log.topics
  if (written < kept) warn(`${kept - written} are not in ${examples}: give the file with --data`)
}

/**
 * Counts the pictures that are `data:` URLs. With a folder each becomes a file in it, named by the hash of its
 * bytes, and its reference that name.
 */
function inlinePictures(config: Config, folder: string | undefined) {
  const source = imageSource(config)
  const inline = {
    count: 0,
    async placed(images: readonly string[]): Promise<string[]> {
      const placed: string[] = []
      for (const image of images) placed.push(/^data:/i.test(image) ? await place(image) : image)
      return placed
    },
  }
  const place = async (image: string): Promise<string> => {
    inline.count++
    if (folder === undefined) return image
    const bytes = await fetchImage(image, source)
    const hash = createHash('sha256').update(bytes).digest('hex').slice(0, 32)
    const name = `${hash}.${formatOf(bytes) ?? 'bin'}`
    const file = join(folder, name)
    if (!existsSync(file)) {
      mkdirSync(folder, { recursive: true })
      await writeWhole(file, temporary => writeFile(temporary, bytes))
    }
    return name
  }
  return inline
}

/** Those of `--data`, then those that the log holds. */
async function* keptExamples(
  log: Log,
  config: Config,
  places: KeptPlaces,
  wanted: Set<string>,
  { data }: Options,
): AsyncGenerator<KeptExample> {
  if (data !== undefined) yield* keptIn(config, data, wanted)
  yield* keptOnLog(log, config, places, wanted)
}

const CHUNK_EXAMPLES = 256

/**
 * The examples of `data` whose key is in `wanted`, each key once; it is taken from `wanted` then. Keys need
 * the images' pixels.
 */
async function* keptIn(
  config: Config,
  data: readonly string[],
  wanted: Set<string>,
): AsyncGenerator<KeptExample> {
  const progress = startProgress('read', await countExamples(data))
  const identifying = await startIdentifying(config)
  let read = 0
  try {
    for await (const chunk of chunks(readExamples(data, undefined, warn), CHUNK_EXAMPLES)) {
      const found = await identifying.identify(chunk)
      for (const [i, key] of found.entries()) {
        if (key !== undefined && wanted.delete(key)) yield { key, value: chunk[i]! }
      }
      read += chunk.length
      progress.update(read)
    }
  } finally {
    progress.stop()
    await identifying.close()
  }
}

/** Groups of `size`; the last one may be smaller. */
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
