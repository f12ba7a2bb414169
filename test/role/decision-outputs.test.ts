import assert from 'node:assert/strict'
import test from 'node:test'
import type { LogRecord } from '../../src/log/log.ts'
import { parseAssignment } from '../../src/role/decision-outputs.ts'

function parse(text: string | null): unknown {
  const place = { topic: 'assignments', partition: 0, offset: 7 }
  const value = text === null ? null : Buffer.from(text)
  const record: LogRecord = { ...place, key: null, value, headers: {}, timestamp: 0 }
  return parseAssignment(record, { withTrajectory: false })
}

test("another's record among the assignments is refused as such, by its place", () => {
  const good = { key: 'a@0', id: 'a', content: '0', bundle: 'b', cluster: 'text' }
  const { content, ...contentless } = good
  const foreign = [
    null,
    '',
    'hello',
    'null',
    '7',
    '[]',
    '{"id":"x","conversations":[{"from":"human","value":"what?"}]}',
    '{"control":"stop"}',
    '{"v":1,"control":"swap"}',
    JSON.stringify(contentless),
    JSON.stringify({ ...good, content: 5 }),
    JSON.stringify({ ...good, bundle: null }),
  ]
  for (const text of foreign) {
    assert.throws(
      () => parse(text),
      { code: 'RECORD_INVALID', message: /^assignments\/0@7 / },
      String(text),
    )
  }
  assert.deepEqual(parse(JSON.stringify(good)), { ...good, content })
  assert.deepEqual(parse('{"v":1,"control":"settle"}'), { v: 1, control: 'settle' })
})
