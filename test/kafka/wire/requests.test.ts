import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Brokers } from '../../../src/kafka/link/brokers.ts'
import { codeOf } from '../../../src/kafka/link/errors.ts'
import { Writer } from '../../../src/kafka/wire/bytes.ts'
import {
  fetchRequest,
  type Protocol,
  positionsRequest,
  producersRequest,
  transactionRequest,
} from '../../../src/kafka/wire/requests.ts'
import { fetchPositions } from '../../../src/kafka/write/transaction.ts'

async function answered<T>(request: Protocol<T>, write: (out: Writer) => void): Promise<T> {
  const out = new Writer()
  write(out)
  return request.response.decode(out.buffer())
}

const GROUP_LOAD_IN_PROGRESS = 14

/** What a coordinator says that is not done loading: no topics, and an error for all. */
function loading(out: Writer): void {
  out.tags().i32(0).size(0).i16(GROUP_LOAD_IN_PROGRESS).tags()
}

function position(offset: number, code = 0): (out: Writer) => void {
  return out => {
    out.tags().i32(0).size(1).compactText('in').size(1)
    out.i32(3).i64(offset).i32(-1).compactText('').i16(code).tags()
    out.tags().i16(0).tags()
  }
}

function clusterThatSays(write: (out: Writer) => void): Brokers {
  const send = (request: Protocol<unknown>): Promise<unknown> => answered(request, write)
  return { coordinator: async () => ({ connectionPool: { send } }) } as unknown as Brokers
}

test('positions: the error of a coordinator that is loading is thrown, and is not "none"', async () => {
  const request = positionsRequest('g', 'in', [3])
  const found = await answered(request, loading)
  assert.deepEqual(found, { code: GROUP_LOAD_IN_PROGRESS, positions: [] })
  await assert.rejects(
    fetchPositions(clusterThatSays(loading), 'g', 'in', [3]),
    error => codeOf(error) === 'GROUP_LOAD_IN_PROGRESS',
  )
})

test('positions: one, none, one that is not settled, one that nothing is said of', async () => {
  const asked = (write: (out: Writer) => void, partition = 3): Promise<(number | undefined)[]> =>
    fetchPositions(clusterThatSays(write), 'g', 'in', [partition])
  assert.deepEqual(await asked(position(800)), [800])
  assert.deepEqual(await asked(position(-1)), [undefined])
  await assert.rejects(asked(position(800, 88)), e => codeOf(e) === 'UNSTABLE_OFFSET_COMMIT')
  await assert.rejects(
    asked(position(800), 4),
    error => codeOf(error) === 'GROUP_COORDINATOR_NOT_AVAILABLE',
  )
})

test('a fetch that is refused as a whole throws why', async () => {
  const request = fetchRequest([], { waitMsMax: 0, bytesMax: 1 })
  await assert.rejects(
    answered(request, out => out.i32(0).i16(29).i32(0).i32(0)),
    error => codeOf(error) === 'TOPIC_AUTHORIZATION_FAILED',
  )
})

test('transactions and producers are read: how the last one ended, what is open', async () => {
  const transaction = await answered(transactionRequest('g-in-3'), out => {
    out.tags().i32(0).size(1).i16(0).compactText('g-in-3').compactText('Ongoing')
    out.i32(30_000).i64(1).i64(7).i16(2).size(1).compactText('out').size(2).i32(0).i32(3)
    out.tags().tags().tags()
  })
  const places = [0, 3].map(partition => ({ topic: 'out', partition }))
  const wanted = { code: 0, state: 'Ongoing', producerId: '7', producerEpoch: 2, places }
  assert.deepEqual(transaction, wanted)
  const producers = await answered(producersRequest([{ topic: 'out', partition: 2 }]), out => {
    out.tags().i32(0).size(1).compactText('out').size(1).i32(2).i16(0).i8(0).size(2)
    for (const [id, openFrom] of [
      [7, 310],
      [8, -1],
    ]) {
      out.i64(id!).i32(1).i32(9).i64(1).i32(0).i64(openFrom!).tags()
    }
    out.tags().tags().tags()
  })
  const open = [{ producerId: 7, openFrom: 310 }]
  assert.deepEqual(producers, [{ topic: 'out', partition: 2, code: 0, producers: open }])
})
