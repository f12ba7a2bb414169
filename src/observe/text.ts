/** Text on its way to a terminal, a page or a shell. */

/** `text` as one word of a POSIX shell, for commands that are printed to be pasted. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}

/**
 * Characters that act instead of being shown: C0 and C1 controls (terminal escapes, line ends), line
 * and paragraph separators, bidirectional controls (they reorder what is read), lone surrogates.
 */
const ACTING = /[\p{Cc}\p{Zl}\p{Zp}\p{Cs}\p{Bidi_Control}]/gu

/**
 * `text` with acting characters as visible escapes (`\x1b`, `\u202e`): text from outside can neither
 * move a cursor, nor recolour, reorder or add a line. Every output of text from outside passes here.
 */
export function printable(text: string): string {
  return text.replaceAll(ACTING, character => {
    const code = character.codePointAt(0)!
    return code < 0x100 ? `\\x${hex(code, 2)}` : `\\u${hex(code, 4)}`
  })
}

/** The same for one JSON text without line ends: JSON's own escapes, so that it parses to the same. */
export function printableJson(json: string): string {
  return json.replaceAll(ACTING, character => `\\u${hex(character.codePointAt(0)!, 4)}`)
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0')
}

/** User names, passwords, query strings and fragments of URLs, which may hold credentials. */
const URL_SECRETS =
  /\b([a-z][a-z0-9+.-]{0,31}:(?:\\?\/){2})(?:[^\s"<>/?#\\]*@)?([^\s"<>?#\\]*)(?:[?#][^\s"<>\\]*)?/gi

/** `text` with its URLs reduced to scheme, host and path. */
export function redacted(text: string): string {
  return text.replace(URL_SECRETS, (found, scheme: string, place: string) => {
    return /[?#]/.test(found) ? `${scheme}${place}?…` : `${scheme}${place}`
  })
}
