/** The examples with a trajectory that a bundle was fitted to, so that selection can go on from them. */
import { readHeader, readTensorFloat64, writeSafetensors } from '../proxy/safetensors.ts'

/** Cluster and instability of each, [N]. */
export type Members = { cluster: Int32Array; instability: Float32Array }

/** Whether the members are as many of each cluster as the baseline says. */
export function membersFit(members: Members | undefined, sizes: readonly number[]): boolean {
  if (members === undefined) return true
  const counts = new Array<number>(sizes.length).fill(0)
  for (const cluster of members.cluster) {
    if (!(cluster >= 0 && cluster < counts.length)) return false
    counts[cluster]!++
  }
  const isWhole = members.instability.length === members.cluster.length
  return isWhole && counts.every((count, cluster) => count === sizes[cluster])
}

export function writeMembers(file: string, { cluster, instability }: Members): void {
  const shape = [cluster.length]
  writeSafetensors(file, {
    cluster: { shape, data: cluster },
    instability: { shape, data: instability },
  })
}

/** @throws Error where the file is not of this form */
export function readMembers(file: string): Members {
  const { tensors } = readHeader(file)
  const [cluster, instability] = [tensors.get('cluster'), tensors.get('instability')]
  if (cluster === undefined || instability === undefined) {
    throw new Error(`${file} lacks cluster or instability`)
  }
  return {
    cluster: Int32Array.from(readTensorFloat64(file, cluster)),
    instability: Float32Array.from(readTensorFloat64(file, instability)),
  }
}
