/**
 * Loaded into a command with `--import`: ends it with SIGKILL around a write of the log. KILL_AT is
 * `before N`, `during N` or `after N`, where N counts commits, and appends to a local log, from 1.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT } from '../support.ts'

type Write = (this: unknown, ...asked: unknown[]) => Promise<unknown>

const [moment, number] = (process.env.KILL_AT ?? '').split(' ')
let writes = 0

const load = (file: string): Promise<Record<string, { prototype: object }>> =>
  import(pathToFileURL(join(ROOT, 'dist/log', file)).href)

deadly((await load('local/consumer.js')).LocalConsumer!.prototype, 'commit')
deadly((await load('kafka/consumer.js')).KafkaConsumer!.prototype, 'commit')
deadly(await localLog(), 'append')

/** The class is not exported: it is that of a log that is opened and closed again. */
async function localLog(): Promise<object> {
  const path = mkdtempSync(join(tmpdir(), 'xmasd-test-'))
  const { openLocalLog } = (await load('local/log.js')) as unknown as LocalModule
  const log = await openLocalLog({ path })
  await log.close()
  rmSync(path, { recursive: true, force: true })
  return Object.getPrototypeOf(log)
}

type LocalModule = typeof import('../../src/log/local/log.ts')

function deadly(prototype: object, name: string): void {
  const writing = prototype as Record<string, Write>
  const write = writing[name]!
  writing[name] = async function (...asked) {
    const isDue = ++writes === Number(number)
    if (isDue && moment === 'before') die()
    const done = write.apply(this, asked)
    if (isDue && moment === 'during') setTimeout(die, Number(process.env.KILL_AFTER_MS ?? 0))
    const result = await done
    if (isDue && moment === 'after') die()
    return result
  }
}

function die(): void {
  process.kill(process.pid, 'SIGKILL')
}
