/** Which log the configuration asks for, and its topics. */
import type { Config } from './config.ts'
import { openLocalLog } from './log/local.ts'
import type { Log, TopicSpec } from './log/log.ts'
import type { LogEvents } from './observe/log-events.ts'

export type OpenLogOptions = { readonly?: boolean; events?: LogEvents }

export function openLog(config: Config, options: OpenLogOptions = {}): Promise<Log> {
  return openLocalLog({ path: config.log.path, ...options })
}

/** The log as it is, for commands that only look. Throws LOG_UNAVAILABLE where none is there. */
export async function openLogToRead(config: Config): Promise<Log> {
  const log = await openLog(config, { readonly: true })
  try {
    await log.ensureTopics(topicSpecs(config))
    return log
  } catch (error) {
    await log.close()
    throw error
  }
}

export function topicSpecs(config: Config): TopicSpec[] {
  const { topics, examplesPartitions } = config.log
  return [
    { name: topics.examples, partitions: examplesPartitions },
    { name: topics.assignments, partitions: 1 },
    { name: topics.decisions, partitions: 1 },
    { name: topics.subset, partitions: 1, compacted: true },
    { name: topics.deadLetters, partitions: 1 },
    { name: topics.bundles, partitions: 1, compacted: true },
    { name: topics.shadow, partitions: 1 },
  ]
}

export function groupsOf(config: Config): { score: string; select: string } {
  return { score: config.score.group, select: config.select.group }
}
