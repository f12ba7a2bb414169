/** The other processes of the local log's tests: `node child.js MODE PATH ...`. */
import assert from 'node:assert/strict'
import { messageOf, XmasdError } from '../../../src/errors.ts'
import { openLocalLog } from '../../../src/log/local/log.ts'
import type { Log } from '../../../src/log/log.ts'
import { after, bytes, step, text } from '../helpers.ts'

const [mode, path, ...rest] = process.argv.slice(2)
assert.ok(mode && path)

/** Appends `batches` of `size` records keyed by the writer, numbered within it. */
async function append(log: Log, [writer, batches, size, valueBytes]: string[]): Promise<void> {
  let serial = 0
  for (let batch = 0; batch < Number(batches); batch++) {
    const records = Array.from({ length: Number(size) }, () => {
      const value = Buffer.alloc(Number(valueBytes), `${serial++} `)
      return { topic: 'in', key: `${writer}`, value }
    })
    await log.append(records)
  }
}

/** Commits for ever: every input goes to `out` beside its position and a count in the state. */
async function commitLoop(log: Log): Promise<void> {
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  for (;;) {
    const records = await consumer.poll({ recordsMax: 11, waitMsMax: 100 })
    if (records.length === 0) continue
    const count = Number(text(consumer.state.get('count')) ?? 0) + records.length
    await consumer.commit({
      positions: after(records),
      outputs: records.map(({ key, value }) => ({ topic: 'out', key, value })),
      state: writer => writer.put('count', bytes(String(count))),
    })
  }
}

/** One member of the group, until nothing comes any more. */
async function member(log: Log): Promise<void> {
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  for (let idle = 0; idle < 5; ) idle = (await step(consumer, 'out')) > 0 ? 0 : idle + 1
}

/** Appends until it fails, and prints the error's code and what was appended before it. */
async function fill(log: Log): Promise<void> {
  let appended = 0
  for (;;) {
    try {
      const value = Buffer.alloc(10_000, 'x')
      await log.append(Array.from({ length: 20 }, () => ({ topic: 'in', key: 'k', value })))
      appended += 20
    } catch (error) {
      assert.ok(error instanceof XmasdError, messageOf(error))
      await assert.rejects(log.append([{ topic: 'in', key: 'k', value: null }]), error)
      process.stdout.write(`${JSON.stringify({ code: error.code, hint: error.hint, appended })}\n`)
      return
    }
  }
}

const log = await openLocalLog({ path })
await log.ensureTopics([{ name: 'in', partitions: 4 }])
await log.ensureTopics([{ name: 'out', partitions: 1 }])
process.stdout.write('ready\n')
if (mode === 'append') await append(log, rest)
else if (mode === 'commit') await commitLoop(log)
else if (mode === 'member') await member(log)
else if (mode === 'fill') await fill(log)
await log.close()
