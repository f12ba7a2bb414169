/** The configuration of the log: a folder, or Kafka. */
import { z } from 'zod'
import { TOPICS } from '../record.ts'

const MIB = 1024 * 1024
/** Kafka's rule for names, on both logs: a stream can move from one to the other. */
const topicName = (name: string) =>
  z
    .string()
    .regex(
      /^(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}$/,
      'a topic is named by 1 to 249 letters, digits, ".", "_" and "-"; not "." or ".."',
    )
    .default(name)

const common = {
  path: z.string().min(1).default('./data'),
  examplesPartitions: z.int().min(1).max(1024).default(1),
  topics: z
    .strictObject({
      examples: topicName(TOPICS.examples),
      assignments: topicName(TOPICS.assignments),
      decisions: topicName(TOPICS.decisions),
      subset: topicName(TOPICS.subset),
      deadLetters: topicName(TOPICS.deadLetters),
      bundles: topicName(TOPICS.bundles),
      shadow: topicName(TOPICS.shadow),
    })
    .superRefine(checkDistinct)
    .prefault({}),
}

/** Records of `examples` may be framed with schemas of it. */
const RegistryConfig = z
  .strictObject({
    url: z.string().regex(/^https?:\/\/[^\s/@]+/, 'write http(s)://HOST, without a login'),
    username: z.string().min(1).optional(),
    password: z.string().min(1).optional(),
    passwordFile: z.string().min(1).optional(),
  })
  .optional()

const LocalLogConfig = z.strictObject({
  kind: z.literal('local'),
  /** Several daemons may run on the log at once. */
  shared: z.boolean().default(false),
  schemaRegistry: RegistryConfig,
  ...common,
})

const milliseconds = (least: number) =>
  z
    .int()
    .min(least)
    .max(2 ** 31 - 1)
const retention = z.int().min(-1).default(-1)
const filePath = z.string().min(1).optional()

const TlsConfig = z.strictObject({
  enabled: z.boolean().default(false),
  ca: filePath,
  cert: filePath,
  key: filePath,
  servername: z.string().min(1).optional(),
})

const SaslConfig = z
  .strictObject({
    mechanism: z.enum(['none', 'plain', 'scram-sha-256', 'scram-sha-512']).default('none'),
    username: z.string().min(1).optional(),
    password: z.string().min(1).optional(),
    passwordFile: filePath,
  })
  .refine(({ mechanism, username }) => mechanism === 'none' || username !== undefined, {
    path: ['username'],
    message: 'a login needs a user name',
  })
  .refine(
    ({ mechanism, password, passwordFile }) =>
      mechanism === 'none' || (password === undefined) !== (passwordFile === undefined),
    { path: ['password'], message: 'a login needs either a password or a passwordFile' },
  )

const KafkaLogConfig = z.strictObject({
  kind: z.literal('kafka'),
  schemaRegistry: RegistryConfig,
  ...common,
  brokers: z.array(z.string().regex(/^[^:\s]+:\d+$/, 'write host:port')).min(1),
  clientId: z.string().min(1).max(100).default('xmasd'),
  tls: TlsConfig.prefault({}),
  sasl: SaslConfig.prefault({}),
  replicationFactor: z.int().min(1).default(1),
  minInsyncReplicas: z.int().min(1).default(1),
  /** Milliseconds, -1 for good. */
  retentionMs: z
    .strictObject({ examples: retention, decisions: retention, deadLetters: retention })
    .prefault({}),
  sessionMsMax: milliseconds(1_000).default(30_000),
  transactionMsMax: milliseconds(1_000).default(60_000),
  handoverMsMax: milliseconds(1_000).default(3_600_000),
  requestMsMax: milliseconds(1_000).default(30_000),
  connectMsMax: milliseconds(1_000).default(30_000),
  unreachableMsMax: milliseconds(1_000).default(300_000),
  batchBytesMax: z.int().min(1_000).default(1_000_000),
  fetchBytesMax: z
    .int()
    .min(1_000)
    .default(4 * MIB),
})

/** `kind` decides which other keys exist. Default: `local`. */
export const LogConfig = z.preprocess(
  value => (isObject(value) ? { kind: 'local', ...value } : { kind: 'local' }),
  z.discriminatedUnion('kind', [LocalLogConfig, KafkaLogConfig]),
)

export type LogConfig = z.infer<typeof LogConfig>
export type KafkaLogConfig = z.infer<typeof KafkaLogConfig>

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

type Topic = keyof typeof TOPICS

/** Kafka's metrics confuse `a.b` with `a_b`, so a log may not have both. */
function checkDistinct(topics: Record<Topic, string>, context: z.core.$RefinementCtx): void {
  const seen = new Map<string, Topic>()
  for (const [topic, name] of Object.entries(topics) as [Topic, string][]) {
    const other = seen.get(name.replaceAll('.', '_'))
    seen.set(name.replaceAll('.', '_'), topic)
    if (other === undefined) continue
    // Report the one that was set: the other may be a default.
    const [named, taken] = name === TOPICS[topic] ? [other, topic] : [topic, other]
    const message = `log.topics.${taken} is "${topics[taken]}": every topic needs a name of its own`
    context.addIssue({ code: 'custom', path: [named], message })
  }
}
