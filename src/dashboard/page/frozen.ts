/** A report: the answers of the API come from the data in the page itself. */
import type { ExampleRow, Frozen } from '../schemas.ts'

/** Undefined on the page of a daemon. */
export const frozen: Frozen | undefined = read()

function read(): Frozen | undefined {
  const text = document.getElementById('frozen')?.textContent
  return text == null ? undefined : JSON.parse(text)
}

const HITS_MAX = 60
const LACKING = 'This report does not hold that example: `xmasd explain KEY` tells all about it.'

/** The answer to a path of the API. Throws Error where the report does not hold it. */
export function frozenAnswer(from: Frozen, path: string): unknown {
  const [route, query] = path.split('?') as [string, string?]
  const [name, ...rest] = route.split('/')
  const asked = new URLSearchParams(query)
  const argument = decodeURIComponent(rest.join('/'))
  if (name === 'clusters') {
    return argument === '' ? from.clusters : { ...from.galleries[argument]!, from: 0, rows: [] }
  }
  if (name === 'examples') {
    return argument === '' ? search(from, asked.get('q') ?? '') : exampleOf(from, argument)
  }
  if (name === 'dead-letters') return lettersOf(from, asked.get('code'))
  if (name === 'map' || name === 'drift' || name === 'shadow') return from[name]
  throw new Error(`a report has no ${name}`)
}

function exampleOf(from: Frozen, wanted: string): object {
  const row = from.rows.find(({ key, id }) => key === wanted || id === wanted)
  const document = row && from.examples[row.key]
  if (document === undefined) throw new Error(LACKING)
  return { ...document, band: from.bands[row!.cluster] ?? null }
}

/** By the beginning of key or id, and by words of the question. */
function search({ rows, counts }: Frozen, text: string): object {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean)
  const hits = rows.filter(({ key, question }) => {
    const lower = question.toLowerCase()
    return key.startsWith(text) || words.every(word => lower.includes(word))
  })
  const examples = counts.examples + counts.duplicates
  return { v: 1, rows: hits.slice(0, HITS_MAX), searched: rows.length, examples }
}

function lettersOf({ deadLetters }: Frozen, code: string | null): object {
  const letters = deadLetters.letters.filter(one => code === null || one.code === code)
  return { ...deadLetters, letters }
}

/** Those of a cluster between two ranks; undefined on the page of a daemon. */
export function heldRanks(cluster: string, from: number, to: number): ExampleRow[] | undefined {
  return frozen?.rows.filter(({ cluster: of, rank }) => {
    return String(of) === cluster && rank !== null && rank >= from && rank < to
  })
}

/** Those of these rows; undefined on the page of a daemon. */
export function heldRows(rows: readonly number[]): ExampleRow[] | undefined {
  const wanted = new Set(rows)
  return frozen?.rows.filter(({ row }) => wanted.has(row))
}
