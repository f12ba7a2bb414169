/** The metrics of scoring: how fast, on what, with how much memory. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'

export const SECONDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300]

export function scoreMetrics(registers: Registry[]) {
  return {
    ingestSeconds: new Histogram({
      name: 'xmasd_ingest_seconds',
      help: 'Time to decode, fetch and tokenise one polled batch',
      buckets: SECONDS,
      registers,
    }),
    scoreSeconds: new Histogram({
      name: 'xmasd_score_seconds',
      help: 'Time to score one polled batch at every checkpoint',
      buckets: SECONDS,
      registers,
    }),
    batchExamples: new Histogram({
      name: 'xmasd_batch_examples',
      help: 'Records in one polled batch',
      buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
      registers,
    }),
    tokens: new Counter({
      name: 'xmasd_scored_tokens_total',
      help: 'Sequence positions scored, image positions included, each counted once for all checkpoints',
      registers,
    }),
    truncated: new Counter({
      name: 'xmasd_truncated_examples_total',
      help: 'Examples cut to the longest sequence of the proxy',
      registers,
    }),
    batchesInFlight: new Gauge({
      name: 'xmasd_queue_depth_batches',
      help: 'Batches read and not yet committed by the score role',
      registers,
    }),
    indexChecks: new Counter({
      name: 'xmasd_index_checks_total',
      help: 'HNSW answers compared with the exact scan, by whether they agreed',
      labelNames: ['agreed'] as const,
      registers,
    }),
  }
}

export function workerMetrics(registers: Registry[]) {
  return {
    deviceSeconds: new Counter({
      name: 'xmasd_device_seconds_total',
      help: 'Time in forward passes, summed over worker threads, by device',
      labelNames: ['device'] as const,
      registers,
    }),
    jobsWaiting: new Gauge({
      name: 'xmasd_queue_depth_jobs',
      help: 'Jobs that wait for a worker thread',
      labelNames: ['stage'] as const,
      registers,
    }),
    workersBusy: new Gauge({
      name: 'xmasd_busy_workers',
      help: 'Worker threads that have a job',
      labelNames: ['stage'] as const,
      registers,
    }),
    workersReplaced: new Counter({
      name: 'xmasd_workers_replaced_total',
      help: 'Worker threads that died and were replaced',
      registers,
    }),
    outOfMemory: new Counter({
      name: 'xmasd_memory_shortages_total',
      help: 'Scoring jobs that ran out of memory, their worker ended by the system or not, and were done again',
      registers,
    }),
    passTokens: new Gauge({
      name: 'xmasd_pass_tokens',
      help: 'Distinct tokens that one forward pass may have now: proxy.tokensMax, halved where memory ran out',
      registers,
    }),
  }
}
