/** Parsers of flags: what does not fit is a usage error that names the flag and the value. And one printed. */
import { InvalidArgumentError } from 'commander'

/** What a command that is named as the next one must be given to run under the same configuration. */
export function configFlag({ config }: { config?: string }): string {
  return config === undefined ? '' : ` --config ${config}`
}

export function integer(text: string): number {
  const value = Number(text)
  if (/^-?\d+$/.test(text) && Number.isSafeInteger(value)) return value
  throw new InvalidArgumentError('It must be an integer.')
}

export function positiveInteger(text: string): number {
  const value = integer(text)
  if (value >= 1) return value
  throw new InvalidArgumentError('It must be at least 1.')
}

export function percent(text: string): number {
  const value = Number(text)
  if (text.trim() !== '' && value >= 0 && value <= 100) return value
  throw new InvalidArgumentError('It must be a number in 0..100.')
}
