/** The runs of a study on the disk: a line each, and beside them what they share. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { z } from 'zod'
import { messageOf, XmasdError } from '../errors.ts'

/** Means over the held-out examples of a family. */
const Family = z.strictObject({
  examples: z.int(),
  /** Share whose answers greedy decoding gives exactly. */
  exact: z.number(),
  /** Share of the answers' tokens that are predicted. */
  tokens: z.number(),
  /** Cross-entropy of the answers' tokens. */
  loss: z.number(),
  /**
   * Share whose answers are those that are most frequent in the family's pool: what one answer for
   * all gives.
   */
  common: z.number().optional(),
})
const RunLine = z.strictObject({
  v: z.literal(1),
  /** What targets, proxy and data are: lines of one file agree. */
  settings: z.string(),
  data: z.string(),
  seed: z.int(),
  arm: z.string(),
  percent: z.number(),
  /** Examples to select from, and selected. */
  pool: z.int(),
  selected: z.int(),
  /** Of the selected examples, how many have which `fault`. */
  faults: z.record(z.string(), z.int()),
  /** Results on the held-out examples by `source`. */
  families: z.record(z.string(), Family),
  seconds: z.number(),
})
export type Run = z.infer<typeof RunLine>
export type FamilyResult = z.infer<typeof Family>

export const RUNS_FILE = 'runs.jsonl'
/** What all runs beside it share. */
export const SETTINGS_FILE = 'settings.json'

/** The runs of a file, which may not exist. A last line that was not written whole is removed. */
export function readRuns(file: string): Run[] {
  if (!existsSync(file)) return []
  const lines = readFileSync(file, 'utf8').split('\n')
  const rest = lines.pop()
  if (rest !== '') writeFileSync(file, lines.map(line => `${line}\n`).join(''))
  return lines.map((line, i) => {
    try {
      return RunLine.parse(JSON.parse(line))
    } catch (error) {
      const message = `${file}, line ${i + 1} is no run of a study: ${messageOf(error)}`
      throw new XmasdError('DATA_INVALID', message, 'Name another --out folder.')
    }
  })
}

/**
 * Says which settings differ from those that the runs of `file` were made with, which `about` beside it
 * holds; written there by the first call. Throws DATA_INVALID.
 */
export function checkSettings(
  runs: readonly Run[],
  options: { file: string; about: string; digest: string; settings: object },
): void {
  const { file, about, digest, settings } = options
  const other = runs.find(run => run.settings !== digest)
  if (other === undefined) {
    if (!existsSync(about)) writeFileSync(about, `${JSON.stringify(settings, null, 2)}\n`)
    return
  }
  const differ = differencesOf(about, settings)
  throw new XmasdError(
    'DATA_INVALID',
    `${file} has runs of other settings (${differ ?? `${other.settings}, now ${digest}`})`,
    'Go on with the options of the first call; only arms, percents and seeds may change. Or name another --out.',
  )
}

/** "steps 100, now 300"; undefined where nothing is known of the first call. */
function differencesOf(about: string, settings: object): string | undefined {
  if (!existsSync(about)) return undefined
  const before = leavesOf(JSON.parse(readFileSync(about, 'utf8')))
  const now = leavesOf(settings)
  const names = [...new Set([...before.keys(), ...now.keys()])]
  const differ = names.filter(name => before.get(name) !== now.get(name))
  const said = differ.map(
    name => `${name} ${before.get(name) ?? 'not given'}, now ${now.get(name) ?? 'not given'}`,
  )
  return said.length === 0 ? undefined : said.join('; ')
}

/** Values by the name of their field, nested ones without the names they lie in. */
function leavesOf(value: object): Map<string, string> {
  return new Map(
    Object.entries(value).flatMap(([name, one]): [string, string][] => {
      if (typeof one === 'object' && one !== null) return [...leavesOf(one)]
      return one === undefined ? [] : [[name, String(one)]]
    }),
  )
}
