import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Turn } from '../../src/ingest/form/example.ts'
import { questionWords, wordsHash, wordsOf } from '../../src/ingest/words.ts'

function ask(question: string, answer = 'true'): Turn[] {
  return [
    { role: 'user', text: question },
    { role: 'assistant', text: answer },
  ]
}

test('case, punctuation, spacing, spelling and politeness leave the words as they are', () => {
  const same = [
    '<image>\nThere is a grey box with 2 items.',
    'THERE IS A GRAY BOX WITH TWO OBJECTS',
    'there is a  grey box, with two items!\n<image>',
    'Please answer: Is there a grey box with two things? Thank you!',
    'Could you tell me whether there is a gray box with 2 objects in the image?'.replace(
      ' in the',
      '',
    ),
    'Hi! There’s a grey box with two objects.'.replace('There’s', 'There is'),
    'ｔｈｅｒｅ ｉｓ a grey box with ２ items',
  ]
  const hashes = same.map(question => wordsHash(ask(question)))
  assert.deepEqual(new Set(hashes).size, 1, JSON.stringify(same.map(wordsOf)))
  assert.match(hashes[0]!, /^[0-9a-f]{16}$/)
})

test('another word, number, order, negation, speaker or answer is another example', () => {
  const questions = [
    'There is a black square on the left of the box',
    'There is a black square on the right of the box',
    'There is a black triangle on the left of the box',
    'There is a box on the left of the black square',
    'There is no black square on the left of the box',
    'There is a black square left of the box',
    'There are 2 black squares on the left of the box',
    'There are 3 black squares on the left of the box',
  ]
  const examples = [
    ...questions.map(question => ask(question)),
    ask(questions[0]!, 'false'),
    [...ask(questions[0]!), ...ask(questions[1]!)],
    ask(`${questions[0]} true`, ''),
    ask('', `${questions[0]} true`),
  ]
  assert.equal(new Set(examples.map(wordsHash)).size, examples.length)
})

test('an aside asks nothing, nor does a contraction say anything else', () => {
  const question = 'There is no dog on the left; it is not red.'
  const same = [
    question,
    `Quick question - ${question}`,
    `True or false? ${question}`,
    `Given what you see, ${question}`,
    `Good morning! I have been wondering: ${question}`,
    `${question} Take your time, please.\nMany thanks!`,
    "There's no dog on the left; it isn't red",
    'theres no dog on the left; it isn’t red',
  ]
  assert.equal(
    new Set(same.map(text => wordsHash(ask(text)))).size,
    1,
    JSON.stringify(same.map(questionWords)),
  )
  const others = [
    'There is no dog on the left',
    'there is no dog; it is not red',
    'on the left; not red',
  ]
  assert.equal(new Set([question, ...others].map(text => wordsHash(ask(text)))).size, 4)
  assert.deepEqual(questionWords('Is that true? Take your time.'), ['true', 'take', 'time'])
})

test('answers have no asides, and signs are words among numbers', () => {
  const answers = [
    'True, it is a dog',
    'False, it is a dog',
    '3 + 4',
    '3 - 4',
    '3 * 4',
    '3 4',
    '-4',
    '4',
    '+',
    '-',
    '4%',
    'C',
    'C#',
    'C++',
    '5 > 3',
    '5 < 3',
  ]
  assert.equal(new Set(answers.map(answer => wordsHash(ask('?', answer)))).size, answers.length)
  assert.deepEqual(wordsOf('- a well-known **word**'), ['well', 'known', 'word'])
})

test('where nothing would be left all words count; scripts without spaces give characters', () => {
  assert.deepEqual(wordsOf('Can you tell me?'), ['can', 'you', 'tell', 'me'])
  assert.deepEqual(wordsOf('Wie viele Äpfel?'), ['wie', 'viele', 'äpfel'])
  assert.deepEqual(wordsOf('图中有3只猫'), ['图', '中', '有', 'three', '只', '猫'])
  assert.deepEqual(wordsOf("the dog's don't"), ['dogs', 'not'])
  assert.deepEqual(wordsOf('?!'), ['?!'])
  assert.deepEqual(wordsOf(' \n'), [])
})

test('a question of 131,000 dots, spaces, ligatures or marks is hashed in linear time', () => {
  const started = process.cpuUsage()
  for (const piece of ['.', ' ', '\n', ' -', '?"', '\ufdfa', `a${'\u0301\u0316'.repeat(32)}`]) {
    const value = `${piece.repeat(131_000 / piece.length)}x`
    assert.equal(wordsHash([{ role: 'user', text: value }]).length, 16)
  }
  assert.ok(process.cpuUsage(started).user < 3_000_000)
})

test('a ligature among words is spelled out, text of nothing else stays', () => {
  assert.deepEqual(wordsOf('\ufb01ve'), wordsOf('five'))
  assert.deepEqual(wordsOf('\ufdfa'.repeat(100)), ['\ufdfa'.repeat(100)])
})
