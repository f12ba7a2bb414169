import assert from 'node:assert/strict'
import test from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { createGauges } from '../../src/daemon/gauges.ts'
import type { Consumer, Log } from '../../src/log/log.ts'
import { createLogger } from '../../src/observe/logger.ts'
import { createMetrics } from '../../src/observe/metrics.ts'
import { openSelectRole } from '../../src/role/select-role.ts'
import { newStatus } from '../../src/role/status.ts'
import { append, assignmentOf, EXAMPLES, emptySite, logWith, runSelect, site } from './site.ts'

const CLUSTERS = 7
const OF_THE_SELECTION =
  /^xmasd_(subset|budget|history|level|balance|evenness|quota|part|redundant|pending|drift|regret|bundle_in_force|shadow)_.*$/gm

/** As a group deals it: whoever has no partition has no positions and polls nothing. */
class Dealt {
  hasIt = false
  #epoch = 0

  deal(hasIt: boolean): void {
    this.hasIt = hasIt
    this.#epoch++
  }

  consumer(whole: Consumer): Consumer {
    const epoch = (): number => this.#epoch
    return {
      poll: async options => {
        if (this.hasIt) return whole.poll(options)
        await setTimeout(5)
        return []
      },
      positions: async () => (this.hasIt ? whole.positions() : []),
      commit: commit => whole.commit(commit),
      rewind: places => whole.rewind(places),
      close: () => whole.close(),
      get epoch() {
        return epoch()
      },
      get state() {
        return whole.state
      },
    }
  }

  log(whole: Log): Log {
    return logWith(whole, {
      consume: async options => this.consumer(await whole.consume(options)),
    })
  }
}

test('only the member that has the partition shows gauges of the selection: before it, and after it, they are absent', async t => {
  const { log: whole, config } = await site(t)
  const dealt = new Dealt()
  const log = dealt.log(whole)
  const metrics = createMetrics()
  const status = newStatus('select')
  const sizes = new Array<number>(CLUSTERS).fill(10)
  const baseline = { examples: 10 * CLUSTERS, textOnly: 0, sizes }
  const bundle = { id: '0123456789ab', clusters: CLUSTERS, baseline, radii: undefined }
  const logger = createLogger({ level: 'silent' })
  const select = await openSelectRole({ config, log, metrics, logger, status, bundle })
  t.after(() => select.close())
  const refresh = createGauges()
  const common = { config, metrics, log, isReached: true, statuses: [status], engine: undefined }
  const scrape = async (): Promise<string> => {
    await refresh({ ...common, clusters: CLUSTERS, select })
    return metrics.registry.metrics()
  }
  const shown = async (): Promise<string[]> => [...((await scrape()).match(OF_THE_SELECTION) ?? [])]
  const until = async (isSo: () => Promise<boolean>): Promise<void> => {
    for (let tries = 0; !(await isSo()); tries++) {
      assert.ok(tries < 1_000, 'it did not come')
      await setTimeout(10)
    }
  }
  const controller = new AbortController()
  const running = select.run(controller.signal)
  assert.deepEqual(await shown(), [])
  const decided = `xmasd_examples_total{outcome="assigned"} ${EXAMPLES}`
  for (const round of [1, 2]) {
    dealt.deal(true)
    await until(async () => (await scrape()).includes(decided) && select.isDeciding)
    const names = new Set((await shown()).map(line => line.split(/[ {]/)[0]))
    assert.equal(names.size, 19, `round ${round}: ${[...names].join(', ')}`)
    dealt.deal(false)
    await until(async () => !select.isDeciding)
    assert.deepEqual(await shown(), [], `round ${round}`)
  }
  controller.abort()
  await running
})

test('a record that decides 130,000 examples at once is a record like any other', async t => {
  const examples = 130_000 // more than a call has room for as its arguments
  const { log, config, bundles } = await emptySite(t, 'revisable')
  const select = { ...config.select, settleEvery: Number.MAX_SAFE_INTEGER }
  for (let from = 0; from < examples; from += 10_000) {
    const numbers = Array.from({ length: 10_000 }, (_, i) => from + i)
    await append(
      log,
      numbers.map(i => assignmentOf(i, bundles[0])),
    )
  }
  await append(log, [{ v: 1, control: 'settle' }])
  await runSelect({ log, bundles, config: { ...config, select } }, bundles[0], async metrics => {
    const [pending, history] = await Promise.all([metrics.pending.get(), metrics.history.get()])
    return history.values[0]?.value === examples && pending.values[0]?.value === 0
  })
  const [written] = await log.ends('decisions')
  assert.equal(written, examples + 1) // the first was decided alone, as its offset begins a block
})
