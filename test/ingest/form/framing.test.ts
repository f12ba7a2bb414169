import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checkRegistry, unframed } from '../../../src/ingest/form/framing.ts'
import { hasCode } from '../fixtures.ts'

const JSON_BYTES = Buffer.from('{"id":"a"}')
const FRAMED = Buffer.concat([Buffer.from([0, 0, 0, 1, 7]), JSON_BYTES])
/** Nothing listens there. */
const NOWHERE = { url: 'http://127.0.0.1:9', username: 'reader', password: 'never-shown' }

test('a record that is not framed passes as it is', async () => {
  assert.equal(await unframed(JSON_BYTES, undefined), JSON_BYTES)
  assert.equal(await unframed(JSON_BYTES, NOWHERE), JSON_BYTES)
  const short = Buffer.from([0, 0, 0, 1, 7])
  assert.equal(await unframed(short, NOWHERE), short)
})

test('without a registry a framed record is refused with its schema and the missing key', async () => {
  await assert.rejects(unframed(FRAMED, undefined), error => {
    assert.match(
      (error as Error).message,
      /framed with schema 263 .* log.schemaRegistry is not set/,
    )
    return hasCode('RECORD_FRAMED')(error)
  })
})

test('a registry that does not answer is no fault of the record: it is retryable, and shows no password', async () => {
  await assert.rejects(unframed(FRAMED, NOWHERE), error => {
    const { message, retryable, retryAfterMs } = error as Error & Record<string, unknown>
    assert.deepEqual([retryable, retryAfterMs], [true, 1000])
    assert.ok(!message.includes('never-shown'))
    return hasCode('REGISTRY_UNAVAILABLE')(error)
  })
})

test('a password file that is not there is a mistake of the configuration', () => {
  const options = { url: 'http://127.0.0.1:9', username: 'reader', passwordFile: '/nowhere/secret' }
  assert.throws(() => checkRegistry(options), hasCode('CONFIG_INVALID'))
})
