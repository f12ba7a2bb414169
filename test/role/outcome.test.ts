import assert from 'node:assert/strict'
import { test } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import type { LogRecord, OutRecord } from '../../src/log/log.ts'
import { isRedriveMark } from '../../src/record.ts'
import { type Outcome, outcomeOf, outputOf, restoredHeaders } from '../../src/role/outcome.ts'
import type { ScoredRecord } from '../../src/score/pipeline.ts'

const TOPICS = { assignments: 'assignments', deadLetters: 'dead-letters' }

test('a batch that cannot be decoded becomes a dead letter with its bytes, whatever was scored', () => {
  const error = new XmasdError('BATCH_UNREADABLE', 'the batch at offset 7', 'produce it again')
  const value = Buffer.from('a batch as it is stored')
  const record: LogRecord = {
    topic: 'examples',
    partition: 3,
    offset: 7,
    key: null,
    value,
    headers: {},
    timestamp: 0,
    error,
  }
  const never = (): never => assert.fail('nothing of it is looked at')
  const scored = new Proxy({} as ScoredRecord, { get: never })
  const outcome = outcomeOf(record, scored, never, 'bundle')
  const output = outputOf(outcome, TOPICS, 1_000)
  assert.equal(output.topic, 'dead-letters')
  assert.deepEqual(Buffer.from(output.value!), value)
  assert.equal(output.headers!.code, 'BATCH_UNREADABLE')
  assert.deepEqual(JSON.parse(output.headers!.source!), {
    topic: 'examples',
    partition: 3,
    offset: 7,
  })
})

function failed(given: Partial<LogRecord>): Outcome {
  const place = { topic: 'examples', partition: 3, offset: 7 }
  const record = {
    ...place,
    key: 'k',
    value: Buffer.from('{'),
    headers: {},
    timestamp: 0,
    ...given,
  }
  return { kind: 'dead_letter', record, error: new XmasdError('NOT_JSON', 'no JSON', 'correct it') }
}

/** As the log gives back what was written. */
function letterOf({ key, value, headers = {}, rawHeaders = [] }: OutRecord): LogRecord {
  const texts = Object.entries(headers).map(([name, text]) => [name, Buffer.from(text)] as const)
  const all = [...texts, ...rawHeaders]
  const text = Object.fromEntries(all.map(([name, value]) => [name, String(value ?? '')]))
  const letter = {
    topic: 'dead-letters',
    partition: 0,
    offset: 0,
    key,
    value,
    headers: text,
    timestamp: 0,
  }
  return rawHeaders.length === 0 ? letter : { ...letter, rawHeaders: all }
}

test('a dead letter carries the headers of its record, whatever they are named and hold', () => {
  const headers = {
    code: 'de',
    redriven: '1',
    'original.code': 'x',
    origin: '{}',
    tries: '2',
    app: 'a',
  }
  const { origin, tries, ...own } = headers
  const letter = letterOf(outputOf(failed({ headers }), TOPICS, 10_000))
  assert.equal(letter.headers.code, 'NOT_JSON')
  assert.deepEqual([letter.headers.origin, letter.headers.tries], [origin, tries])
  assert.equal(isRedriveMark(letter), false)
  assert.deepEqual(restoredHeaders(letter), { headers: own })
})

test('a dead letter carries headers that repeat or are no text', () => {
  const rawHeaders = [
    ['code', Buffer.from([255])],
    ['app', Buffer.from('a')],
    ['app', null],
  ] as const
  const outcome = failed({ headers: { code: '\ufffd', app: '' }, rawHeaders })
  const letter = letterOf(outputOf(outcome, TOPICS, 10_000))
  assert.equal(letter.headers.code, 'NOT_JSON')
  assert.deepEqual(restoredHeaders(letter), { rawHeaders })
})

test('a dead letter whose headers leave no room for them says so and keeps its trace', () => {
  const headers = { app: 'a'.repeat(6_000), traceparent: '00-1' }
  const { headers: left, value } = outputOf(failed({ headers }), TOPICS, 10_000)
  assert.match(left!.cut!, /^headers of 60\d\d bytes left out$/)
  assert.deepEqual([left!.app, left!.traceparent], [undefined, '00-1'])
  assert.equal(value?.length, 1)
})
