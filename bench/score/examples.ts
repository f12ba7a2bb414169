/** The examples of bench:score: LLaVA JSON and pictures of noise, which both sides prepare themselves. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { loadConfig } from '../../src/config.ts'
import { createPreparer } from '../../src/ingest/prepare.ts'
import { seededRandom } from '../../src/math/random.ts'
import type { Schedule } from '../../src/proxy/checkpoint/schedule.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { describeScores, preparerOptions } from '../../src/score/pipeline.ts'
import { LETTERS, type Shape } from './shapes.ts'

const FILE = 'data.json'

/** Tokens behind a picture that the chat template adds to question and answer. */
const TURNS = 3

/** Writes `data.json` and its pictures into `folder`; `share` neighbours have one picture. */
export async function writeExamples(
  folder: string,
  shape: Shape,
  { count, share, seed }: { count: number; share: number; seed: number },
): Promise<void> {
  const random = seededRandom(seed)
  const [fewest, most] = shape.after
  const whole = (below: number): number => Math.floor(random() * below)
  const words = (length: number): string =>
    Array.from({ length }, () => LETTERS[whole(LETTERS.length)]).join('')
  mkdirSync(folder, { recursive: true })
  const examples = Array.from({ length: count }, (_, i) => {
    const length = fewest + whole(most - fewest + 1) - TURNS
    const asked = length >> 1
    return {
      id: String(i),
      image: `${Math.floor(i / share)}.png`,
      conversations: [
        { from: 'human', value: `<image>\n${words(length - asked)}` },
        { from: 'gpt', value: words(asked) },
      ],
    }
  })
  const { side } = shape
  for (const name of new Set(examples.map(({ image }) => image))) {
    const noise = Uint8Array.from({ length: 3 * side ** 2 }, () => whole(256))
    const raw = { width: side, height: side, channels: 3 } as const
    await sharp(noise, { raw }).png({ compressionLevel: 0 }).toFile(join(folder, name))
  }
  writeFileSync(join(folder, FILE), JSON.stringify(examples))
}

/** The examples of `writeExamples` as ingest prepares them; with `gain` for the image gain, too. */
export function readSequences(
  folder: string,
  schedule: Schedule,
  gain: boolean,
): Promise<Sequence[]> {
  const records: object[] = JSON.parse(readFileSync(join(folder, FILE), 'utf8'))
  return sequencesOf(records, folder, schedule, { gain, imagePixels: 'checkpoint' })
}

export async function sequencesOf(
  records: readonly object[],
  images: string,
  schedule: Schedule,
  how: { gain?: boolean; imagePixels?: 'checkpoint' } = {},
): Promise<Sequence[]> {
  const given = { 'proxy.path': schedule.dir, 'images.root': images }
  const config = loadConfig(undefined, {}, given)
  const proxy = { ...config.proxy, ...how }
  const { template, pictures } = describeScores(proxy, schedule)
  const options = preparerOptions({ ...config, proxy }, schedule, template)
  const preparer = createPreparer(options, pictures)
  const sequences: Sequence[] = []
  for (const record of records) {
    const { sequence } = await preparer.prepare(Buffer.from(JSON.stringify(record)))
    sequences.push(sequence!)
  }
  return sequences
}
