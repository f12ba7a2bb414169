/** Folders that commands write into: what stands there is kept unless they are told otherwise. */
import { existsSync, readdirSync } from 'node:fs'
import { XmasdError } from '../errors.ts'

/** None where the folder is missing. */
export function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : []
}

export function notEmpty(folder: string, names: readonly string[], hint: string): XmasdError {
  const message = `${folder} is not empty: ${names.slice(0, 5).join(', ')}`
  return new XmasdError('FILE_EXISTS', message, hint)
}
