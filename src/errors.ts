/**
 * The one operating-error class and the one list of codes. `docs/errors.md` explains each code; a
 * test holds the two together.
 */
export const ERROR_CODES = [
  // an example that ends in `dead-letters`
  'NOT_JSON',
  'NOT_UTF8',
  'NOT_AN_OBJECT',
  'TEXT_INVALID',
  'ID_INVALID',
  'ID_TOO_LONG',
  'CONVERSATIONS_INVALID',
  'ROLE_UNKNOWN',
  'TURNS_MISORDERED',
  'IMAGE_FIELD_INVALID',
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
  'NO_TEXT_ROWS',
  'SCORE_NOT_FINITE',
  'WORKER_DIED',
  'OUT_OF_MEMORY',
  'ENGINE_FAILED',
  'RECORD_TOO_LARGE',
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
  'LOG_UNAVAILABLE',
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

  constructor(
    code: ErrorCode,
    message: string,
    hint: string,
    options: { retryable?: boolean; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.hint = hint
    this.retryable = options.retryable ?? false
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
