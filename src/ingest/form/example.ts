/**
 * The one shape that every form of record is read into, before anything else looks at it. Prompt,
 * content hash and the words of near-duplicates are taken from it alone.
 */

/** Where an image stands in a turn's text. */
export const IMAGE_MARK = '<image>'

/** Who speaks: `tool_call` is the model's call of a function, `tool` what that answers. */
export const ROLES = ['system', 'user', 'assistant', 'tool_call', 'tool'] as const
export type Role = (typeof ROLES)[number]

/** One turn; where it has a picture, its text has `<image>`. */
export type Turn = { role: Role; text: string }

/**
 * A checked example. A system turn stands first or nowhere; then users ask and assistants answer in
 * turn, with calls of tools and what they answer between the two; an answer (or a call) is last.
 *
 * `images` are references in the order of their places: paths below the image root, http(s) or data:
 * URLs. Several images have as many `<image>` in the turns' texts, in the same order. One image has it
 * in exactly one turn, possibly several times: the prompt gives it one place. Without images only
 * answers may hold `<image>`, as text.
 */
export type Example = {
  /** Undefined where the record has none. */
  id: string | undefined
  turns: Turn[]
  images: string[]
  /** The functions that may be called, as the record's JSON; undefined where there are none. */
  tools?: string | undefined
}

/** Limits on the text of one example: UTF-16 units of all turns together, and turns. */
export type TextLimits = { charactersMax: number; turnsMax: number }

export const TEXT_LIMITS: TextLimits = { charactersMax: 131_072, turnsMax: 1024 }

/** Longest id in bytes of UTF-8: it is part of keys on the log and in the state. */
export const ID_BYTES_MAX = 1024

/**
 * What hashes call a role. User and assistant have LLaVA's names, so that keys on logs of releases
 * that read LLaVA alone stay the same.
 */
export function hashedRole(role: Role): string {
  return role === 'user' ? 'human' : role === 'assistant' ? 'gpt' : role
}
