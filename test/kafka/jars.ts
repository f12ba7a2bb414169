/** What Maven brings for the tests on a broker: fetched once, kept outside the checkout. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from '../support.ts'

export const KAFKA_FOLDER = join(ROOT, 'test/kafka')

/** The folder of jars, filled where it is not there yet. Throws where Java or Maven are missing. */
export function brokerJars(): string {
  const pom = join(KAFKA_FOLDER, 'pom.xml')
  const version = /<kafka.version>(.*)<\/kafka.version>/.exec(readFileSync(pom, 'utf8'))![1]!
  return cachedFolder(`kafka-${version}`, folder => {
    run('mvn', ['-B', '-q', '-f', pom, 'dependency:copy-dependencies', `-Dkafka.lib=${folder}`])
    return readdirSync(folder).some(name => name.startsWith('kafka_2.13-'))
  })
}

/** A folder of the cache, made once by `fill`, which returns whether it is whole. */
export function cachedFolder(name: string, fill: (folder: string) => boolean): string {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'xmasd')
  const folder = join(cache, name)
  if (existsSync(folder)) return folder
  mkdirSync(cache, { recursive: true })
  process.stderr.write(`fetching ${name} into ${folder}\n`)
  const unfinished = mkdtempSync(join(cache, 'fetching-'))
  if (!fill(unfinished)) throw new Error(`Maven left no ${name} in ${unfinished}`)
  if (!existsSync(folder)) renameSync(unfinished, folder)
  return folder
}

/** Runs a tool to its end; its output is in the error where it fails or is missing. */
export function run(command: string, args: readonly string[], cwd?: string): void {
  try {
    execFileSync(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' })
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: string; stdout?: string; stderr?: string }
    if (code === 'ENOENT') {
      throw new Error(`${command} is missing: the broker's tests need a JRE, Maven and openssl`)
    }
    throw new Error(`${command} ${args.join(' ')} failed\n${stdout ?? ''}${stderr ?? ''}`)
  }
}
