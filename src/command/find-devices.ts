/** `doctor`'s look at the devices: what each can do, and which one scores. */
import { existsSync } from 'node:fs'
import type { Config } from '../config.ts'
import type { Device } from '../engine/engine.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { openSchedule, type Schedule } from '../proxy/schedule.ts'
import {
  chooseDevice,
  chooseTensorflowDevice,
  GPUS,
  type Gpu,
  TYPICAL_PROXY,
  tryDevice,
  type Verdict,
} from '../score/device.ts'
import { reachOf } from '../score/metric.ts'
import { LIMITS } from '../score/plan.ts'
import { planWorkers } from '../score/scoring.ts'
import type { Finding } from './doctor.ts'

/**
 * A finding a GPU, which is tried once, one for what was chosen, and one for what stays in its memory. A
 * GPU that is not there is no defect.
 */
export async function findDevices(config: Config): Promise<Finding[]> {
  const { engine, device: wish } = config.proxy
  const schedule = scheduleOf(config)
  const proxy = schedule?.config ?? TYPICAL_PROXY
  const verdicts = new Map<Gpu, Verdict>()
  if (engine === 'onnx') {
    for (const gpu of GPUS) {
      verdicts.set(gpu, await tryDevice(gpu, proxy, { evenIfSlow: wish === gpu }))
    }
  }
  const findings = [...verdicts.values()].map(findingOf)
  try {
    const { device, why } =
      engine === 'tensorflow'
        ? await chooseTensorflowDevice(wish)
        : await chooseDevice(wish, proxy, async gpu => verdicts.get(gpu)!)
    const detail = `scoring runs on ${device} (${why.at(-1)})`
    findings.push({ name: 'device', status: 'ok', detail })
    if (schedule !== undefined) findings.push(memoryFinding(config, schedule, device))
  } catch (error) {
    const fix = error instanceof XmasdError ? error.hint : 'see the message'
    findings.push({ name: 'device', status: 'fail', detail: messageOf(error), fix })
  }
  return findings
}

/** Throws CONFIG_INVALID where proxy.memoryMax or proxy.workers can't be. */
function memoryFinding({ proxy, score }: Config, schedule: Schedule, device: Device): Finding {
  const { memoryMax, tokensMax } = proxy
  const limits = { ...LIMITS, tokensMax }
  const { batchExamplesMax } = score
  const plan = planWorkers(schedule, device, { ...proxy, limits, batchExamplesMax })
  const { length } = schedule.checkpoints
  const { residents } = plan.residency
  const budget = memoryMax === undefined ? 'half of what is free' : `proxy.memoryMax ${memoryMax}`
  const detail =
    `${residents} of ${length} checkpoints stay in memory (${budget}; ${plan.workers} workers of ` +
    `${plan.threads} threads)`
  if (residents === length) return { name: 'memory', status: 'ok', detail }
  const streamed = `${detail}; the others are read again for every batch of ${batchExamplesMax}`
  const fix = 'raise proxy.memoryMax, or score.batchExamplesMax, so that each reading serves more'
  return { name: 'memory', status: 'warn', detail: streamed, fix }
}

function findingOf({ device, isUsable, detail, fix }: Verdict): Finding {
  const text = fix === undefined ? detail : `${detail}; ${fix}`
  return { name: device, status: isUsable ? 'ok' : 'warn', detail: text }
}

/** Devices are tried with the heads of the proxy in use; a proxy that can't be read is another finding. */
function scheduleOf({ proxy: { path, metric } }: Config): Schedule | undefined {
  try {
    return existsSync(path) ? openSchedule(path, reachOf(metric)) : undefined
  } catch {
    return undefined
  }
}
