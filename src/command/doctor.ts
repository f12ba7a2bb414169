/** `doctor`: what works, what does not, what to do. Exit 1 where something needed is broken. */
import { existsSync, statfsSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { Command } from 'commander'
import { openBundle } from '../bundle/bundle.ts'
import { type Config, loadConfig } from '../config.ts'
import { backlogOf, ROLES, type Role } from '../daemon/gauges.ts'
import type { Device } from '../engine/engine.ts'
import { BUILD_HINT, describeTensorflow } from '../engine/tensorflow/backend.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { checkImageRoot } from '../ingest/fetch/image.ts'
import { checkWritable, isUnwritten, nearestExisting } from '../log/local/environment.ts'
import type { Log } from '../log/log.ts'
import { logPlace, openLogToRead } from '../log/open.ts'
import {
  checkLength,
  checkpointBytes,
  openSchedule,
  type Schedule,
} from '../proxy/checkpoint/schedule.ts'
import { checkBundleContinues, checkBundleFits } from '../role/bundle-checks.ts'
import { LIMITS } from '../score/batch.ts'
import {
  chooseDevice,
  chooseTensorflowDevice,
  GPUS,
  type Gpu,
  tryDevice,
  typicalProxy,
  type Verdict,
} from '../score/device/choice.ts'
import { PROBE } from '../score/identity.ts'
import { reachOf } from '../score/metric.ts'
import { describeScores } from '../score/pipeline.ts'
import { planWorkers } from '../score/residency.ts'
import { checkNearSettings } from '../select/dedup/near-duplicates.ts'
import { smallClustersWarning } from '../select/rule/quotas.ts'
import { checkSettings, readActiveBundles } from '../select/state.ts'
import { print, rolesOption } from './helpers/options.ts'
import { placesOf, promptOf } from './helpers/prompt.ts'

type Options = { config?: string; roles: Role[]; json?: boolean }

/** `warn`: not needed for what is configured. */
type Found = { status: 'ok' | 'warn' | 'fail'; detail: string; fix?: string }
type Finding = { name: string } & Found

export function command(): Command {
  return new Command('doctor')
    .description('Check engines, devices, proxy, bundle, log, images and disk, and say what to do.')
    .option('--config <file>', 'configuration file')
    .addOption(rolesOption())
    .option('--json', 'one JSON document on stdout')
    .action(doctor)
}

async function doctor(options: Options): Promise<void> {
  const config = loadConfig(options.config)
  const scores = options.roles.includes('score')
  const findings = [
    await attempt('machine', findMachine),
    ...(scores ? await findScoring(config) : []),
    await attempt('bundle', () => findBundle(config, options.roles)),
    await attempt('log', () => findLog(config, options.roles)),
    ...(scores ? [await attempt('images', () => findImages(config))] : []),
    await attempt('disk', () => findDisk(config)),
  ]
  const isReady = findings.every(({ status }) => status !== 'fail')
  const isOpen = findings.some(({ fix }) => fix !== undefined)
  print(options, { ok: isReady, findings }, [
    ...findings.flatMap(linesOf),
    '',
    !isReady
      ? 'not ready: fix the items marked ✗'
      : isOpen
        ? 'ready; the items marked ! can be improved'
        : 'ready',
  ])
  if (!isReady) process.exitCode = 1
}

function linesOf({ name, status, detail, fix }: Finding): string[] {
  const mark = { ok: '✓', warn: '!', fail: '✗' }[status]
  const line = `${mark} ${name.padEnd(16)} ${detail}`
  return fix === undefined ? [line] : [line, `${' '.repeat(19)}→ ${fix}`]
}

async function attempt(name: string, find: () => Found | Promise<Found>): Promise<Finding> {
  try {
    return { name, ...(await find()) }
  } catch (error) {
    const fix = error instanceof XmasdError ? error.hint : 'see the message'
    return { name, status: 'fail', detail: messageOf(error), fix }
  }
}

function ok(detail: string): Found {
  return { status: 'ok', detail }
}

function findMachine(): Found {
  const memory = (totalmem() / 2 ** 30).toFixed(1)
  return ok(
    `Node ${process.versions.node}, ${availableParallelism()} cores, ${memory} GiB of memory`,
  )
}

async function findScoring(config: Config): Promise<Finding[]> {
  return [
    await attempt('onnx engine', findOnnx),
    await attempt('tensorflow', () => findTensorflow(config)),
    ...(await findDevices(config)),
    await attempt('proxy', () => findProxy(config)),
    ...(await findPrompt(config)),
  ]
}

async function findOnnx(): Promise<Found> {
  await import('onnxruntime-node')
  return ok('onnxruntime loads')
}

async function findTensorflow(config: Config): Promise<Found> {
  const found = await describeTensorflow()
  if (found.backend === 'tensorflow') {
    const { device, version, dir } = found
    const where = device === 'cuda' ? 'on a CUDA GPU' : 'on the CPU'
    return ok(`TensorFlow ${version} computes ${where} (${dir})`)
  }
  const detail = 'the addon is not built: this engine and `train` run on WebAssembly, which is slow'
  return config.proxy.engine === 'tensorflow'
    ? { status: 'warn', detail, fix: BUILD_HINT }
    : { status: 'warn', detail: `${detail}; proxy.engine onnx does not need it` }
}

function findProxy({ proxy }: Config): Found {
  const { path } = proxy
  if (!existsSync(path)) return missing(path, 'proxy.path')
  const schedule = openSchedule(path, reachOf(proxy.metric, proxy.gain), proxy.base)
  checkLength(schedule)
  const { checkpoints, config, fingerprint, visionShared, warnings } = schedule
  const { prompt } = describeScores(proxy, schedule)
  const megabytes = (checkpointBytes(checkpoints[0]!) / 2 ** 20).toFixed(1)
  const steps = checkpoints.map(({ step }) => step).join(', ')
  const detail =
    `${path}: ${config.vision.family} + ${config.text.family}, ${checkpoints.length} checkpoints ` +
    `(${steps}) of ${megabytes} MB, vision tower ${visionShared ? 'shared' : 'differs'}, ` +
    `${fingerprint.slice(0, 12)}, template ${prompt.origin}`
  return warnings.length === 0 ? ok(detail) : { status: 'warn', detail, fix: warnings.join('; ') }
}

/** How a fixed conversation about a picture reaches the proxy. */
async function findPrompt({ proxy }: Config): Promise<Finding[]> {
  const schedule = scheduleOf(proxy)
  if (schedule === undefined) return []
  const find = (): Found => {
    const shown = promptOf(proxy, schedule, PROBE)
    return ok(`${JSON.stringify(shown.text)}: ${placesOf(shown).join(', ')}`)
  }
  return [await attempt('prompt', find)]
}

/** A path that `run` needs. */
function missing(path: string, key: string): Found {
  const fix = `set ${key} before \`xmasd run\`; the demo and the offline commands do not need it`
  return { status: 'fail', detail: `${path} is not there`, fix }
}

async function findBundle(config: Config, roles: readonly Role[]): Promise<Found> {
  if (!existsSync(config.bundle)) return missing(config.bundle, 'bundle')
  const bundle = await openBundle(config.bundle)
  const { clusters, schedule } = bundle.manifest
  const detail = `${config.bundle}: ${bundle.id}, ${clusters} clusters over ${schedule.T} checkpoints`
  const small = smallClustersWarning(bundle.manifest.baseline.sizes)
  const fit = 'fit fewer clusters: xmasd fit --clusters K'
  const found: Found =
    small === undefined ? ok(detail) : { status: 'warn', detail: `${detail}; ${small}`, fix: fit }
  if (!roles.includes('score')) return found
  const proxy = scheduleOf(config.proxy)
  if (proxy === undefined) {
    return { ...found, detail: `${found.detail}; not compared with a proxy, which is missing` }
  }
  checkBundleFits(bundle, describeScores(config.proxy, proxy), config)
  return found
}

/** Undefined where it cannot be read: the finding `proxy` says so. */
function scheduleOf({ path, metric, gain, base }: Config['proxy']): Schedule | undefined {
  try {
    return openSchedule(path, reachOf(metric, gain), base)
  } catch (error) {
    if (error instanceof XmasdError) return undefined
    throw error
  }
}

async function findLog(config: Config, roles: readonly Role[]): Promise<Found> {
  checkWritable(config.log.path)
  const place = logPlace(config.log)
  if (config.log.kind === 'local' && isUnwritten(config.log.path)) {
    return ok(`${place} is empty: the first run makes the log`)
  }
  const log = await openLogToRead(config.log).catch((error: unknown) => {
    if (error instanceof XmasdError && error.code === 'TOPIC_MISSING') return undefined
    throw error
  })
  if (log === undefined) return ok(`${place} has no topics: the first run makes them`)
  try {
    await checkLog(log, config, roles)
    const backlogs = await Promise.all(
      ROLES.map(async role => `${role} ${await backlogOf(log, config, role)}`),
    )
    const ends = await log.ends(config.log.topics.examples)
    return ok(`${place}: examples end at ${ends.join(', ')}; backlog ${backlogs.join(', ')}`)
  } finally {
    await log.close()
  }
}

/** Throws where `run` would: the log is of another bundle, the state of other settings. */
async function checkLog(log: Log, config: Config, roles: readonly Role[]): Promise<void> {
  if (existsSync(config.bundle)) {
    await checkBundleContinues(log, config, await openBundle(config.bundle), { readonly: true })
  }
  // On Kafka a consumer would join the group and take partitions from the daemon.
  if (log.kind === 'kafka' || !roles.includes('select')) return
  const group = config.select.group
  const consumer = await log.consume({ group, topics: [config.log.topics.assignments] })
  try {
    checkSettings(consumer.state, config.select)
    const { nearDuplicates } = config.select
    checkNearSettings(
      consumer.state,
      nearDuplicates,
      readActiveBundles(consumer.state).first !== null,
    )
  } finally {
    await consumer.close()
  }
}

function findImages({ images: { root } }: Config): Found {
  checkImageRoot(root)
  return ok(`${root} is there`)
}

const FREE_BYTES_MIN = 100 * 2 ** 20
const FREE_BYTES_WANTED = 2 ** 30

function findDisk(config: Config): Found {
  const folder = nearestExisting(config.log.path)
  const { bavail, bsize } = statfsSync(folder)
  const free = bavail * bsize
  const detail = `${(free / 2 ** 30).toFixed(1)} GiB free at ${folder}`
  if (free >= FREE_BYTES_WANTED) return ok(detail)
  const fix = 'free some space, or move log.path'
  if (free >= FREE_BYTES_MIN) return { status: 'warn', detail, fix }
  const megabytes = `${(free / 2 ** 20).toFixed(0)} MiB free at ${folder}`
  return { status: 'fail', detail: `no space left: ${megabytes}`, fix }
}

/* Devices: what each can do, and which one scores. */

/**
 * A finding for each GPU, which is tried once, one for the chosen device, one for its memory. A
 * missing GPU is no defect.
 */
async function findDevices(config: Config): Promise<Finding[]> {
  const { engine, device: wish } = config.proxy
  const schedule = scheduleOf(config.proxy)
  const proxy = schedule?.config ?? typicalProxy()
  const verdicts = new Map<Gpu, Verdict>()
  for (const gpu of engine === 'onnx' ? GPUS : []) {
    verdicts.set(gpu, await tryDevice(gpu, proxy, { evenIfSlow: wish === gpu }))
  }
  let chosen: Device | undefined
  const device = await attempt('device', async () => {
    const { device, why } =
      engine === 'tensorflow'
        ? await chooseTensorflowDevice(wish)
        : await chooseDevice(wish, proxy, async gpu => verdicts.get(gpu)!)
    chosen = device
    return ok(`scoring runs on ${device} (${why.at(-1)})`)
  })
  const findings = [...verdicts.values()].map(findingOf)
  if (chosen === undefined || schedule === undefined) return [...findings, device]
  const memory = await attempt('memory', () => findMemory(config, schedule, chosen!))
  return [...findings, device, memory]
}

/** Throws CONFIG_INVALID where proxy.memoryMax or proxy.workers cannot be met. */
function findMemory({ proxy, score }: Config, schedule: Schedule, device: Device): Found {
  const { memoryMax, tokensMax } = proxy
  const { batchExamplesMax } = score
  const limits = { ...LIMITS, tokensMax }
  const plan = planWorkers(schedule, device, { ...proxy, limits, batchExamplesMax })
  const { length } = schedule.checkpoints
  const { residents } = plan.residency
  const budget = memoryMax === undefined ? 'half of what is free' : `proxy.memoryMax ${memoryMax}`
  const detail =
    `${residents} of ${length} checkpoints stay in memory (${budget}; ${plan.workers} workers of ` +
    `${plan.threads} threads)`
  if (residents === length) return ok(detail)
  return {
    status: 'warn',
    detail: `${detail}; the others are read again for every batch of ${batchExamplesMax}`,
    fix: 'raise proxy.memoryMax, or score.batchExamplesMax, so that each reading serves more',
  }
}

function findingOf({ device, isUsable, detail, fix }: Verdict): Finding {
  const text = fix === undefined ? detail : `${detail}; ${fix}`
  return { name: device, status: isUsable ? 'ok' : 'warn', detail: text }
}
