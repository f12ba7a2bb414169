/** Are a schedule's files still those that were opened? Checkpoints are read again while the daemon runs. */
import { existsSync, statSync } from 'node:fs'
import { XmasdError } from '../errors.ts'
import type { Checkpoint } from './schedule.ts'

/** By file: what changes when it is written to or replaced. Plain data. */
export type FileStamps = ReadonlyMap<string, string>

export function stampFiles(checkpoints: readonly Checkpoint[]): FileStamps {
  return new Map(checkpoints.flatMap(filesOf).map(file => [file, stampOf(file)]))
}

/** Throws CHECKPOINT_INVALID where a file is gone, cut, written to or replaced. */
export function checkUnchanged(checkpoint: Checkpoint, stamps: FileStamps): void {
  for (const file of filesOf(checkpoint)) {
    const [before, now] = [stamps.get(file), stampOf(file)]
    if (now === before) continue
    throw new XmasdError(
      'CHECKPOINT_INVALID',
      `${file} is not the file that was opened: it was ${before}, now it is ${now}`,
      'Put the checkpoint back and start again; a schedule in use may not change.',
    )
  }
}

function filesOf({ tensors }: Checkpoint): string[] {
  return [...new Set([...tensors.values()].map(({ file }) => file))]
}

function stampOf(file: string): string {
  if (!existsSync(file)) return 'gone'
  const { size, mtimeMs, ino } = statSync(file)
  return `${size} bytes, of ${new Date(mtimeMs).toISOString()}, inode ${ino}`
}
