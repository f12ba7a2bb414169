/** `explain` through the built command, on a log that the built daemon has decided. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { openLocalLog } from '../../src/log/local/log.ts'
import { type Assignment, keyOf } from '../../src/record.ts'
import { makeSite, succeed } from './command.ts'

const COUNT = 24
/** The first example is dropped on arrival, as its cluster is small, and is never kept. */
const INSTABILITIES = Array.from({ length: COUNT }, (_, i) => (i === 0 ? 17.5 : i))

function assignmentOf(instability: number, i: number, bundle: string): Assignment {
  const content = (i * 2654435761).toString(16).padStart(16, '0').padEnd(64, 'a')
  return {
    v: 1,
    key: keyOf(`e${i}`, content),
    id: `e${i}`,
    cluster: 3,
    singularValues: null,
    trajectory: [1, 1 + instability],
    instability,
    distance: 0,
    content,
    bundle,
    source: { topic: 'examples', partition: 0, offset: i },
  }
}

for (const policy of ['revisable', 'final']) {
  test(`the sentence of explain agrees with its figures, ${policy}`, async t => {
    const site = makeSite(t, `select: { policy: ${policy}, percent: 20 }`)
    const select = ['run', '--config', site.config, '--roles', 'select', '--until-idle']
    await succeed(select)
    const published = JSON.parse(
      (await succeed(['bundle', 'list', '--config', site.config, '--json'])).stdout,
    ).published
    const log = await openLocalLog({ path: site.log })
    const values = INSTABILITIES.map((value, i) => assignmentOf(value, i, published[0]))
    await log.append(
      values.map(value => ({
        topic: 'assignments',
        key: value.key,
        value: Buffer.from(JSON.stringify(value)),
        partition: 0,
      })),
    )
    await log.close()
    await succeed(select)
    const explain = ['explain', values[0]!.key, '--config', site.config]
    const found = JSON.parse((await succeed([...explain, '--json'])).stdout)
    assert.equal(found.keptNow, false)
    assert.equal(found.rank, 18)
    assert.equal(found.clusterSize, COUNT)
    const { stdout } = await succeed(explain)
    assert.ok(stdout.startsWith(`${values[0]!.key} is not kept: ${found.because}\n`), stdout)
    if (policy === 'revisable') {
      assert.equal(found.decisions[0].reason, 'cluster_too_small')
      const sentence = `it is number 18 by steadiness, and cluster 3 keeps ${found.quota} of ${COUNT}`
      assert.equal(found.because, sentence)
      assert.ok(found.quota < found.rank)
      const other = (await succeed(explain, { XMASD_SELECT_RANK: 'both' })).stdout
      assert.ok(other.includes('it is number 18 by steadiness and image gain, and'), other)
    } else assert.match(found.because, /^on arrival .*; the decision is final$/)
  })
}
