/** Which log the configuration asks for, and its topics. */
import type { Config } from './config.ts'
import { openLocalLog } from './log/local.ts'
import type { Log, TopicSpec } from './log/log.ts'

export function openLog(config: Config): Promise<Log> {
  return openLocalLog({ path: config.log.path })
}

export function topicSpecs(config: Config): TopicSpec[] {
  const { topics, examplesPartitions } = config.log
  return [
    { name: topics.examples, partitions: examplesPartitions },
    { name: topics.assignments, partitions: 1 },
    { name: topics.decisions, partitions: 1 },
    { name: topics.subset, partitions: 1, compacted: true },
    { name: topics.deadLetters, partitions: 1 },
  ]
}

export function groupsOf(config: Config): { score: string; select: string } {
  return { score: config.score.group, select: config.select.group }
}
