/**
 * YAML + environment -> one frozen, validated Config. Every key is commented in
 * `config/xmasd.yaml`. Unknown keys are errors that name the nearest known one.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { closest } from 'fastest-levenshtein'
import { parse as parseYaml } from 'yaml'
import { z } from 'zod'
import { LogConfig } from './config-log.ts'
import { DEVICES, ENGINES, PRECISIONS } from './engine/engine.ts'
import { messageOf, XmasdError } from './errors.ts'
import { MODES } from './score/attention.ts'
import { METRICS } from './score/metric.ts'
import { BASELINES, POLICIES } from './select/policy.ts'

const MIB = 1024 * 1024

const ImagesConfig = z.strictObject({
  root: z.string().min(1).default('./images'),
  countMax: z.int().min(1).max(1024).default(16),
  bytesMax: z
    .int()
    .min(1)
    .default(20 * MIB),
  pixelsMax: z.int().min(1).default(64_000_000),
  timeMsMax: z.int().min(1).default(10_000),
  hosts: z.array(z.string()).default([]),
  addressesAllowed: z.array(z.string()).default([]),
})

const ProxyConfig = z.strictObject({
  path: z.string().min(1).default('./proxy'),
  template: z.string().min(1).optional(),
  metric: z.enum(METRICS).default('attention'),
  mode: z.enum(MODES).default('reference'),
  engine: z.enum(ENGINES).default('onnx'),
  device: z.enum(['auto', ...DEVICES]).default('auto'),
  precision: z.enum(PRECISIONS).default('float32'),
  workers: z.int().min(1).max(256).optional(),
  threads: z.int().min(1).max(256).optional(),
  tokensMax: z.int().min(1).default(2048),
  memoryMax: z.int().min(1).optional(),
})

const SCORE_GROUP = 'xmasd-score'
const groupName = (name: string) => z.string().min(1).max(100).default(name)

const ScoreConfig = z.strictObject({
  group: groupName(SCORE_GROUP),
  batchExamplesMax: z.int().min(1).max(65_536).default(64),
  batchBytesMax: z
    .int()
    .min(1)
    .default(64 * MIB),
  batchesInFlightMax: z.int().min(1).max(64).default(3),
  ingestWorkers: z.int().min(1).max(256).optional(),
})

const SelectConfig = z
  .strictObject({
    group: groupName('xmasd-select'),
    policy: z.enum(POLICIES).default('revisable'),
    percent: z.number().min(0).max(100).default(20),
    budgetExamples: z.int().min(0).optional(),
    horizonExamples: z.int().min(1).optional(),
    baseline: z.enum(BASELINES).default('continue'),
    controlPercent: z.number().min(0).max(50).default(0),
    settleEvery: z.int().min(1).default(1),
    idleSettleMs: z.int().min(1).default(1_000),
    nearDuplicates: z
      .strictObject({
        enabled: z.boolean().default(false),
        exemplarsMax: z.int().min(1_000).max(100_000_000).default(1_000_000),
      })
      .prefault({}),
  })
  .refine(
    ({ budgetExamples, controlPercent }) => budgetExamples === undefined || controlPercent === 0,
    { path: ['controlPercent'], error: 'a control arm keeps a percent: leave out budgetExamples' },
  )
  .refine(
    ({ policy, budgetExamples, horizonExamples }) =>
      policy === 'revisable' || budgetExamples === undefined || horizonExamples !== undefined,
    {
      path: ['horizonExamples'],
      error: 'a number of examples to keep for good needs the number that they are chosen from',
    },
  )
  .refine(
    ({ policy, budgetExamples = 0, horizonExamples = Number.POSITIVE_INFINITY }) =>
      policy === 'revisable' || budgetExamples <= horizonExamples,
    {
      path: ['budgetExamples'],
      error: 'more to keep than select.horizonExamples, the number that they are chosen from',
    },
  )

const Schema = z
  .strictObject({
    log: LogConfig,
    images: ImagesConfig.prefault({}),
    proxy: ProxyConfig.prefault({}),
    bundle: z.string().min(1).default('./bundle'),
    score: ScoreConfig.prefault({}),
    select: SelectConfig.prefault({}),
    http: z
      .strictObject({
        enabled: z.boolean().default(true),
        host: z.string().min(1).default('127.0.0.1'),
        port: z.int().min(0).max(65_535).default(9464),
        stallMsMax: z.int().min(1_000).default(600_000),
      })
      .prefault({}),
    logging: z
      .strictObject({
        level: z
          .enum(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'])
          .default('info'),
      })
      .prefault({}),
  })
  .superRefine(({ score, select }, context) => {
    if (score.group !== select.group) return
    // One of the two was set to what it is, the other may be a default.
    const [role, other] = score.group === SCORE_GROUP ? ['select', 'score'] : ['score', 'select']
    const message = `${other}.group has the same name: each role needs a group of its own, or neither gets all of its records`
    context.addIssue({ code: 'custom', path: [role!, 'group'], message })
  })

export type Config = z.infer<typeof Schema>

/** Keys that hold a path: relative ones are taken from the folder of the file that names them. */
const PATHS = [
  ['log', 'path'],
  ['log', 'tls', 'ca'],
  ['log', 'tls', 'cert'],
  ['log', 'tls', 'key'],
  ['log', 'sasl', 'passwordFile'],
  ['images', 'root'],
  ['proxy', 'path'],
  ['bundle'],
] as const
/** Keys whose value is never shown. */
const SECRETS = new Set(['log.sasl.password'])
/** Variables with our prefix that are no configuration keys. */
const OTHER_VARIABLES = new Set(['XMASD_CONFIG'])

type Tree = { [key: string]: unknown }

/**
 * Reads `file` (or `XMASD_CONFIG`, or nothing: all defaults), lays the environment and `overrides`
 * (command-line flags, dotted keys; null: as if the key were not set) over it. Throws CONFIG_INVALID naming
 * key, value and fix.
 */
export function loadConfig(
  file: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
  overrides: Record<string, unknown> = {},
): Config {
  const path = file ?? env.XMASD_CONFIG
  const tree = path === undefined ? {} : readYaml(path)
  if (path !== undefined) resolvePaths(tree, dirname(resolve(path)))
  const origins = new Map<string, string>()
  for (const [key, value] of [...environmentValues(env), ...Object.entries(overrides)]) {
    setAt(tree, key.split('.'), value)
    origins.set(key, variableOf(key) in env ? variableOf(key) : 'command line')
  }
  const parsed = Schema.safeParse(tree)
  if (!parsed.success) throw invalid(parsed.error.issues[0]!, tree, path ?? 'defaults', origins)
  const config = parsed.data
  resolvePaths(config as unknown as Tree, process.cwd())
  return deepFreeze(config)
}

function readYaml(path: string): Tree {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `cannot read the configuration ${path}: ${messageOf(error)}`,
      'pass an existing file with --config, or leave it out to run on the defaults',
    )
  }
  try {
    const tree: unknown = parseYaml(text) ?? {}
    if (typeof tree === 'object' && tree !== null && !Array.isArray(tree)) return tree as Tree
    throw new Error('the document is not a mapping of keys')
  } catch (error) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `${path} is not valid YAML: ${messageOf(error)}`,
      'see config/xmasd.yaml for the form',
    )
  }
}

type Leaf = { key: string; schema: z.ZodType }

/** Every key that holds a value, dotted. */
export function configKeys(): string[] {
  return leaves(Schema, '').map(leaf => leaf.key)
}

function leaves(schema: z.ZodType, prefix: string): Leaf[] {
  const inner = unwrap(schema)
  if (inner instanceof z.ZodUnion) {
    const all = inner.options.flatMap(option => leaves(option as z.ZodType, prefix))
    return [...new Map(all.map(leaf => [leaf.key, leaf])).values()]
  }
  if (!(inner instanceof z.ZodObject)) return [{ key: prefix, schema: inner }]
  return Object.entries(inner.shape as Record<string, z.ZodType>).flatMap(([name, child]) =>
    leaves(child, prefix === '' ? name : `${prefix}.${name}`),
  )
}

function unwrap(schema: z.ZodType): z.ZodType {
  if (schema instanceof z.ZodPipe) return unwrap(schema.out as z.ZodType)
  const wrapped =
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodOptional
  return wrapped ? unwrap(schema.unwrap() as z.ZodType) : schema
}

/** `select.idleSettleMs` -> `XMASD_SELECT_IDLE_SETTLE_MS` */
export function variableOf(key: string): string {
  const words = key.replaceAll('.', '_').replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2')
  return `XMASD_${words.toUpperCase()}`
}

function environmentValues(env: NodeJS.ProcessEnv): [string, unknown][] {
  const known = new Map(leaves(Schema, '').map(leaf => [variableOf(leaf.key), leaf]))
  const found: [string, unknown][] = []
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith('XMASD_') || text === undefined || OTHER_VARIABLES.has(name)) continue
    const leaf = known.get(name)
    if (leaf === undefined) {
      throw new XmasdError(
        'CONFIG_INVALID',
        `the environment variable ${name}="${text}" is no configuration key`,
        `did you mean ${closest(name, [...known.keys()])}? Unset it otherwise`,
      )
    }
    found.push([leaf.key, fromText(leaf.schema, text)])
  }
  return found
}

/** A variable's text in the type that its key wants; what does not fit is left for the schema to refuse. */
function fromText(schema: z.ZodType, text: string): unknown {
  if (schema instanceof z.ZodNumber) {
    return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text
  }
  if (schema instanceof z.ZodBoolean)
    return text === 'true' ? true : text === 'false' ? false : text
  if (schema instanceof z.ZodArray) return text.split(',').filter(part => part !== '')
  return text
}

function setAt(tree: Tree, path: string[], value: unknown): void {
  const [head, ...rest] = path as [string, ...string[]]
  if (rest.length === 0) {
    if (value === null) delete tree[head]
    else if (value !== undefined) tree[head] = value
    return
  }
  const child = tree[head]
  if (typeof child !== 'object' || child === null) tree[head] = {}
  setAt(tree[head] as Tree, rest, value)
}

function getAt(tree: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? (at as Tree)[String(key)] : undefined),
    tree,
  )
}

function resolvePaths(tree: Tree, folder: string): void {
  for (const path of PATHS) {
    const value = getAt(tree, path)
    if (typeof value === 'string') setAt(tree, [...path], resolve(folder, value))
  }
}

function invalid(
  issue: z.core.$ZodIssue,
  tree: Tree,
  file: string,
  origins: Map<string, string>,
): XmasdError {
  const key = issue.path.join('.')
  if (issue.code === 'unrecognized_keys') {
    const unknown = [...issue.path, issue.keys[0]!].join('.')
    if (configKeys().some(known => known === unknown || known.startsWith(`${unknown}.`))) {
      return new XmasdError(
        'CONFIG_INVALID',
        `${unknown} in ${origins.get(unknown) ?? file} goes with log.kind: kafka`,
        'set log.kind to kafka (XMASD_LOG_KIND), or leave that key out',
      )
    }
    return new XmasdError(
      'CONFIG_INVALID',
      `unknown key ${unknown} in ${file}`,
      `did you mean ${nearestKey(unknown)}? Every key is explained in config/xmasd.yaml`,
    )
  }
  const isSecret = SECRETS.has(key)
  const wantsBoolean = issue.code === 'invalid_type' && issue.expected === 'boolean'
  const given = getAt(tree, issue.path)
  const value = isSecret
    ? 'not shown'
    : typeof given === 'number'
      ? String(given)
      : JSON.stringify(given)
  return new XmasdError(
    'CONFIG_INVALID',
    `${key} is ${value} (${origins.get(key) ?? file}): ${issue.message}${wantsBoolean ? ': true or false' : ''}`,
    `set ${key}, or ${variableOf(key)}, to a value that config/xmasd.yaml allows`,
  )
}

/** A key of that very name elsewhere, else the nearest name among those that stand beside it. */
function nearestKey(unknown: string): string {
  const path = unknown.split('.')
  const beside = configKeys()
    .map(key => key.split('.').slice(0, path.length).join('.'))
    .filter(key => key.startsWith(path.slice(0, -1).join('.')))
  const elsewhere = configKeys().find(key => key.endsWith(`.${path.at(-1)}`))
  return elsewhere ?? closest(unknown, beside)
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(value).forEach(deepFreeze)
  return Object.freeze(value)
}
