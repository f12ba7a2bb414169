/** What LoRA checkpoints of one base feed to the session that they share. */
import assert from 'node:assert/strict'
import { renameSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Fed } from '../../../src/engine/onnx/model.ts'
import { OwnWeights } from '../../../src/engine/onnx/own-weights.ts'
import { seededRandom } from '../../../src/math/random.ts'
import { readHeader, writeSafetensors } from '../../../src/proxy/checkpoint/safetensors.ts'
import { failureOf } from '../../../src/score/failure.ts'
import { temporaryFolder } from '../../support.ts'

const [OUTPUTS, INPUTS, RANK, SCALE] = [300, 1000, 5, 1 / 3]

type Adapter = { fed: Fed; file: string; exact: Float32Array }

function writeAdapter(folder: string, seed: number): Adapter {
  const random = seededRandom(seed)
  const noise = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5)
  const [w, a, b] = [OUTPUTS * INPUTS, RANK * INPUTS, OUTPUTS * RANK].map(noise)
  const file = join(folder, `${seed}.safetensors`)
  writeSafetensors(file, {
    w: { shape: [OUTPUTS, INPUTS], data: w! },
    a: { shape: [RANK, INPUTS], data: a! },
    b: { shape: [OUTPUTS, RANK], data: b! },
  })
  const { tensors } = readHeader(file)
  const stored = (name: string) => ({ ...tensors.get(name)!, file })
  const exact = w!.map((value, at) => {
    const [o, i] = [Math.floor(at / INPUTS), at % INPUTS]
    let sum = value
    for (let r = 0; r < RANK; r++) sum += SCALE * b![o * RANK + r]! * a![r * INPUTS + i]!
    return sum
  })
  const from = { ...stored('w'), lora: { a: stored('a'), b: stored('b'), scale: SCALE } }
  return { fed: { name: 'w', type: 'float32', shape: [OUTPUTS, INPUTS], from }, file, exact }
}

test('a weight with its adapter is summed in float64, in blocks, and rounded once', async t => {
  const { fed, exact } = writeAdapter(temporaryFolder(t), 1)
  const own = new OwnWeights(1).open([fed])
  t.after(() => own.close())
  const { w } = await own.tensors()
  const differing = exact.filter((value, i) => value !== w!.data[i]).length
  assert.equal(differing, 0)
})

test('checkpoints of one engine take turns in one place, each with its own weights', async t => {
  const folder = temporaryFolder(t)
  const adapters = [1, 2].map(seed => writeAdapter(folder, seed))
  const weights = new OwnWeights(1)
  const owns = adapters.map(({ fed }) => weights.open([fed]))
  t.after(() => {
    for (const own of owns) own.close()
  })
  const places = new Set<unknown>()
  for (const turn of [0, 0, 1, 0, 1]) {
    const { w } = await owns[turn]!.tensors()
    places.add(w!.data)
    assert.deepEqual(w!.data, adapters[turn]!.exact, `turn of ${turn}`)
  }
  assert.equal(places.size, 1)
})

test('a file that is replaced stays the one that was opened; one that is cut off is CHECKPOINT_INVALID', async t => {
  const folder = temporaryFolder(t)
  const [mine, other] = [1, 2].map(seed => writeAdapter(folder, seed))
  const own = new OwnWeights(1).open([mine!.fed])
  t.after(() => own.close())
  renameSync(other!.file, mine!.file)
  const { w } = await own.tensors()
  assert.deepEqual(w!.data, mine!.exact)
  const cut = writeAdapter(folder, 3)
  const left = new OwnWeights(1).open([cut.fed])
  t.after(() => left.close())
  truncateSync(cut.file, 10_000)
  await assert.rejects(left.tensors(), error => {
    assert.equal(failureOf(error).code, 'CHECKPOINT_INVALID')
    return true
  })
})
