/**
 * What decides the score of an example. A bundle's manifest, the header of a file of trajectories and a
 * running proxy all say it in this form, and one comparison names what differs.
 */
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { type ChatTemplate, digestOf, renderPrompt } from '../ingest/chat-template.ts'
import type { Pictures } from '../ingest/image/picture.ts'
import { encodingOf, tokenizerFolder } from '../ingest/same-preparation.ts'
import { buildPrompt, type Dialog, type Template } from '../ingest/template.ts'
import { readTokenizer } from '../ingest/tokenizer.ts'
import type { Schedule } from '../proxy/checkpoint/schedule.ts'
import type { Gain } from './metric.ts'

/** What becomes of a record before the proxy runs. */
export const Preparation = z.strictObject({
  /** A fixed conversation as the template renders it. */
  prompt: z.string(),
  /** SHA-256, hex, of what the tokenizer's files say about encoding. */
  tokenizer: z.string(),
  /** The image processor, as JSON. */
  images: z.string(),
})
export type Preparation = z.infer<typeof Preparation>

/** The fields, in the order in which a difference is looked for. */
const FIELDS = [
  'checkpoints',
  'metric',
  'mode',
  'precision',
  'gain',
  'schedule',
  'head',
  'prompt',
  'tokenizer',
  'images',
] as const
type Field = (typeof FIELDS)[number]

/** A field that is absent is not known, and equals anything. */
export type ScoreIdentity = Partial<Record<Field, string>>

/** A manifest, or the header of a file of trajectories. null and absent: not known. */
export type RecordedScores = {
  schedule: { fingerprint: string | null; steps?: readonly number[] | null; T?: number }
  mode: string | null
  /** Absent: attention. */
  metric?: string | undefined
  /** Absent: float32. */
  precision?: string | undefined
  /** Whether the image gain is recorded, too. Absent: no. */
  gain?: boolean | undefined
  /** The fingerprint of the language head, which the loss and the image gain read. */
  head?: string | undefined
  preparation?: Preparation | undefined
}

export function recordedIdentity(scores: RecordedScores): ScoreIdentity {
  const { schedule, mode, metric, precision, gain, head, preparation } = scores
  const checkpoints = schedule.T ?? schedule.steps?.length
  return known({
    checkpoints: checkpoints === undefined ? undefined : String(checkpoints),
    schedule: schedule.fingerprint,
    mode,
    metric: metric ?? 'attention',
    precision: precision ?? 'float32',
    gain: gain === true ? 'on' : 'off',
    head,
    ...preparation,
  })
}

function known(fields: Record<string, string | null | undefined>): ScoreIdentity {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null))
}

export type ScoreSettings = { metric: string; mode: string; precision: string; gain?: Gain }

/** What the header of new trajectories records. */
export function scoresOf(
  schedule: Schedule,
  { metric, mode, precision, gain = false }: ScoreSettings,
  preparation: Preparation,
) {
  return {
    schedule: {
      fingerprint: schedule.fingerprint,
      steps: schedule.checkpoints.map(({ step }) => step),
    },
    metric,
    mode: metric === 'attention' ? mode : null,
    precision,
    ...(gain === false ? {} : { gain: true }),
    ...(metric === 'loss' || gain !== false ? { head: schedule.headFingerprint } : {}),
    preparation,
  }
}

/** Throws TOKENIZER_INVALID, PROXY_INVALID or PROXY_UNSUPPORTED. */
export function preparationOf(
  { checkpoints }: Schedule,
  template: Template | ChatTemplate,
  { described }: Pick<Pictures, 'described'>,
): Preparation {
  const folder = tokenizerFolder(checkpoints[0]!)
  const { bosId } = readTokenizer(folder)
  const tokenizer = createHash('sha256').update(sortedJson({ ...encodingOf(folder), bosId }))
  return {
    prompt: probePrompt(template),
    tokenizer: tokenizer.digest('hex'),
    images: sortedJson(described),
  }
}

/** A chat template may treat other conversations in other ways, and its prompts are tokenised in one piece. */
function probePrompt(template: Template | ChatTemplate): string {
  if (!('chat' in template)) return buildPrompt(template, PROBE)
  return `${renderPrompt(template, PROBE).text}\n[chat template ${digestOf(template)}]`
}

/** Two questions about one image. */
export const PROBE: Dialog = {
  turns: [
    { role: 'user', text: '<image>\nWhat is it?' },
    { role: 'assistant', text: 'A cat.' },
    { role: 'user', text: 'And now?' },
    { role: 'assistant', text: 'A dog.' },
  ],
  images: [null],
}

/** JSON with the keys of every object in order. */
function sortedJson(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) =>
    typeof field === 'object' && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  )
}

/** The first field in which two identities differ, described for both; undefined where none does. */
export function differenceOf(
  one: ScoreIdentity,
  other: ScoreIdentity,
): { one: string; other: string } | undefined {
  for (const field of FIELDS) {
    const [a, b] = [one[field], other[field]]
    if (a === undefined || b === undefined || a === b) continue
    return { one: described(field, a, b), other: described(field, b, a) }
  }
  return undefined
}

const VALUE_CHARS_MAX = 60
const CHARS_BEFORE_MAX = 15

/** A long value is shown from a little before the place where the other one differs. */
function described(field: Field, value: string, other: string): string {
  if (field === 'checkpoints') return `${value} checkpoints`
  if (field !== 'prompt' && field !== 'images') return `${field} ${value}`
  const differs = [...value].findIndex((letter, i) => letter !== other[i])
  const from = Math.max(0, (differs < 0 ? other.length : differs) - CHARS_BEFORE_MAX)
  const excerpt = value.slice(from, from + VALUE_CHARS_MAX)
  return `${field} ${JSON.stringify(`${from > 0 ? '…' : ''}${excerpt}`)}`
}
