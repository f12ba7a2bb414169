/** `doctor`: what works, what does not, what to do. Exit 0 unless something that is needed is broken. */
import { existsSync, statfsSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { Command } from 'commander'
import { checkBundleContinues, checkBundleFits } from '../bundle-checks.ts'
import { openBundle } from '../cluster/bundle.ts'
import { type Config, loadConfig } from '../config.ts'
import { BUILD_HINT, describeTensorflow } from '../engine/tensorflow-backend.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { backlogOf, ROLES, type Role } from '../gauges.ts'
import { checkImageRoot } from '../ingest/fetch-image.ts'
import { readImageProcessor } from '../ingest/preprocess.ts'
import { checkSamePreparation } from '../ingest/same-preparation.ts'
import { readTokenizer } from '../ingest/tokenizer.ts'
import { checkWritable, isUnwritten, nearestExisting } from '../log/environment.ts'
import type { Log } from '../log/log.ts'
import { groupsOf, logPlace, openLogToRead } from '../open-log.ts'
import { checkpointBytes, openSchedule, type Schedule } from '../proxy/schedule.ts'
import { reachOf } from '../score/metric.ts'
import { checkNearSettings } from '../select/near-duplicates.ts'
import { readInForce } from '../select/scope.ts'
import { checkSettings } from '../select/state.ts'
import { findDevices } from './find-devices.ts'
import { rolesOption } from './options.ts'

type Options = { config?: string; roles: Role[]; json?: boolean }

/** `warn`: something is missing that is not needed for what works now. */
export type Finding = { name: string; status: 'ok' | 'warn' | 'fail'; detail: string; fix?: string }

export function doctorCommand(): Command {
  return new Command('doctor')
    .description(
      'Look at engines, devices, proxy, bundle, log, images, disk: what works, what to do.',
    )
    .option('--config <file>', 'configuration file')
    .addOption(rolesOption())
    .option('--json', 'one JSON document on stdout')
    .action(doctor)
}

async function doctor(options: Options): Promise<void> {
  const config = loadConfig(options.config)
  const scores = options.roles.includes('score')
  const findings = [
    machine(),
    ...(scores ? await findScoring(config) : []),
    await attempt('bundle', () => findBundle(config, options.roles)),
    await attempt('log', () => findLog(config, options.roles)),
    ...(scores ? [await attempt('images', () => findImages(config))] : []),
    await attempt('disk', () => findDisk(config)),
  ]
  const isFit = findings.every(({ status }) => status !== 'fail')
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ v: 1, ok: isFit, findings })}\n`)
  } else {
    for (const finding of findings) process.stdout.write(lineOf(finding))
    const open = findings.some(({ fix }) => fix !== undefined)
    const verdict = !isFit
      ? 'not ready: mend what is marked ✗'
      : open
        ? 'sound; what is marked ! is still to be set up'
        : 'ready to run'
    process.stdout.write(`\n${verdict}\n`)
  }
  if (!isFit) process.exitCode = 1
}

function lineOf({ name, status, detail, fix }: Finding): string {
  const mark = { ok: '✓', warn: '!', fail: '✗' }[status]
  return `${mark} ${name.padEnd(16)} ${detail}\n${fix === undefined ? '' : `${' '.repeat(19)}→ ${fix}\n`}`
}

async function attempt(name: string, find: () => Finding | Promise<Finding>): Promise<Finding> {
  try {
    return await find()
  } catch (error) {
    const fix = error instanceof XmasdError ? error.hint : 'see the message'
    return { name, status: 'fail', detail: messageOf(error), fix }
  }
}

function machine(): Finding {
  const memory = (totalmem() / 2 ** 30).toFixed(1)
  const detail = `Node ${process.versions.node}, ${availableParallelism()} cores, ${memory} GiB of memory`
  return { name: 'machine', status: 'ok', detail }
}

async function findScoring(config: Config): Promise<Finding[]> {
  return [
    await attempt('onnx engine', findOnnx),
    await attempt('tensorflow', () => findTensorflow(config)),
    ...(await findDevices(config)),
    await attempt('proxy', () => findProxy(config)),
  ]
}

async function findOnnx(): Promise<Finding> {
  await import('onnxruntime-node')
  return { name: 'onnx engine', status: 'ok', detail: 'onnxruntime loads' }
}

async function findTensorflow(config: Config): Promise<Finding> {
  const name = 'tensorflow'
  const found = await describeTensorflow()
  if (found.backend === 'tensorflow') {
    const { device, version, dir } = found
    const where = device === 'cuda' ? 'on a CUDA GPU' : 'on the CPU'
    return { name, status: 'ok', detail: `TensorFlow ${version} computes ${where} (${dir})` }
  }
  const detail = 'no addon is built: this engine, and `train`, run on WebAssembly, which is slow'
  if (config.proxy.engine !== 'tensorflow') {
    return { name, status: 'warn', detail: `${detail}; proxy.engine onnx needs none` }
  }
  return { name, status: 'warn', detail, fix: BUILD_HINT }
}

function findProxy(config: Config): Finding {
  if (!existsSync(config.proxy.path)) return missing('proxy', config.proxy.path, 'proxy.path')
  const schedule = openSchedule(config.proxy.path, reachOf(config.proxy.metric))
  const { checkpoints, config: proxy, fingerprint, visionShared } = schedule
  const folders = checkpoints.map(({ dir }) => dir)
  readTokenizer(folders[0]!)
  readImageProcessor(folders[0]!, proxy)
  checkSamePreparation(folders, proxy)
  const megabytes = (checkpointBytes(checkpoints[0]!) / 2 ** 20).toFixed(1)
  const steps = checkpoints.map(({ step }) => step).join(', ')
  const detail =
    `${config.proxy.path}: ${proxy.vision.family} + ${proxy.text.family}, ${checkpoints.length} checkpoints ` +
    `(${steps}) of ${megabytes} MB, vision tower ${visionShared ? 'shared' : 'differs'}, ${fingerprint.slice(0, 12)}`
  return { name: 'proxy', status: 'ok', detail }
}

/** What `run` cannot do without. */
function missing(name: string, path: string, key: string): Finding {
  const fix = `set ${key} before \`xmasd run\`; the demo and the offline commands need none`
  return { name, status: 'fail', detail: `${path} is not there`, fix }
}

async function findBundle(config: Config, roles: readonly Role[]): Promise<Finding> {
  if (!existsSync(config.bundle)) return missing('bundle', config.bundle, 'bundle')
  const bundle = await openBundle(config.bundle)
  const { clusters, schedule } = bundle.manifest
  const detail = `${config.bundle}: ${bundle.id}, ${clusters} clusters over ${schedule.T} checkpoints`
  if (!roles.includes('score')) return { name: 'bundle', status: 'ok', detail }
  const proxy = scheduleOf(config)
  if (proxy === undefined) {
    return { name: 'bundle', status: 'ok', detail: `${detail}; no proxy to look whether it fits` }
  }
  const { checkpoints, fingerprint } = proxy
  checkBundleFits(bundle, { steps: checkpoints.map(({ step }) => step), fingerprint }, config)
  return { name: 'bundle', status: 'ok', detail }
}

/** Undefined where it can't be read, which is a finding of its own. */
function scheduleOf(config: Config): Schedule | undefined {
  try {
    return openSchedule(config.proxy.path, reachOf(config.proxy.metric))
  } catch (error) {
    if (error instanceof XmasdError) return undefined
    throw error
  }
}

async function findLog(config: Config, roles: readonly Role[]): Promise<Finding> {
  checkWritable(config.log.path)
  const place = logPlace(config)
  if (config.log.kind === 'local' && isUnwritten(config.log.path)) {
    return {
      name: 'log',
      status: 'ok',
      detail: `${place} is empty yet: the first run makes the log`,
    }
  }
  const log = await openLogToRead(config).catch((error: unknown) => {
    if (error instanceof XmasdError && error.code === 'TOPIC_MISSING') return undefined
    throw error
  })
  if (log === undefined) {
    return {
      name: 'log',
      status: 'ok',
      detail: `${place} has no topics yet: the first run makes them`,
    }
  }
  try {
    await checkLog(log, config, roles)
    const backlogs = await Promise.all(
      ROLES.map(async role => `${role} ${await backlogOf(log, config, role)}`),
    )
    const ends = await log.ends(config.log.topics.examples)
    const detail = `${place}: examples end at ${ends.join(', ')}; backlog ${backlogs.join(', ')}`
    return { name: 'log', status: 'ok', detail }
  } finally {
    await log.close()
  }
}

/** What `run` would refuse: another bundle than the log's, other settings than the state's. */
async function checkLog(log: Log, config: Config, roles: readonly Role[]): Promise<void> {
  if (existsSync(config.bundle)) {
    await checkBundleContinues(log, config, await openBundle(config.bundle), { readonly: true })
  }
  // On Kafka whoever consumes is a member of the group: it would take the work from the daemon.
  if (log.kind === 'kafka' || !roles.includes('select')) return
  const group = groupsOf(config).select
  const consumer = await log.consume({ group, topics: [config.log.topics.assignments] })
  try {
    checkSettings(consumer.state, config.select)
    const { nearDuplicates } = config.select
    checkNearSettings(consumer.state, nearDuplicates, readInForce(consumer.state).first !== null)
  } finally {
    await consumer.close()
  }
}

function findImages(config: Config): Finding {
  const { root } = config.images
  checkImageRoot(root)
  return { name: 'images', status: 'ok', detail: `${root} is there` }
}

const FREE_BYTES_MIN = 1 * 2 ** 30

function findDisk(config: Config): Finding {
  const folder = nearestExisting(config.log.path)
  const { bavail, bsize } = statfsSync(folder)
  const free = bavail * bsize
  const detail = `${(free / 2 ** 30).toFixed(1)} GiB free at ${folder}`
  if (free >= FREE_BYTES_MIN) return { name: 'disk', status: 'ok', detail }
  return { name: 'disk', status: 'warn', detail, fix: 'free some space, or move log.path' }
}
