import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Of an example that ends in `dead-letters`. */
export const EXAMPLE_CODES = [
  'RECORD_FRAMED',
  'SCHEMA_UNKNOWN',
  'SCHEMA_MISMATCH',
  'REGISTRY_UNAVAILABLE',
  'NOT_JSON',
  'NOT_UTF8',
  'NOT_AN_OBJECT',
  'TEXT_INVALID',
  'TEXT_TOO_LONG',
  'ID_INVALID',
  'ID_TOO_LONG',
  'CONVERSATIONS_INVALID',
  'ROLE_UNKNOWN',
  'TURNS_MISORDERED',
  'TURNS_TOO_MANY',
  'IMAGE_FIELD_INVALID',
  'MODALITY_UNSUPPORTED',
  'IMAGE_WITHOUT_PLACEHOLDER',
  'PLACEHOLDER_WITHOUT_IMAGE',
  'PLACEHOLDER_MISPLACED',
  'IMAGE_COUNT_MISMATCH',
  'IMAGES_TOO_MANY',
  'IMAGE_OUTSIDE_ROOT',
  'IMAGE_NOT_FOUND',
  'IMAGE_UNREADABLE',
  'IMAGE_ADDRESS_FORBIDDEN',
  'IMAGE_FETCH_FAILED',
  'IMAGE_TOO_MANY_BYTES',
  'IMAGE_TOO_MANY_PIXELS',
  'IMAGE_TIMEOUT',
  'IMAGE_UNDECODABLE',
  'IMAGE_ANIMATED',
  'INGEST_TIMEOUT',
  'NO_TEXT_ROWS',
  'SCORE_NOT_FINITE',
  'WORKER_DIED',
  'OUT_OF_MEMORY',
  'ENGINE_FAILED',
  'RECORD_TOO_LARGE',
  'BATCH_UNREADABLE',
] as const

/**
 * The one operating-error class and the one list of codes. `docs/errors.md` explains each code; a
 * test holds the two together.
 */
export const ERROR_CODES = [
  ...EXAMPLE_CODES,
  // the daemon, its files and its configuration
  'CONFIG_INVALID',
  'PROXY_INVALID',
  'PROXY_UNSUPPORTED',
  'CHECKPOINT_INVALID',
  'TEMPLATE_UNKNOWN',
  'TEMPLATE_INVALID',
  'TOKENIZER_INVALID',
  'BUNDLE_INVALID',
  'BUNDLE_ALTERED',
  'BUNDLE_MISMATCH',
  'DATA_INVALID',
  'FILE_UNREADABLE',
  'FILE_UNWRITABLE',
  'FILE_EXISTS',
  'DISK_FULL',
  'DISK_FAILED',
  'FILES_TOO_MANY',
  'LOG_UNAVAILABLE',
  'LOG_IN_USE',
  'LOG_TLS_FAILED',
  'LOG_LOGIN_FAILED',
  'LOG_FORBIDDEN',
  'LOG_FENCED',
  'POSITION_LOST',
  'TOPIC_MISSING',
  'TOPIC_MISMATCH',
  'STATE_INVALID',
  'RECORD_INVALID',
  'KEY_UNKNOWN',
  'ENGINE_UNAVAILABLE',
  'DEVICE_FAILED',
  'HTTP_UNAVAILABLE',
  'INTERNAL',
] as const

export type ErrorCode = (typeof ERROR_CODES)[number]

/** An operating error: what was wrong (with the value), and what to do. Never a programmer's error. */
export class XmasdError extends Error {
  override readonly name = 'XmasdError'
  readonly code: ErrorCode
  readonly hint: string
  readonly retryable: boolean
  /** Where a busy server says when to try again: so long from now. */
  readonly retryAfterMs: number | undefined

  constructor(
    code: ErrorCode,
    message: string,
    hint: string,
    options: { retryable?: boolean; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.hint = hint
    this.retryable = options.retryable ?? false
    this.retryAfterMs = options.retryAfterMs
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Limits and faults of the machine: by the code of the system, or by the text of a library. */
const MACHINE_ERRORS: [ErrorCode, RegExp, string][] = [
  [
    'DISK_FULL',
    /ENOSPC|EDQUOT|no space left on device/i,
    'free space on that disk, or move log.path or the output to another one',
  ],
  [
    'FILES_TOO_MANY',
    /EMFILE|ENFILE|too many open files/i,
    'raise the limit of open files: ulimit -n, or LimitNOFILE of the service',
  ],
  [
    'DISK_FAILED',
    /\bEIO\b|input\/output error/i,
    'the disk or its network mount reports an error: look at the system log, then try again',
  ],
]

/** System calls that change a file or a folder. */
const WRITES = ['mkdir', 'mkdtemp', 'write', 'rename', 'unlink', 'rm', 'rmdir', 'ftruncate']

/** Where no file can be opened Node cannot read a package's manifest, and says that the package is missing. */
function missesWhatIsThere({ message }: Error): boolean {
  const file = /^Cannot find package '([^']+)'/.exec(message)?.[1]
  return file !== undefined && existsSync(join(dirname(file), 'package.json'))
}

/** An error of the system as one with code and hint; undefined for any other. */
export function systemError(error: unknown): XmasdError | undefined {
  if (!(error instanceof Error)) return undefined
  const { code, syscall, path } = error as NodeJS.ErrnoException
  const message = missesWhatIsThere(error) ? `too many open files: ${error.message}` : error.message
  const text = `${code ?? ''} ${message}`
  const machine = MACHINE_ERRORS.find(([, pattern]) => pattern.test(text))
  if (machine !== undefined)
    return new XmasdError(machine[0], message, machine[2], { cause: error })
  if (syscall === undefined || path === undefined) return undefined
  return new XmasdError(
    WRITES.includes(syscall) ? 'FILE_UNWRITABLE' : 'FILE_UNREADABLE',
    error.message,
    'check that the path exists, that this user may use it, and that its disk has room',
    { cause: error },
  )
}
