/**
 * YAML, environment and flags -> one frozen, validated Config; every mistake is reported at once.
 * Every key is commented in `config/xmasd.yaml`.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { closest } from 'fastest-levenshtein'
import { parse as parseYaml } from 'yaml'
import { z } from 'zod'
import { DEVICES, ENGINES, PRECISIONS } from './engine/engine.ts'
import { messageOf, XmasdError } from './errors.ts'
import { BUCKET, BUCKET_RULE, HOST, HOST_RULE } from './ingest/fetch/address.ts'
import { TEXT_LIMITS } from './ingest/form/example.ts'
import { Fields } from './ingest/form/fields.ts'
import { IMAGE_LIMITS, TRUNCATED } from './ingest/image/pixels.ts'
import { LogConfig } from './log/config.ts'
import { MODES } from './score/attention.ts'
import { METRICS } from './score/metric.ts'
import { SelectConfig } from './select/config.ts'

const MIB = 1024 * 1024

const ImagesConfig = z.strictObject({
  root: z.string().min(1).default('./images'),
  countMax: z.int().min(1).max(1024).default(16),
  bytesMax: z.int().min(1).default(IMAGE_LIMITS.bytesMax),
  pixelsMax: z.int().min(1).default(64_000_000),
  examplePixelsMax: z.int().min(1).default(256_000_000),
  timeMsMax: z.int().min(1).default(10_000),
  truncated: z.enum(TRUNCATED).default('refuse'),
  hosts: z.array(z.string().regex(HOST, HOST_RULE)).default([]),
  addressesAllowed: z.array(z.string()).default([]),
  buckets: z.array(z.string().regex(BUCKET, BUCKET_RULE)).default([]),
  headersFile: z.string().min(1).optional(),
  requestsPerSecondMax: z.number().positive().max(1_000_000).optional(),
})

const TextConfig = z.strictObject({
  charactersMax: z.int().min(1).default(TEXT_LIMITS.charactersMax),
  turnsMax: z.int().min(2).default(TEXT_LIMITS.turnsMax),
})

const ProxyConfig = z.strictObject({
  path: z.string().min(1).default('./proxy'),
  base: z.string().min(1).optional(),
  template: z.string().min(1).optional(),
  imagePixels: z.union([z.int().min(1), z.literal('checkpoint')]).optional(),
  metric: z.enum(METRICS).default('attention'),
  mode: z.enum(MODES).default('reference'),
  gain: z.union([z.boolean(), z.literal('each')]).default(false),
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
  ingestMsMax: z.int().min(1_000).default(16_000),
  decodedBytesMax: z.int().min(1).optional(),
})

export const ConfigSchema = z
  .strictObject({
    log: LogConfig,
    images: ImagesConfig.prefault({}),
    text: TextConfig.prefault({}),
    data: z.strictObject({ fields: Fields.prefault({}) }).prefault({}),
    proxy: ProxyConfig.prefault({}),
    bundle: z.string().min(1).default('./bundle'),
    score: ScoreConfig.prefault({}),
    select: SelectConfig.prefault({}),
    http: z
      .strictObject({
        enabled: z.boolean().default(true),
        host: z.string().min(1).default('127.0.0.1'),
        port: z.int().min(0).max(65_535).default(9464),
        hosts: z.array(z.string().min(1)).default([]),
        stallMsMax: z.int().min(1_000).default(600_000),
        dashboard: z.boolean().default(true),
        token: z.string().min(16).optional(),
        tokenFile: z.string().min(1).optional(),
        trustedProxyHeader: z.string().min(1).optional(),
      })
      .prefault({}),
    shutdownMsMax: z.int().min(1_000).default(10_000),
    logging: z
      .strictObject({
        level: z
          .enum(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace'])
          .default('info'),
        format: z.enum(['auto', 'json', 'text']).default('auto'),
      })
      .prefault({}),
  })
  .superRefine(({ score, select }, context) => {
    if (score.group !== select.group) return
    // The other one may be a default.
    const [role, other] = score.group === SCORE_GROUP ? ['select', 'score'] : ['score', 'select']
    const message = `${other}.group has the same name: with one group neither role gets all of its records`
    context.addIssue({ code: 'custom', path: [role!, 'group'], message })
  })

export type Config = z.infer<typeof ConfigSchema>

/** Keys that hold a path. Relative paths start at the folder of the file that names them. */
const PATHS = [
  'log.path',
  'log.tls.ca',
  'log.tls.cert',
  'log.tls.key',
  'log.sasl.passwordFile',
  'log.schemaRegistry.passwordFile',
  'images.root',
  'images.headersFile',
  'proxy.path',
  'proxy.base',
  'bundle',
  'http.tokenFile',
]
/** Keys whose value is never shown. */
const SECRETS = new Set(['log.sasl.password', 'log.schemaRegistry.password', 'http.token'])
const OTHER_VARIABLES = new Set(['XMASD_CONFIG'])

type Tree = { [key: string]: unknown }

/** Values of dotted keys from the command line; null unsets a key, undefined leaves it. */
export type Overrides = Record<string, unknown>
/** The command-line flags that stand for dotted keys. */
export type Flags = Record<string, string>

/** One thing wrong with a configuration. */
export type Mistake = {
  /** The dotted key, variable or flag, as the reader wrote it. */
  key: string
  /** As JSON; null where it is missing or secret. */
  value: string | null
  /** File, variable or flag that sets it. */
  origin: string
  problem: string
  fix: string
}

export type Checked = { file: string | undefined; config: Config | undefined; mistakes: Mistake[] }

/**
 * Reads `file` (or `XMASD_CONFIG`, or nothing: all defaults); the environment wins over it, and
 * `overrides` win over both. Throws CONFIG_INVALID with every mistake: key, value, allowed values,
 * fix.
 */
export function loadConfig(
  file: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
  overrides: Overrides = {},
  flags: Flags = {},
): Config {
  const { config, mistakes } = checkConfig(file, env, overrides, flags)
  if (config !== undefined) return config
  if (mistakes.length === 1) {
    throw new XmasdError('CONFIG_INVALID', mistakes[0]!.problem, mistakes[0]!.fix)
  }
  throw new XmasdError(
    'CONFIG_INVALID',
    `${mistakes.length} mistakes in the configuration`,
    mistakes.map(({ problem, fix }) => `${problem}\n  → ${fix}`).join('\n'),
  )
}

/**
 * As `loadConfig`, with the mistakes as data. Throws CONFIG_INVALID where the file cannot be read
 * or is no YAML mapping.
 */
export function checkConfig(
  file: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
  overrides: Overrides = {},
  flags: Flags = {},
): Checked {
  const path = file ?? env.XMASD_CONFIG
  const tree = path === undefined ? {} : readYaml(path)
  if (path !== undefined) resolvePaths(tree, dirname(resolve(path)))
  const mistakes: Mistake[] = []
  const origins = new Map<string, { name: string; origin: string }>()
  for (const { key, name, value } of environmentValues(env, mistakes)) {
    setAt(tree, key.split('.'), value)
    origins.set(key, { name, origin: name })
  }
  for (const [key, value] of Object.entries(overrides)) {
    if (value === undefined) continue
    setAt(tree, key.split('.'), value)
    origins.set(key, { name: flags[key] ?? key, origin: 'command line' })
  }
  const { config, issues } = parse(tree)
  const of = { tree, file: path ?? 'defaults', origins }
  mistakes.push(...issues.flatMap(issue => mistakesOf(issue, of)))
  if (config === undefined || mistakes.length > 0)
    return { file: path, config: undefined, mistakes }
  resolvePaths(config as unknown as Tree, process.cwd())
  return { file: path, config: deepFreeze(config), mistakes }
}

type Issue = z.core.$ZodIssue

/**
 * Parses again without the wrong keys until nothing is wrong: zod compares keys with each other only
 * where each is valid by itself.
 */
function parse(tree: Tree): { config: Config | undefined; issues: Issue[] } {
  const issues: Issue[] = []
  const rest = structuredClone(tree)
  for (let before = ''; before !== JSON.stringify(rest); ) {
    before = JSON.stringify(rest)
    const parsed = ConfigSchema.safeParse(rest)
    if (parsed.success) return { config: issues.length === 0 ? parsed.data : undefined, issues }
    for (const issue of parsed.error.issues) {
      const { path } = issue
      const isMissing = getAt(rest, path) === undefined
      // A key that is missing because it was removed here is no mistake.
      if (!isMissing || getAt(tree, path) === undefined) issues.push(issue)
      const keys = issue.code === 'unrecognized_keys' ? issue.keys : []
      for (const key of keys) removeAt(rest, [...path, key])
      if (keys.length === 0) removeAt(rest, isMissing ? path.slice(0, -1) : path)
    }
  }
  return { config: undefined, issues }
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
      `${path} is not valid YAML: ${messageOf(error).trimEnd()}`,
      'see config/xmasd.yaml for the form',
    )
  }
}

type Leaf = { key: string; schemas: z.ZodType[] }

/** Every key that holds a value, dotted. */
export function configKeys(): string[] {
  return leaves().map(({ key }) => key)
}

/** A key that several kinds of log have occurs once, with all of its schemas. */
function leaves(): Leaf[] {
  const found = new Map<string, z.ZodType[]>()
  const visit = (schema: z.ZodType, key: string): void => {
    const inner = unwrap(schema)
    if (inner instanceof z.ZodUnion) {
      for (const option of inner.options) visit(option as z.ZodType, key)
    } else if (inner instanceof z.ZodObject) {
      for (const [name, child] of Object.entries(inner.shape as Record<string, z.ZodType>)) {
        visit(child, key === '' ? name : `${key}.${name}`)
      }
    } else found.set(key, [...(found.get(key) ?? []), inner])
  }
  visit(ConfigSchema, '')
  return [...found].map(([key, schemas]) => ({ key, schemas }))
}

function unwrap(schema: z.ZodType): z.ZodType {
  if (schema instanceof z.ZodPipe) return unwrap(schema.out as z.ZodType)
  const wrapped =
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodOptional
  return wrapped ? unwrap(schema.unwrap() as z.ZodType) : schema
}

/** The values that a key allows, in words; undefined for free text. */
function allowedAt(key: string): string | undefined {
  const schemas = leaves().find(leaf => leaf.key === key)?.schemas ?? []
  const [first, ...others] = schemas.map(schema => z.toJSONSchema(schema, { io: 'input' }))
  if (first === undefined) return undefined
  const choices = [first, ...others].flatMap(
    ({ enum: values, const: value, type }) =>
      values ?? value ?? (type === 'boolean' && others.length > 0 ? [true, false] : []),
  )
  if (choices.length > 0) return `one of ${[...new Set(choices)].join(', ')}`
  if (first.type === 'boolean') return 'true or false'
  if (first.type === 'array') return 'a list'
  if (first.type !== 'integer' && first.type !== 'number') return undefined
  const { minimum, maximum } = first
  const range = [
    ...(minimum === undefined || minimum <= Number.MIN_SAFE_INTEGER ? [] : [`from ${minimum}`]),
    ...(maximum === undefined || maximum >= Number.MAX_SAFE_INTEGER ? [] : [`to ${maximum}`]),
  ]
  return [first.type === 'integer' ? 'a whole number' : 'a number', ...range].join(' ')
}

/** `select.idleSettleMs` -> `XMASD_SELECT_IDLE_SETTLE_MS` */
export function variableOf(key: string): string {
  const words = key.replaceAll('.', '_').replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2')
  return `XMASD_${words.toUpperCase()}`
}

function environmentValues(
  env: NodeJS.ProcessEnv,
  mistakes: Mistake[],
): { key: string; name: string; value: unknown }[] {
  const known = new Map(leaves().map(leaf => [variableOf(leaf.key), leaf]))
  const found: { key: string; name: string; value: unknown }[] = []
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith('XMASD_') || text === undefined || OTHER_VARIABLES.has(name)) continue
    const leaf = known.get(name)
    if (leaf !== undefined) {
      found.push({ key: leaf.key, name, value: fromText(leaf.schemas[0]!, text) })
      continue
    }
    mistakes.push({
      key: name,
      value: JSON.stringify(text),
      origin: name,
      problem: `the environment variable ${name}="${text}" is no configuration key`,
      fix: `did you mean ${closest(name, [...known.keys()])}? Otherwise unset it`,
    })
  }
  return found
}

/** A variable's text in the type of its key. Text that does not fit is left for the schema to refuse. */
function fromText(schema: z.ZodType, text: string): unknown {
  if (schema instanceof z.ZodNumber) {
    return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text
  }
  if (schema instanceof z.ZodBoolean)
    return text === 'true' ? true : text === 'false' ? false : text
  if (schema instanceof z.ZodArray) return text.split(',').filter(part => part !== '')
  return text
}

export function setAt(tree: Tree, path: string[], value: unknown): void {
  const [head, ...rest] = path as [string, ...string[]]
  if (rest.length === 0) {
    if (value === null) delete tree[head]
    else tree[head] = value
    return
  }
  const child = tree[head]
  if (typeof child !== 'object' || child === null) tree[head] = {}
  setAt(tree[head] as Tree, rest, value)
}

/** Items of lists go with their whole list. */
function removeAt(tree: Tree, path: readonly PropertyKey[]): void {
  const parent = getAt(tree, path.slice(0, -1))
  if (Array.isArray(parent)) removeAt(tree, path.slice(0, -1))
  else if (typeof parent === 'object' && parent !== null)
    delete (parent as Tree)[String(path.at(-1))]
}

export function getAt(tree: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? (at as Tree)[String(key)] : undefined),
    tree,
  )
}

function resolvePaths(tree: Tree, folder: string): void {
  for (const key of PATHS) {
    const path = key.split('.')
    const value = getAt(tree, path)
    if (typeof value === 'string') setAt(tree, path, resolve(folder, value))
  }
}

type Given = { tree: Tree; file: string; origins: Map<string, { name: string; origin: string }> }

function mistakesOf(issue: Issue, given: Given): Mistake[] {
  const { tree, file, origins } = given
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map(key => unknownKey([...issue.path, key].join('.'), given))
  }
  const key = issue.path.filter(part => typeof part === 'string').join('.')
  const { name, origin } = origins.get(key) ?? { name: key, origin: file }
  const found = getAt(tree, issue.path)
  const value = found === undefined || SECRETS.has(key) ? null : shown(found)
  const allowed = allowedAt(key)
  const isOwnText = issue.code === 'custom' || issue.code === 'invalid_format'
  const reason = isOwnText || allowed === undefined ? issue.message : `it must be ${allowed}`
  const is = found === undefined ? 'is missing' : `is ${value ?? 'set (not shown)'}`
  return [
    {
      key: name,
      value,
      origin,
      problem: `${name.startsWith('--') ? name : key} ${is} (${origin}): ${reason}`,
      fix: name.startsWith('--')
        ? `give another ${name}`
        : `set ${key}, or ${variableOf(key)}${allowed === undefined ? ': see config/xmasd.yaml' : `, to ${allowed}`}`,
    },
  ]
}

function shown(value: unknown): string {
  return typeof value === 'number' ? String(value) : JSON.stringify(value)
}

function unknownKey(key: string, { tree, file, origins }: Given): Mistake {
  const { origin } = origins.get(key) ?? { origin: file }
  const found = getAt(tree, key.split('.'))
  const mistake = { key, value: SECRETS.has(key) ? null : shown(found), origin }
  if (configKeys().some(known => known === key || known.startsWith(`${key}.`))) {
    const problem = `${key} in ${origin} needs log.kind: kafka`
    return {
      ...mistake,
      problem,
      fix: 'set log.kind to kafka (XMASD_LOG_KIND), or leave the key out',
    }
  }
  const fix = `did you mean ${nearestKey(key)}? config/xmasd.yaml explains every key`
  return { ...mistake, problem: `unknown key ${key} in ${file}`, fix }
}

/** A key of the same name elsewhere, else the nearest name beside it. */
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
