import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { XmasdError } from '../../src/errors.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import {
  chooseResidency,
  type MemoryNeed,
  memoryNeed,
  planResidency,
  type ResidencyOptions,
} from '../../src/score/residency.ts'
import { writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'

/** What is in memory at the worst moment of a job, told step by step. */
function peak(need: MemoryNeed, options: ResidencyOptions, residents: number, features: number) {
  const { checkpoints, visionShared, jobExamples } = options
  const isStreamed = residents < checkpoints
  const examples = isStreamed ? jobExamples.streamed : jobExamples.resident
  const always = features + examples * need.example + (visionShared ? need.tower : 0)
  let held = always
  for (let t = 0; t < residents; t++) held += need.score + (visionShared ? 0 : need.tower)
  let most = held
  for (let t = residents; t < checkpoints; t++) {
    if (!visionShared) most = Math.max(most, held + need.tower)
    most = Math.max(most, held + need.score)
  }
  return most
}

/** Small numbers, so that a naive count can follow. */
const NEEDS = fc.record({
  tower: fc.integer({ min: 1, max: 500 }),
  score: fc.integer({ min: 1, max: 500 }),
  pass: fc.constant(0),
  shared: fc.constant({ tower: 0, score: 0 }),
  example: fc.integer({ min: 0, max: 3 }),
})
const OPTIONS = fc.record({
  bytesMax: fc.integer({ min: 1, max: 5000 }),
  checkpoints: fc.integer({ min: 1, max: 12 }),
  visionShared: fc.boolean(),
  jobExamples: fc.constantFrom({ resident: 64, streamed: 64 }, { resident: 8, streamed: 32 }),
})

test('as many checkpoints stay as the budget holds, and never more', () => {
  fc.assert(
    fc.property(NEEDS, OPTIONS, (need, drawn) => {
      const { residency, bytesMin } = planResidency(need, drawn)
      const features = Math.floor(drawn.bytesMax / 8)
      const fits = (residents: number) => peak(need, drawn, residents, features) <= drawn.bytesMax
      const counts = Array.from({ length: drawn.checkpoints + 1 }, (_, count) => count)
      const most = counts.filter(fits).at(-1)
      assert.equal(residency?.residents, most)
      if (most === undefined) assert.ok(bytesMin > drawn.bytesMax)
    }),
    { numRuns: 500, seed: 3 },
  )
})

test('the budget that a refused one is told to be is taken, and a little less is not', () => {
  const scales = fc.constantFrom(1, 2 ** 20)
  fc.assert(
    fc.property(NEEDS, OPTIONS, scales, ({ tower, score, pass, example }, drawn, scale) => {
      const need = {
        tower: tower * scale,
        score: score * scale,
        pass,
        shared: { tower: 0, score: 0 },
        example: example * scale,
      }
      const plan = (bytesMax: number) => planResidency(need, { ...drawn, bytesMax })
      const { bytesMin } = plan(1)
      for (const more of [0, 0.5, 1, 7, 8, scale]) assert.ok(plan(bytesMin + more).residency)
      // Features take whole bytes: one less may do as well.
      assert.equal(plan(bytesMin - 2).residency, undefined)
      assert.equal(plan(bytesMin - 2).bytesMin, bytesMin)
    }),
    { numRuns: 500, seed: 3 },
  )
})

test('a budget that is set and does not hold one checkpoint is refused with what it takes', t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const schedule = openSchedule(dir)
  const options = {
    device: 'cpu' as const,
    workers: 2,
    tokensMax: 64,
    jobExamples: { resident: 4, streamed: 4 },
  }
  const refused = (memoryMax: number): XmasdError => {
    try {
      chooseResidency(schedule, { ...options, memoryMax })
    } catch (error) {
      if (error instanceof XmasdError) return error
    }
    throw new Error(`${memoryMax} bytes were accepted`)
  }
  const error = refused(1000)
  assert.equal(error.code, 'CONFIG_INVALID')
  assert.match(error.message, /proxy\.memoryMax is 1000/)
  const bytes = Number(/set it to (\d+)/.exec(error.hint)![1])
  assert.ok(chooseResidency(schedule, { ...options, memoryMax: bytes }).residents >= 0)
  assert.match(refused(bytes - 4).hint, new RegExp(`set it to ${bytes} `))
  const free = chooseResidency(schedule, { ...options, memoryMax: undefined })
  assert.equal(free.residents, schedule.checkpoints.length)
})

test('half-precision weights need what float32 ones do, but for the embeddings, which stay in the file', t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const schedule = openSchedule(dir)
  const { score, tower } = memoryNeed(schedule, 64)
  const half = structuredClone(schedule)
  for (const tensor of half.checkpoints[0]!.tensors.values()) tensor.bytes /= 2
  const embeddings = schedule.checkpoints[0]!.tensors.get('text.embed_tokens.weight')!.bytes
  assert.equal(memoryNeed(half, 64).tower, tower)
  assert.equal(memoryNeed(half, 64).score, score - embeddings / 2)
  let coarse = 0
  for (const [name, { bytes }] of schedule.checkpoints[0]!.tensors) {
    if (/(v_proj|o_proj|mlp.*)\.weight$/.test(name) && name.startsWith('text.')) coarse += bytes
  }
  assert.ok(coarse > 0)
  assert.equal(memoryNeed(schedule, 64, 'bfloat16').score, score - coarse / 2)
})
