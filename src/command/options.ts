/** Parsers of flags: what does not fit is a usage error that names the flag and the value. And what is printed of them. */
import { InvalidArgumentError, Option } from 'commander'
import { ROLES, type Role } from '../gauges.ts'
import { shellWord } from '../shell.ts'

/** What a command that is named as the next one must be given to run under the same configuration. */
export function configFlag({ config }: { config?: string }): string {
  return config === undefined ? '' : ` --config ${shellWord(config)}`
}

/** `--roles`: those that are meant, both unless said. */
export function rolesOption(): Option {
  return new Option('--roles <list>', 'score, select or both')
    .argParser(parseRoles)
    .default([...ROLES])
}

function parseRoles(text: string): Role[] {
  const roles = text.split(',').map(role => role.trim())
  const known = roles.filter((role): role is Role => (ROLES as readonly string[]).includes(role))
  if (known.length === roles.length && known.length > 0) return known
  throw new InvalidArgumentError(
    `"${text}": give ${ROLES.join(', ')} or both, separated by a comma`,
  )
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
