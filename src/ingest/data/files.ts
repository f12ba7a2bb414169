/** The files that a command names: paths, patterns, standard input. */
import { existsSync, statSync } from 'node:fs'
import { glob } from 'tinyglobby'
import { XmasdError } from '../../errors.ts'

/**
 * `data` as files, each pattern in the order of its names; numbers within names count as numbers, so
 * that shard-10 follows shard-9. A name that a file has is that file, whatever it looks like.
 *
 * @throws XmasdError FILE_UNREADABLE where a pattern matches no file
 */
export async function filesOf(data: string | readonly string[]): Promise<string[]> {
  const files: string[] = []
  for (const name of typeof data === 'string' ? [data] : data) {
    files.push(...(isPattern(name) ? await matching(name) : [name]))
  }
  return files
}

function isPattern(name: string): boolean {
  return /[*?[{]/.test(name) && !existsSync(name)
}

async function matching(pattern: string): Promise<string[]> {
  const found = await glob([pattern.replaceAll('\\', '/')], { expandDirectories: false })
  if (found.length > 0) return found.sort(byNumbers)
  throw new XmasdError(
    'FILE_UNREADABLE',
    `no file matches ${pattern}`,
    'check the pattern; it starts at the working directory',
  )
}

const byNumbers = new Intl.Collator('en', { numeric: true }).compare

/** In bytes. Undefined for what can be read once only: a pipe, a FIFO, standard input. */
export function sizeOf(file: string): number | undefined {
  if (file === '-') return undefined
  const stat = statSync(file, { throwIfNoEntry: false })
  return stat === undefined || stat.isFile() ? (stat?.size ?? 0) : undefined
}
