/** The versions of requests that are sent, against the newest broker and the table in `src/kafka/README.md`. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Reader } from '../../../src/kafka/wire/bytes.ts'
import { ROOT } from '../../support.ts'
import { connected } from '../scene.ts'
import { sharedBroker } from '../setup.ts'

type Row = { name: string; key: number; ours: number; min: number; max: number; by: string }

function tableOfReadme(): Row[] {
  const text = readFileSync(join(ROOT, 'src/kafka/README.md'), 'utf8')
  const rows = text.matchAll(/^\| (\w+) \| (\d+) \| (\d+) \| (\d+) to (\d+) \| (\w+) \|$/gm)
  return [...rows].map(([, name, key, ours, min, max, by]) => {
    return { name: name!, key: +key!, ours: +ours!, min: +min!, max: +max!, by: by! }
  })
}

/** The newest version of a request that kafkajs can send. */
function newestOfLibrary(name: string): number {
  const folder = `${name[0]!.toLowerCase()}${name.slice(1)}`
  const path = join(ROOT, 'node_modules/kafkajs/src/protocol/requests', folder)
  const versions = readdirSync(path).filter(entry => /^v\d+$/.test(entry))
  return Math.max(...versions.map(entry => Number(entry.slice(1))))
}

test('the table of request versions is true of the newest broker, which takes them all', async t => {
  const brokers = await connected(t, sharedBroker().plain)
  const node = await brokers.controller()
  const rows = tableOfReadme()
  assert.equal(rows.length, 22)
  const requests = readFileSync(join(ROOT, 'src/kafka/wire/requests.ts'), 'utf8')
  const known = node.versions as Record<number, { minVersion: number; maxVersion: number }>
  for (const { name, key, ours, min, max, by } of rows) {
    const { minVersion, maxVersion } = known[key]!
    assert.deepEqual([name, minVersion, maxVersion], [name, min, max])
    if (by === 'kafkajs') {
      assert.deepEqual([name, ours], [name, Math.min(newestOfLibrary(name), maxVersion)])
    } else assert.ok(requests.includes(`apiName: '${name}', apiVersion: ${ours} }`), name)
    assert.ok(ours >= minVersion && ours <= maxVersion, name)
  }
})

test('one request, sent by hand', async t => {
  const brokers = await connected(t, sharedBroker().plain)
  const { connectionPool } = await brokers.controller()
  const request = { apiKey: 18, apiName: 'ApiVersions', apiVersion: 0 }
  const empty = Buffer.alloc(0)
  const keys = await connectionPool.send({
    request: { ...request, encode: async () => ({ buf: empty, buffer: empty }) },
    response: {
      decode: async payload => {
        const input = new Reader(payload)
        const found: number[] = []
        assert.equal(input.i16(), 0)
        input.times(() => {
          found.push(input.i16())
          input.skip(4)
        })
        return found
      },
      parse: async decoded => decoded,
    },
  })
  assert.ok(keys.includes(28))
})
