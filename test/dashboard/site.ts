/** A log with a run of the demo's stream, a daemon that decides on it, and more examples on demand. */
import { createHash } from 'node:crypto'
import type { TestContext } from 'node:test'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { Log } from '../../src/log/log.ts'
import { type Assignment, keyOf } from '../../src/record.ts'
import {
  example,
  jsonOf,
  makeDemoSite,
  readTopic,
  type Site,
  servedAt,
  start,
} from '../e2e/command.ts'

export type DashboardSite = Site & {
  url: string
  /** Ends the daemon and starts it again on the same port. */
  restart(): Promise<void>
  /** Puts an example on the log as if it had just been scored; its key. */
  arrive(id: string, question: string, image?: string): Promise<string>
  /** The same with many at once; their keys. */
  arriveAll(ids: readonly string[], question: string): Promise<string[]>
}

export const EXAMPLES = 240

export async function demoSite(t: TestContext, http = '{ port: 0 }'): Promise<DashboardSite> {
  const site = await makeDemoSite(t, EXAMPLES, `http: ${http}`)
  const running = await serve(t, site)
  const log = await openLocalLog({ path: site.log })
  t.after(() => log.close())
  const [first] = await readTopic(site.log, 'assignments')
  const like = jsonOf<Assignment>(first!)
  const found: DashboardSite = {
    ...site,
    url: running.url,
    restart: async () => {
      const { port } = new URL(found.url)
      running.child.kill('SIGTERM')
      await running.ended
      Object.assign(running, await serve(t, site, { XMASD_HTTP_PORT: port }))
    },
    arrive: async (id, question, image) =>
      (await arrive(log, like, [example(id, image, question)]))[0]!,
    arriveAll: (ids, question) =>
      arrive(
        log,
        like,
        ids.map(id => example(id, undefined, question)),
      ),
  }
  return found
}

async function serve(t: TestContext, site: Site, env: NodeJS.ProcessEnv = {}) {
  const { child, ended } = start(['run', '--config', site.config, '--roles', 'select'], env)
  t.after(() => child.kill('SIGKILL'))
  return { child, ended, url: await servedAt(child) }
}

async function arrive(log: Log, like: Assignment, records: { id: unknown }[]): Promise<string[]> {
  const values = records.map(record => Buffer.from(JSON.stringify(record)))
  const to = { topic: 'examples', partition: 0 }
  await log.append(values.map((value, i) => ({ ...to, key: String(records[i]!.id), value })))
  const [end] = await log.ends('examples')
  const assignments = values.map((value, i): Assignment => {
    const content = createHash('sha256').update(value).digest('hex')
    const id = String(records[i]!.id)
    const offset = end! - values.length + i
    return {
      ...like,
      ...{ id, content, key: keyOf(id, content), instability: 0 },
      source: { topic: 'examples', partition: 0, offset },
    }
  })
  await log.append(
    assignments.map(one => {
      const value = Buffer.from(JSON.stringify(one))
      return { topic: 'assignments', key: one.key, value, partition: 0 }
    }),
  )
  return assignments.map(({ key }) => key)
}

/** The JSON document at `path` of the API. */
export async function ask<T>(url: string, path: string): Promise<T> {
  const response = await fetch(`${url}/api/v1/${path}`)
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}
