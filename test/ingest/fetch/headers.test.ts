import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { headersFor } from '../../../src/ingest/fetch/headers.ts'
import { fetchImage } from '../../../src/ingest/fetch/image.ts'
import { IMAGE_LIMITS } from '../../../src/ingest/image/pixels.ts'
import { temporaryFolder } from '../../support.ts'
import { hasCode } from '../fixtures.ts'

test('headers go to their origin alone, not behind a redirect', async t => {
  const seen: (string | undefined)[] = []
  const servers = await Promise.all(
    ['first', 'second'].map(async name => {
      const server = createServer((request, response) => {
        seen.push(`${name} ${request.headers.authorization}`)
        const isFirst = name === 'first'
        const location = isFirst ? `http://127.0.0.1:${ports[1]}/` : undefined
        response.writeHead(isFirst ? 302 : 200, location === undefined ? {} : { location }).end('x')
      })
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
      t.after(() => {
        server.closeAllConnections()
        server.close()
      })
      return server
    }),
  )
  const ports = servers.map(server => (server.address() as AddressInfo).port)
  const headersFile = join(temporaryFolder(t), 'headers.yaml')
  writeFileSync(headersFile, `http://127.0.0.1:${ports[0]}:\n  authorization: Bearer secret\n`)
  await fetchImage(`http://127.0.0.1:${ports[0]}/`, {
    ...{ root: '/nowhere', limits: IMAGE_LIMITS, hosts: ['*'], headersFile },
    addressesAllowed: ['127.0.0.0/8'],
  })
  assert.deepEqual(seen, ['first Bearer secret', 'second undefined'])
})

test('a file that is none, or of another form, is refused without a value of it', t => {
  const file = (name: string, text: string): string => {
    const path = join(temporaryFolder(t), name)
    writeFileSync(path, text)
    return path
  }
  const refused = (path: string): void =>
    assert.throws(
      () => headersFor(path),
      error => {
        assert.ok(!`${(error as Error).message}`.includes('secret-value'))
        return hasCode('CONFIG_INVALID')(error)
      },
    )
  refused('/nowhere/headers.yaml')
  refused(file('a', '{ secret-value'))
  refused(file('b', 'https://a.example: secret-value'))
  refused(file('c', 'a.example:\n  authorization: secret-value'))
  refused(file('d', 'https://a.example/path:\n  authorization: secret-value'))
  assert.deepEqual(headersFor(undefined)(new URL('https://a.example')), {})
})
