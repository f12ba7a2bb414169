/** The hostile records through one preparer: whatever they are, they end, and soon. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import { IMAGE_LIMITS } from '../../src/ingest/image/pixels.ts'
import { hostileRecords } from '../e2e/hostile.ts'
import { temporaryFolder } from '../support.ts'
import { demoPreparer } from './fixtures.ts'

/** Processor time: a loaded machine is not the record's fault. */
const CPU_MS_MAX = 1000
const BYTES_MAX = 1_000_000
/** Decoding, hashing and resizing so many pixels takes longer than any text. */
const PIXELS = /pixels|pictures|PNGs|without rows|restart markers/

for (const answers of [false, true]) {
  const metric = answers ? 'loss' : 'attention'
  test(`every hostile record is an example or an error of its own under ${metric}, soon`, async t => {
    const preparer = demoPreparer({
      imageRoot: temporaryFolder(t),
      limits: { ...IMAGE_LIMITS, pixelsMax: 4_000_000 },
      answers,
    })
    const records = hostileRecords()
    assert.ok(records.length >= 100)
    for (const { name, bytes } of records) {
      assert.ok(bytes.length < BYTES_MAX, name)
      const before = process.cpuUsage()
      await preparer.prepare(bytes).catch((error: unknown) => {
        assert.ok(error instanceof XmasdError, `${name}: ${error}`)
      })
      const { user, system } = process.cpuUsage(before)
      const cpuMs = (user + system) / 1000
      assert.ok(cpuMs < CPU_MS_MAX || PIXELS.test(name), `${name} took ${cpuMs} ms`)
    }
  })
}
