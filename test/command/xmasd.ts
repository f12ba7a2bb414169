/** Runs a command of this build to its end, and reads and writes what such commands take. */
import assert from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const MAIN = join(dirname(fileURLToPath(import.meta.url)), '../../src/main.js')

export function xmasd(...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
}

/** Its stdout; fails loudly unless it exits 0. */
export function succeed(...args: string[]): string {
  const { status, stdout, stderr } = xmasd(...args)
  assert.equal(status, 0, stderr)
  return stdout
}

export const readJson = (file: string) => JSON.parse(readFileSync(file, 'utf8'))

export function writeLines(file: string, lines: readonly object[]): void {
  writeFileSync(file, lines.map(line => `${JSON.stringify(line)}\n`).join(''))
}
