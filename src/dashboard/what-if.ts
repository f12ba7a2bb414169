/** The process of one what-if replay: who would leave the subset and who would come. */
import { setPriority } from 'node:os'
import type { Config } from '../config.ts'
import { messageOf } from '../errors.ts'
import { type WantedClusters, whatIf } from '../history/what-if.ts'
import { openLogToRead } from '../log/open.ts'
import type { WhatIfOptions, WhatIfResult } from './schemas.ts'

export type FromWhatIf =
  | { kind: 'progress'; share: number }
  | { kind: 'done'; result: WhatIfResult }
  | { kind: 'failed'; message: string }

const KEYS_MAX = 600
const LOW_PRIORITY = 10

async function run(config: Config, options: WhatIfOptions): Promise<WhatIfResult> {
  const log = await openLogToRead(config.log)
  const { percent, policy, clusters } = options
  const select = {
    ...config.select,
    ...(policy === undefined ? {} : { policy }),
    ...(percent === undefined ? {} : { percent, budgetExamples: undefined }),
  }
  const [end = 0] = await log.ends(config.log.topics.assignments)
  const onProgress = (offset: number): void => send({ kind: 'progress', share: offset / end })
  const wanted: WantedClusters = clusters === undefined ? {} : { signature: 'sum', clusters }
  const asked = { ...config, select }
  const { found, today, comparison } = await whatIf(log, asked, wanted, { onProgress })
  const then = new Set(found.kept.map(({ key }) => key))
  return {
    v: 1,
    policy: select.policy,
    percent: select.budgetExamples === undefined ? select.percent : null,
    comparison,
    leaving: [...today]
      .filter(key => !then.has(key))
      .slice(-KEYS_MAX)
      .reverse(),
    coming: [...then]
      .filter(key => !today.has(key))
      .slice(-KEYS_MAX)
      .reverse(),
  }
}

function send(message: FromWhatIf): void {
  process.send?.(message)
}

process.once('disconnect', () => process.exit(0))
process.once('message', ({ config, options }: { config: Config; options: WhatIfOptions }) => {
  setPriority(LOW_PRIORITY)
  run(config, options)
    .then(
      result => send({ kind: 'done', result }),
      error => send({ kind: 'failed', message: messageOf(error) }),
    )
    .finally(() => process.disconnect())
})
