/** What tests share: where things are, temporary folders that go away, the loud skip. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import type { TestContext } from 'node:test'
import { packageRoot } from '../src/version.ts'

/** The project's root folder, wherever the compiled tests stand. */
export const ROOT = packageRoot()

/** The built command: end-to-end tests drive this and nothing else. */
export const MAIN = join(ROOT, 'dist/main.js')

/**
 * A path in the shared folder beside the checkout (goldens, real images), or undefined after a
 * loud skip where that folder is absent. With REQUIRE_SHARED=1 its absence is a failure.
 */
export function shared(t: TestContext, ...path: string[]): string | undefined {
  const found = resolve(ROOT, '../shared', ...path)
  if (existsSync(found)) return found
  if (process.env.REQUIRE_SHARED === '1') throw new Error(`missing: ${found}`)
  process.stderr.write(`SKIPPED, ${found} is not here: ${t.name}\n`)
  t.skip(`needs ${found}`)
  return undefined
}

/**
 * Chromium's executable, or undefined after a loud skip where none is installed. With
 * REQUIRE_CHROMIUM=1 its absence is a failure.
 */
export function browser(t: TestContext): string | undefined {
  const found = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
    path => existsSync(path),
  )
  if (found !== undefined) return found
  if (process.env.REQUIRE_CHROMIUM === '1') throw new Error('chromium is not installed')
  process.stderr.write(`SKIPPED, chromium is not installed: ${t.name}\n`)
  t.skip('needs chromium')
  return undefined
}

/**
 * The path of a program on PATH, or undefined after a loud skip where it is not installed. With `variable`
 * set to 1 in the environment its absence is a failure.
 */
export function program(t: TestContext, name: string, variable: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const found = folders.map(folder => join(folder, name)).find(path => existsSync(path))
  if (found !== undefined) return found
  if (process.env[variable] === '1') throw new Error(`${name} is not installed`)
  process.stderr.write(`SKIPPED, ${name} is not installed: ${t.name}\n`)
  t.skip(`needs ${name}`)
  return undefined
}

/** A test, or the tests of a file: what is made for it goes when it ends. */
export type Owner = { after(clean: () => void): void }
export const FILE: Owner = { after: clean => void process.once('exit', clean) }

/** A temporary folder that is removed with its owner. */
export function temporaryFolder(t: Owner): string {
  const folder = mkdtempSync(join(tmpdir(), 'xmasd-test-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/**
 * A Python with transformers, or undefined after a loud skip where there is none. With
 * REQUIRE_PARITY=1 its absence is a failure.
 */
export function parityPython(t: TestContext): string | undefined {
  return pythonOf(t, 'PARITY_PYTHON', 'test/parity/python.sh')
}

/** The same for a Python with the trainers that read exports. */
export function trainersPython(t: TestContext): string | undefined {
  return pythonOf(t, 'TRAINERS_PYTHON', 'test/parity/python.sh trainers')
}

function pythonOf(t: TestContext, variable: string, command: string): string | undefined {
  const python = process.env[variable]
  if (python !== undefined) return python
  if (process.env.REQUIRE_PARITY === '1') throw new Error(`${variable} is not set`)
  process.stderr.write(`SKIPPED, ${variable}=$(${command}) is not set: ${t.name}\n`)
  t.skip(`needs ${variable}`)
  return undefined
}
