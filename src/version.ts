/** Which xmasd this is, and where its package and its scripts lie. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** Wherever this file was compiled to: bundled it lies elsewhere. */
const HERE = dirname(fileURLToPath(import.meta.url))

/** The folder of package.json. */
export function packageRoot(): string {
  return above('package.json')
}

/** A compiled module that runs in a worker or process of its own, by its path below `src`. */
export function scriptAt(path: string): URL {
  return pathToFileURL(join(above(path), path))
}

/** The nearest folder from here up that has `path`. */
function above(path: string): string {
  let folder = HERE
  while (!existsSync(join(folder, path))) {
    if (folder === dirname(folder)) throw new Error(`${path} is missing in the installed package`)
    folder = dirname(folder)
  }
  return folder
}

export function version(): string {
  return JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')).version
}
