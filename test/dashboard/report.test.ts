import assert from 'node:assert/strict'
import test from 'node:test'
import { countsOf, readWhole } from '../../src/dashboard/report.ts'
import type { Log } from '../../src/log/log.ts'
import { EXAMPLES, logWith, runSelect, site } from '../role/site.ts'

test('what is decided while a report is made is in none of its numbers, or in all', async t => {
  const parts = await site(t)
  const { log, config, bundles } = parts
  const decided = () =>
    runSelect(parts, bundles[0], async ({ history }) => {
      return (await history.get()).values.at(-1)?.value === EXAMPLES
    })
  const whole = logWith(log, {
    committed: async (...args) => {
      await decided()
      return log.committed(...args)
    },
  })
  const counts = async (of: Log) => countsOf(await readWhole(of, config), config)
  const [during, after] = [await counts(whole), await counts(log)]
  assert.ok(during.kept > 0)
  assert.deepEqual([during.examples, during.waiting, during.kept], [EXAMPLES, 0, after.kept])
})
