/** Text of others on our terminal. */

/** `text` with control characters as escapes: an id can't move the cursor or recolour what follows. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, character => {
    return `\\x${character.codePointAt(0)!.toString(16).padStart(2, '0')}`
  })
}
