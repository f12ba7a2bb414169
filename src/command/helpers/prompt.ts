/** Where pictures, rows, answers and questions lie in a prompt: `doctor` and `score --show-prompt`. */
import type { Config } from '../../config.ts'
import { XmasdError } from '../../errors.ts'
import { readExamples } from '../../ingest/data/read.ts'
import { decodeExample, idIn } from '../../ingest/form/decode.ts'
import { IMAGE_LIMITS } from '../../ingest/image/pixels.ts'
import { encodeDialog } from '../../ingest/prepare.ts'
import { tokenizerFolder } from '../../ingest/same-preparation.ts'
import type { Dialog } from '../../ingest/template.ts'
import { readTokenizer } from '../../ingest/tokenizer.ts'
import { openSchedule, type Schedule } from '../../proxy/checkpoint/schedule.ts'
import { reachOf } from '../../score/metric.ts'
import { describeScores, imageSource, type PipelineOptions } from '../../score/pipeline.ts'
import { print, warn } from './options.ts'

/** First and last position, both included. */
type Stretch = [from: number, to: number]

export type ShownPrompt = {
  /** How it is made. */
  origin: string
  /** With one mark for each image. */
  text: string
  /** Token ids; what stands at images is the family's placeholder. */
  ids: number[]
  positions: number
  images: Stretch[]
  rows: Stretch[]
  answers: Stretch[]
  questions: Stretch[]
}

/** Stands in for pictures, which this reads none of; where sizes count it is a usual one. */
const BLANK = { width: 640, height: 480, data: new Uint8Array(640 * 480 * 3) }

/** Throws as `describeScores`, and what the template refuses. */
export function promptOf(
  proxy: PipelineOptions['proxy'],
  schedule: Schedule,
  dialog: Dialog,
): ShownPrompt {
  const { template, prompt, pictures } = describeScores(proxy, schedule)
  const tokenizer = readTokenizer(tokenizerFolder(schedule.checkpoints[0]!))
  const { placeholder, inOnePiece } = pictures
  const { length: count } = dialog.images
  const expansions = Array.from(dialog.images, () => pictures.cut(BLANK, count, IMAGE_LIMITS).text)
  const shown = { placeholder, inOnePiece, expansions }
  const wanted = { answers: true, questions: true, pictures: shown }
  const options = { ...schedule.config, template, ...wanted }
  const found = encodeDialog(tokenizer, dialog, options)
  const { text, ids, columns, rows, answers, questions } = found
  return {
    origin: prompt.origin,
    text,
    ids: [...ids],
    positions: ids.length,
    images: stretches(columns),
    rows: columns.length === 0 ? [] : stretches(rows),
    answers: stretches(answers),
    questions: stretches(questions),
  }
}

/** Runs of neighbouring numbers. */
function stretches(positions: Int32Array): Stretch[] {
  const found: Stretch[] = []
  for (const position of positions) {
    const last = found.at(-1)
    if (last !== undefined && last[1] === position - 1) last[1] = position
    else found.push([position, position])
  }
  return found
}

export function placesOf(shown: ShownPrompt): string[] {
  const { positions, images, rows, answers, questions } = shown
  const text = (list: Stretch[]): string =>
    list.length === 0 ? 'nowhere' : list.map(([from, to]) => `${from}-${to}`).join(', ')
  return [
    `${positions} positions`,
    `images at ${text(images)}`,
    `rows at ${text(rows)}`,
    `answers at ${text(answers)}`,
    `questions at ${text(questions)}`,
  ]
}

/** Prints the prompt of the example `id` of a data file. Throws DATA_INVALID where it has none. */
export async function showPrompt(
  config: Pick<Config, 'proxy' | 'images' | 'text' | 'data'>,
  { data, id, json = false }: { data: readonly string[]; id: string; json?: boolean | undefined },
): Promise<void> {
  const { proxy } = config
  const { form } = imageSource(config)
  const schedule = openSchedule(proxy.path, reachOf(proxy.metric, proxy.gain), proxy.base)
  for await (const value of readExamples(data, undefined, warn)) {
    if (idIn(value, form?.fields) !== id) continue
    const shown = promptOf(proxy, schedule, decodeExample(value, form))
    print({ json }, shown, [
      `prompt by template ${shown.origin}`,
      '',
      ...shown.text.split('\n'),
      '',
      ...placesOf(shown),
    ])
    return
  }
  throw new XmasdError(
    'DATA_INVALID',
    `${data.join(', ')} holds no example ${id}`,
    'give the id of one of its examples',
  )
}
