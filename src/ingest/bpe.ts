/**
 * Byte-pair encoding as Hugging Face's Rust tokenizers compute it: the pair of lowest rank first, the
 * leftmost of equals, in O(n log n) of a word's letters.
 */

export type BpeModel = {
  vocab: Readonly<Record<string, number>>
  /** In order of rank: "a b" or ["a", "b"]. */
  merges: readonly (string | readonly string[])[]
  unk_token?: string | null | undefined
  end_of_word_suffix?: string | null | undefined
  /** Unknown letters in a row are one token. */
  fuse_unk?: boolean | null | undefined
  /** Unknown letters are the tokens of their bytes, `<0x00>`… */
  byte_fallback?: boolean | null | undefined
  /** A word that is a token is not looked at further. */
  ignore_merges?: boolean | null | undefined
}

/** Appends a word's ids to `ids`. */
export type BpeEncoder = (word: string, ids: number[]) => void

const CACHED_WORDS_MAX = 20_000
const CACHED_LETTERS_MAX = 64

/** Throws an Error that names a token which is not in the vocabulary. */
export function createBpe(model: BpeModel): BpeEncoder {
  const vocab = new Map(Object.entries(model.vocab))
  const lettersOf = letterEncoder(model, vocab)
  const merge = merger(model, vocab)
  const cache = new Map<string, readonly number[]>()
  const encode = (word: string): readonly number[] => {
    const whole = model.ignore_merges === true ? vocab.get(word) : undefined
    return whole === undefined ? merge(lettersOf(word)) : [whole]
  }
  return (word, ids) => {
    let found = cache.get(word)
    if (found === undefined) {
      found = encode(word)
      if (cache.size >= CACHED_WORDS_MAX) cache.clear()
      if (word.length <= CACHED_LETTERS_MAX) cache.set(word, found)
    }
    for (const id of found) ids.push(id)
  }
}

type Vocab = ReadonlyMap<string, number>

/** The ids of a word's letters, before any merge. */
function letterEncoder(model: BpeModel, vocab: Vocab): (word: string) => number[] {
  const { unk_token, fuse_unk, byte_fallback, end_of_word_suffix: suffix } = model
  const unknown = unk_token == null ? undefined : idOf(vocab, unk_token, 'unk_token')
  const bytesOf = (letter: string): number[] | undefined => {
    const names = Array.from(Buffer.from(letter), byte => vocab.get(byteName(byte)))
    return names.every(id => id !== undefined) ? names : undefined
  }
  return word => {
    const ids: number[] = []
    const letters = Array.from(word)
    if (suffix) letters[letters.length - 1] += suffix
    let wasUnknown = false
    for (const letter of letters) {
      const id = vocab.get(letter)
      const bytes = id === undefined && byte_fallback === true ? bytesOf(letter) : undefined
      const isUnknown = id === undefined && bytes === undefined
      if (id !== undefined) ids.push(id)
      else if (bytes !== undefined) ids.push(...bytes)
      else if (unknown !== undefined && !(wasUnknown && fuse_unk === true)) ids.push(unknown)
      wasUnknown = isUnknown
    }
    return ids
  }
}

/** Rank times this plus the position is one number, ordered by both. */
const POSITIONS = 2 ** 32

function merger({ merges }: BpeModel, vocab: Vocab): (ids: number[]) => readonly number[] {
  const ranks = new Map<number, number>()
  const results = new Int32Array(merges.length)
  let base = 1 // above every id; of a large vocabulary the ids would not fit on the stack as arguments
  for (const id of vocab.values()) base = Math.max(base, id + 1)
  for (const [rank, merge] of merges.entries()) {
    const [left = '', right = ''] = typeof merge === 'string' ? merge.split(' ') : merge
    ranks.set(idOf(vocab, left, 'merges') * base + idOf(vocab, right, 'merges'), rank)
    results[rank] = idOf(vocab, left + right, 'merges')
  }
  return ids => {
    const count = ids.length
    if (count < 2) return ids
    const next = Int32Array.from({ length: count }, (_, i) => i + 1)
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1)
    const queue = new Queue(3 * count)
    const rankAt = (at: number): number | undefined =>
      at < 0 || next[at]! >= count ? undefined : ranks.get(ids[at]! * base + ids[next[at]!]!)
    const propose = (at: number): void => {
      const rank = rankAt(at)
      if (rank !== undefined) queue.push(rank * POSITIONS + at)
    }
    for (let at = 0; at < count; at++) propose(at)
    for (let top = queue.pop(); top !== undefined; top = queue.pop()) {
      const rank = Math.floor(top / POSITIONS)
      const at = top % POSITIONS
      if (ids[at] === GONE || rankAt(at) !== rank) continue
      const right = next[at]!
      ids[at] = results[rank]!
      ids[right] = GONE
      next[at] = next[right]!
      if (next[at]! < count) previous[next[at]!] = at
      propose(previous[at]!)
      propose(at)
    }
    return ids.filter(id => id !== GONE)
  }
}

/** A letter that another has taken in. */
const GONE = -1

/** A binary heap: the smallest number first. */
class Queue {
  readonly #heap: Float64Array
  #size = 0

  constructor(capacity: number) {
    this.#heap = new Float64Array(capacity)
  }

  push(value: number): void {
    const heap = this.#heap
    let at = this.#size++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (heap[parent]! <= value) break
      heap[at] = heap[parent]!
      at = parent
    }
    heap[at] = value
  }

  pop(): number | undefined {
    if (this.#size === 0) return undefined
    const heap = this.#heap
    const top = heap[0]!
    const last = heap[--this.#size]!
    let at = 0
    for (let child = 1; child < this.#size; child = 2 * at + 1) {
      if (child + 1 < this.#size && heap[child + 1]! < heap[child]!) child++
      if (heap[child]! >= last) break
      heap[at] = heap[child]!
      at = child
    }
    heap[at] = last
    return top
  }
}

function idOf(vocab: Vocab, token: string, key: string): number {
  const id = vocab.get(token)
  if (id === undefined) throw new Error(`${key}: ${JSON.stringify(token)} is not in the vocabulary`)
  return id
}

function byteName(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
}
