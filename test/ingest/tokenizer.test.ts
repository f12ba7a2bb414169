import assert from 'node:assert/strict'
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { createEncoder } from '../../src/ingest/encoder.ts'
import { encodePrompt, readTokenizer, type Tokenizer } from '../../src/ingest/tokenizer.ts'
import { ROOT, shared, temporaryFolder } from '../support.ts'
import { hasCode } from './fixtures.ts'

/** Code points as ids behind a BOS, so that positions can be counted by hand. */
const letters: Tokenizer = {
  encode: text => [1, ...[...text].map(letter => letter.codePointAt(0)!)],
  bosId: 1,
}
const options = { imageTokens: 3, imageTokenId: -200, lengthMax: 100 }

for (const set of ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']) {
  test(`ids, columns, rows and cuts of ${set} equal the goldens`, t => {
    const folder = shared(t, 'goldens', set)
    if (folder === undefined) return
    const golden = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
    const tokenizer = readTokenizer(join(folder, golden.checkpoints[0]))
    for (const example of golden.examples) {
      if (!example.has_image) continue
      const encoded = encodePrompt(tokenizer, example.prompt, 1, {
        imageTokens: golden.image_tokens,
        imageTokenId: golden.image_token_id,
        lengthMax: golden.max_length ?? 2048,
      })
      assert.deepEqual([...encoded.ids], example.input_ids)
      assert.equal(encoded.lengthUntruncated, example.length_untruncated)
      assert.deepEqual(ends(encoded.columns), example.image_positions)
      assert.deepEqual(ends(encoded.rows), example.text_rows)
    }
  })
}

function ends(positions: Int32Array): [number, number] {
  return [positions[0]!, positions.at(-1)! + 1]
}

for (const shape of ['legacy', 'metaspace']) {
  test(`a SentencePiece tokenizer of the ${shape} shape encodes as the goldens`, t => {
    const folder = shared(t, 'goldens/tokenizer-spm')
    if (folder === undefined) return
    const tokenizer = readTokenizer(join(folder, shape))
    assert.equal(tokenizer.bosId, 1)
    const { cases } = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
    for (const { text, ids } of cases[shape]) {
      assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text))
    }
  })
}

test('the BOS stays at the very front, and the rows begin two behind the image', () => {
  const { ids, columns, rows, lengthUntruncated } = encodePrompt(
    letters,
    'ab<image>cde',
    1,
    options,
  )
  assert.deepEqual([...ids], [1, 97, 98, -200, -200, -200, 99, 100, 101])
  assert.deepEqual([...columns], [3, 4, 5])
  assert.deepEqual([...rows], [7, 8])
  assert.equal(lengthUntruncated, 9)
})

test('the longest length cuts text, image and head alike', () => {
  const at = (lengthMax: number) =>
    encodePrompt(letters, 'ab<image>cde', 1, { ...options, lengthMax })
  assert.deepEqual([...at(8).rows], [7])
  assert.deepEqual([...at(7).rows], [])
  assert.deepEqual([...at(5).columns], [3, 4])
  assert.deepEqual([...at(5).rows], [])
  assert.deepEqual([...at(2).ids], [1, 97])
  assert.deepEqual([...at(2).columns], [])
  assert.equal(at(2).lengthUntruncated, 9)
})

test('several images are columns alike, the rows begin behind the last, and a cut one leaves none', () => {
  const at = (lengthMax: number) =>
    encodePrompt(letters, 'a<image>b<image><image>cd', 3, { ...options, lengthMax })
  const { ids, columns, rows } = at(100)
  const image = [-200, -200, -200]
  assert.deepEqual([...ids], [1, 97, ...image, 98, ...image, ...image, 99, 100])
  assert.deepEqual([...columns], [2, 3, 4, 6, 7, 8, 9, 10, 11])
  assert.deepEqual([...rows], [13])
  assert.deepEqual([[...at(6).columns], [...at(6).rows]], [[2, 3, 4], []])
})

test('a prompt without exactly one slot for each image is refused', () => {
  for (const prompt of ['ab', 'a<image>b<image>']) {
    assert.throws(() => encodePrompt(letters, prompt, 1, options), hasCode('PLACEHOLDER_MISPLACED'))
  }
})

test('a missing or broken tokenizer is an error that names the file', t => {
  const folder = temporaryFolder(t)
  assert.throws(() => readTokenizer(folder), hasCode('TOKENIZER_INVALID'))
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}')
  for (const content of ['', '[', '7', '{}', '{"model": {"type": "Nothing"}}']) {
    writeFileSync(join(folder, 'tokenizer.json'), content)
    assert.throws(() => readTokenizer(folder), hasCode('TOKENIZER_INVALID'), content)
  }
})

test('the BOS token is the one that AutoTokenizer reads from either file', t => {
  const golden = shared(t, 'goldens/tokenizer-spm/legacy')
  if (golden === undefined) return
  const folder = temporaryFolder(t)
  copyFileSync(join(golden, 'tokenizer.json'), join(folder, 'tokenizer.json'))
  const bosId = (config: object, map?: object) => {
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
    const file = join(folder, 'special_tokens_map.json')
    if (map === undefined) rmSync(file, { force: true })
    else writeFileSync(file, JSON.stringify(map))
    return readTokenizer(folder).bosId
  }
  const asObject = { bos_token: { content: '<s>', special: true } }
  assert.equal(bosId(asObject), 1)
  assert.equal(bosId({}), null)
  assert.equal(bosId({}, { bos_token: '<s>' }), 1)
  assert.equal(bosId({}, asObject), 1)
  assert.equal(bosId({ bos_token: null }, { bos_token: '<s>' }), 1)
  assert.equal(bosId({ bos_token: '</s>' }, { bos_token: '<s>' }), 1)
  assert.equal(bosId({ bos_token: '</s>' }, { eos_token: '</s>' }), 2)
  const modern = { added_tokens_decoder: {} }
  assert.equal(bosId({ ...modern, bos_token: '</s>' }, { bos_token: '<s>' }), 2)
  assert.equal(bosId({ ...modern, bos_token: null }, { bos_token: '<s>' }), null)
})

/** A byte-level BPE of 256 letters, with merges that go over what Python holds for a word's end. */
function byteLevel(preTokenizer: object): Record<string, unknown> {
  const bytes = Array.from({ length: 256 }, (_, byte) => byte)
  const isPlain = (byte: number) => /[!-~¡-¬®-ÿ]/.test(String.fromCodePoint(byte))
  const others = bytes.filter(byte => !isPlain(byte)).map((_, i) => 256 + i)
  const letters = [...bytes.filter(isPlain), ...others].map(code => String.fromCodePoint(code))
  const vocab = Object.fromEntries([...letters, 'Ġï', 'ħÂ', 'Ġâ'].map((token, id) => [token, id]))
  const merges = ['Ġ ï', 'ħ Â', 'Ġ â']
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder: null,
    model: { type: 'BPE', vocab, merges },
  }
}

function folderOf(t: TestContext, tokenizer: object): string {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer))
  writeFileSync(join(folder, 'tokenizer_config.json'), '{}')
  return folder
}

test('white space at which ByteLevel splits is what Python counts as such', t => {
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true }
  const digits = { type: 'Digits', individual_digits: true }
  const sequence = { type: 'Sequence', pretokenizers: [digits, level] }
  for (const preTokenizer of [level, { ...level, use_regex: true }, sequence]) {
    const { encode } = readTokenizer(folderOf(t, byteLevel(preTokenizer)))
    // The ids of tokenizers 0.23.3.
    assert.deepEqual(encode(' \n \ufeffa'), [220, 198, 256, 119, 123, 64])
    assert.deepEqual(encode('a\u0085\u0085b'), [64, 126, 227, 126, 227, 65])
  }
})

test('digits are split off wherever Unicode calls them numbers', t => {
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true }
  for (const individual_digits of [true, false]) {
    const digits = { type: 'Digits', individual_digits }
    const sequence = { type: 'Sequence', pretokenizers: [digits, level] }
    const { encode } = readTokenizer(folderOf(t, byteLevel(sequence)))
    // The ids of tokenizers 0.23.3.
    assert.deepEqual(encode('a Ⅷ12'), [64, 220, 158, 227, 100, 16, 17])
  }
  const { encode } = readTokenizer(folderOf(t, byteLevel(level)))
  assert.deepEqual(encode('a Ⅷ12'), [64, 258, 227, 100, 16, 17])
})

test('added tokens are found as single words and take white space along, as their options say', t => {
  const tokenizer = byteLevel({ type: 'ByteLevel', add_prefix_space: false })
  const encode = (options: object) => {
    const token = { id: 259, content: '<dog>', special: false, normalized: false, ...options }
    return readTokenizer(folderOf(t, { ...tokenizer, added_tokens: [token] })).encode
  }
  const [a, space, dog] = [64, 220, 259]
  assert.deepEqual(encode({})('a<dog> <dog>a'), [a, dog, space, dog, a])
  const single = encode({ single_word: true })
  assert.deepEqual(single('<dog> <dog>'), [dog, space, dog])
  assert.ok(!single('a<dog>').includes(dog))
  assert.ok(!single('<dog>a').includes(dog))
  assert.deepEqual(encode({ lstrip: true })('a \u0085<dog> a'), [a, dog, space, a])
  assert.deepEqual(encode({ rstrip: true })('a <dog> \u0085a'), [a, space, dog, a])
})

test('what is not supported of tokenizer.json is refused by name when it is read', t => {
  const level = { type: 'ByteLevel', add_prefix_space: false }
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first' }
  const base = byteLevel(level)
  const model = base.model as object
  const cases: [change: object, message: RegExp][] = [
    [{ pre_tokenizer: { type: 'UnicodeScripts' } }, /pre_tokenizer\.type "UnicodeScripts"/],
    [{ normalizer: { type: 'Precompiled' } }, /normalizer\.type "Precompiled"/],
    [{ model: { ...model, type: 'Unigram' } }, /model\.type "Unigram"/],
    [{ model: { ...model, dropout: 0.1 } }, /model\.dropout 0\.1/],
    [{ model: { ...model, continuing_subword_prefix: '##' } }, /continuing_subword_prefix "##"/],
    [{ model: { ...model, merges: ['a zz'] } }, /merges: "zz" is not in the vocabulary/],
    [
      { normalizer: { type: 'Prepend', prepend: '▁' }, pre_tokenizer: metaspace },
      /prepend_scheme "first" behind Prepend/,
    ],
  ]
  for (const [change, message] of cases) {
    const folder = folderOf(t, { ...base, ...change })
    assert.throws(() => readTokenizer(folder), { code: 'TOKENIZER_INVALID', message })
  }
})

test('every supported stage gives the ids of the Rust tokenizers, or is refused', () => {
  const folder = join(ROOT, 'test/fixtures/tokenizers')
  const base = (name: string) => JSON.parse(readFileSync(join(folder, `${name}.json`), 'utf8'))
  const bases = { bytes: base('bytes'), sentencepiece: base('sentencepiece') }
  const lines = readFileSync(join(folder, 'cases.jsonl'), 'utf8').trimEnd().split('\n')
  let refused = 0
  for (const line of lines) {
    const { base, change, cases } = JSON.parse(line)
    const file = { ...bases[base as keyof typeof bases], ...change }
    const says = JSON.stringify(change)
    try {
      const encode = createEncoder(file)
      for (const [text, ids] of cases) assert.deepEqual(encode(text), ids, `${text}: ${says}`)
    } catch (error) {
      assert.match(String(error), /prepend_scheme "first" behind/, says)
      refused++
    }
  }
  assert.ok(refused < lines.length / 10, `${refused} of ${lines.length} are refused`)
})

test('the tokenizers of the field cases give the ids of the Rust tokenizers', t => {
  const folder = shared(t, 'cases/tokenizer-options/tokenizers')
  if (folder === undefined) return
  const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
  for (const { name, cases } of expected) {
    const { encode } = readTokenizer(join(folder, name))
    for (const [text, ids] of cases) assert.deepEqual(encode(text), ids, `${name}: ${text}`)
  }
})

test('a slow tokenizer of vocab.json and merges.txt encodes as the fast one made of it', t => {
  const folder = shared(t, 'cases/tokenizer-slow')
  if (folder === undefined) return
  const fast = createEncoder(JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8')))
  const slow = readTokenizer(join(folder, 'proxy/checkpoint-200'))
  for (const text of ["What's  in it?\n<|endoftext|> 12 café", '', '\ufeff a']) {
    assert.deepEqual(slow.encode(text), fast(text), text)
  }
  const llama = temporaryFolder(t)
  writeFileSync(join(llama, 'tokenizer_config.json'), '{"tokenizer_class": "LlamaTokenizer"}')
  assert.throws(() => readTokenizer(llama), {
    code: 'TOKENIZER_INVALID',
    message: /there is no tokenizer\.json/,
    hint: /python -c "import .*save_pretrained/,
  })
})

test('a vocabulary of 160,000 tokens, as Qwen has, is a vocabulary like any other', () => {
  const alphabet = [...'abcdefghijklmnopqrstuvwxyz']
  const vocab: Record<string, number> = {}
  for (const letter of alphabet) vocab[letter] = Object.keys(vocab).length
  const merges: [string, string][] = []
  let size = alphabet.length
  let longest = alphabet
  while (size < 160_000) {
    const longer = longest.flatMap(left => alphabet.map(right => [left, right] as const))
    longest = []
    for (const [left, right] of longer) {
      if (size === 160_000) break
      vocab[left + right] = size++
      merges.push([left, right])
      longest.push(left + right)
    }
  }
  const encode = createEncoder({
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: 'BPE', vocab, merges },
  })
  assert.deepEqual(encode('abc'), [vocab.abc])
  assert.deepEqual(encode('abcdef'), [vocab.ab, vocab.cd, vocab.ef])
  assert.equal(Object.keys(vocab).length, 160_000)
})
