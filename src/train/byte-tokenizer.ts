/**
 * A byte-level tokenizer.json without merges: every byte of UTF-8 is a token. Valid for the Rust
 * `tokenizers` library and for @huggingface/tokenizers.
 */

/** Special tokens by id; the 256 bytes follow. */
const SPECIALS = ['<pad>', '<s>', '</s>', '<image>'] as const

export const IMAGE_ID = SPECIALS.indexOf('<image>')
export const VOCAB_SIZE = SPECIALS.length + 256

export function tokenizerJson(): object {
  const bytes = Array.from({ length: 256 }, (_, byte) => [printable(byte), SPECIALS.length + byte])
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }
  const bos = { SpecialToken: { id: '<s>', type_id: 0 } }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, id) => ({ id, ...addedToken(content) })),
    normalizer: null,
    pre_tokenizer: { ...byteLevel, trim_offsets: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [bos, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [bos, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [SPECIALS.indexOf('<s>')], tokens: ['<s>'] } },
    },
    decoder: { ...byteLevel, trim_offsets: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries([...SPECIALS.map((content, id) => [content, id]), ...bytes]),
      merges: [],
    },
  }
}

export function tokenizerConfigJson(lengthMax: number): object {
  return {
    added_tokens_decoder: Object.fromEntries(
      SPECIALS.map((content, id) => [id, addedToken(content)]),
    ),
    add_bos_token: true,
    add_prefix_space: false,
    clean_up_tokenization_spaces: false,
    model_max_length: lengthMax,
    padding_side: 'right',
    tokenizer_class: 'PreTrainedTokenizerFast',
    ...specialTokensJson(),
  }
}

export function specialTokensJson(): object {
  return { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>' }
}

function addedToken(content: string): object {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false }
  return { content, ...flags, special: true }
}

/**
 * The character that stands for a byte in a byte-level vocabulary (GPT-2's table): itself where it
 * prints, else the next free one from U+0100 on.
 */
function printable(byte: number): string {
  const prints = (b: number): boolean =>
    (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae
  if (prints(byte)) return String.fromCharCode(byte)
  let before = 0
  for (let b = 0; b < byte; b++) if (!prints(b)) before++
  return String.fromCharCode(0x100 + before)
}
