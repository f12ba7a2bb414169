/** `doctor`'s look at the devices: what each can do, and which one scores. */
import { existsSync } from 'node:fs'
import type { Config } from '../config.ts'
import { messageOf, XmasdError } from '../errors.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { openSchedule } from '../proxy/schedule.ts'
import {
  chooseDevice,
  chooseTensorflowDevice,
  GPUS,
  type Gpu,
  TYPICAL_PROXY,
  tryDevice,
  type Verdict,
} from '../score/device.ts'
import type { Finding } from './doctor.ts'

/** A finding a GPU, which is tried once, and one for what was chosen. A GPU that is not there is no defect. */
export async function findDevices(config: Config): Promise<Finding[]> {
  const { engine, device: wish } = config.proxy
  if (engine === 'tensorflow') return [await chosen(() => chooseTensorflowDevice(wish))]
  const proxy = proxyOf(config)
  const verdicts = new Map<Gpu, Verdict>()
  for (const gpu of GPUS) {
    verdicts.set(gpu, await tryDevice(gpu, proxy, { evenIfSlow: wish === gpu }))
  }
  return [
    ...[...verdicts.values()].map(findingOf),
    await chosen(() => chooseDevice(wish, proxy, async gpu => verdicts.get(gpu)!)),
  ]
}

function findingOf({ device, isUsable, detail, fix }: Verdict): Finding {
  const text = fix === undefined ? detail : `${detail}; ${fix}`
  return { name: device, status: isUsable ? 'ok' : 'warn', detail: text }
}

async function chosen(choose: () => ReturnType<typeof chooseDevice>): Promise<Finding> {
  try {
    const { device, why } = await choose()
    return { name: 'device', status: 'ok', detail: `scoring runs on ${device} (${why.at(-1)})` }
  } catch (error) {
    const fix = error instanceof XmasdError ? error.hint : 'see the message'
    return { name: 'device', status: 'fail', detail: messageOf(error), fix }
  }
}

/** Devices are tried with the heads of the proxy in use; a proxy that can't be read is another finding. */
function proxyOf(config: Config): ProxyConfig {
  try {
    return existsSync(config.proxy.path) ? openSchedule(config.proxy.path).config : TYPICAL_PROXY
  } catch {
    return TYPICAL_PROXY
  }
}
