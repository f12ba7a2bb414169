import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { XmasdError } from '../../../src/errors.ts'
import {
  type ChildResult,
  chooseDevice,
  chooseTensorflowDevice,
  type Gpu,
  runChild,
  typicalProxy,
  type Verdict,
  verdictOf,
} from '../../../src/score/device/choice.ts'
import { temporaryFolder } from '../../support.ts'

const SPEED = { stage: 'speed' as const, device: 900, cpu: 100 }
const RIGHT = { stage: 'plain' as const, difference: 3e-6 }
const PLACED = { stage: 'placement' as const, onCpu: [] }

function result(lines: ChildResult['lines'], ended = 'its driver ended the process'): ChildResult {
  return { lines, ended, seconds: 1 }
}

test('a device that is right is used, with fused attention only where that is right too', () => {
  const of = (difference: number) =>
    verdictOf('webgpu', result([SPEED, RIGHT, PLACED, { stage: 'fused', difference }]))
  assert.deepEqual(
    [of(2e-6), of(0.24)].map(({ isUsable, isFaster, fusedAttention }) => [
      isUsable,
      isFaster,
      fusedAttention,
    ]),
    [
      [true, true, true],
      [true, true, false],
    ],
  )
  assert.match(of(0.24).detail, /plain attention \(fused: 2e-1 off\)/)
})

test('on a software driver fused attention is not tried', () => {
  const fused = { stage: 'fused' as const, difference: null }
  const { fusedAttention, detail } = verdictOf('webgpu', result([SPEED, RIGHT, PLACED, fused]))
  assert.equal(fusedAttention, false)
  assert.match(detail, /plain attention \(fused: not tried on a software driver\)/)
})

test('a driver that ends in the fused operator only loses that operator', () => {
  const verdict = verdictOf('webgpu', result([SPEED, RIGHT, PLACED], 'its driver hung for 60 s'))
  assert.deepEqual([verdict.isUsable, verdict.fusedAttention], [true, false])
  assert.match(verdict.detail, /its driver hung/)
})

test('a device that computes wrongly, or ends before it has computed, is refused', () => {
  const wrong = verdictOf('webgpu', result([SPEED, { stage: 'plain', difference: 0.01 }]))
  const dead = verdictOf('webgpu', result([SPEED]))
  const none = verdictOf('webgpu', result([{ stage: 'failed', message: 'No supported adapters' }]))
  for (const { isUsable, fix } of [wrong, dead, none]) {
    assert.equal(isUsable, false)
    assert.ok(fix)
  }
  assert.match(wrong.detail, /wrongly: 1e-2/)
  assert.match(none.detail, /No supported adapters/)
})

test('operators that fall back to the CPU are named', () => {
  const placed = { stage: 'placement' as const, onCpu: ['Attention'] }
  assert.match(verdictOf('cuda', result([SPEED, RIGHT, placed])).detail, /on the CPU.*Attention/)
})

const VERDICT: Verdict = {
  device: 'webgpu',
  isUsable: true,
  isFaster: true,
  fusedAttention: false,
  detail: '',
}

/** Devices that are there, by their verdicts; the others are not. */
function machine(there: Partial<Record<Gpu, Partial<Verdict>>>) {
  return async (device: Gpu): Promise<Verdict> => ({
    ...VERDICT,
    device,
    ...(there[device] ?? { isUsable: false, isFaster: false, detail: 'not there', fix: 'buy one' }),
  })
}

test('auto takes cuda, then webgpu, then cpu; a slow device only by name', async () => {
  const choose = async (
    wish: Parameters<typeof chooseDevice>[0],
    there: Parameters<typeof machine>[0],
  ) => (await chooseDevice(wish, typicalProxy(), machine(there))).device
  assert.equal(await choose('auto', { cuda: {}, webgpu: {} }), 'cuda')
  assert.equal(await choose('auto', { webgpu: {} }), 'webgpu')
  assert.equal(await choose('auto', { webgpu: { isFaster: false } }), 'cpu')
  assert.equal(await choose('webgpu', { webgpu: { isFaster: false } }), 'webgpu')
  assert.equal(await choose('webgpu', { cuda: {}, webgpu: {} }), 'webgpu')
  assert.equal(await choose('auto', {}), 'cpu')
  assert.equal(await choose('cpu', { cuda: {}, webgpu: {} }), 'cpu')
})

test('a device asked for by name that is not there is refused, with what to do', async () => {
  for (const choose of [
    chooseDevice('webgpu', typicalProxy(), machine({ cuda: {} })),
    chooseTensorflowDevice('webgpu'),
  ]) {
    await assert.rejects(choose, (error: unknown) => {
      assert.ok(error instanceof XmasdError && error.code === 'ENGINE_UNAVAILABLE')
      assert.match(error.hint, /proxy\.device to auto or cpu/)
      return true
    })
  }
})

/** A script in place of the child's. */
function script(t: TestContext, text: string): string {
  const file = join(temporaryFolder(t), 'child.cjs')
  writeFileSync(file, `console.log(${JSON.stringify(JSON.stringify(SPEED))})\n${text}`)
  return file
}

test('a child that hangs is ended, and what it had found out counts', async t => {
  const hangs = script(t, 'setInterval(() => {}, 1000)')
  const { lines, ended } = await runChild({ tensorflow: true }, hangs, 3_000)
  assert.deepEqual(lines, [SPEED])
  assert.match(ended, /hung/)
})

test('a child whose driver aborts it is no end of ours', async t => {
  const aborts = script(t, 'console.log("a driver talks"); process.abort()')
  const { lines, ended } = await runChild({ tensorflow: true }, aborts, 10_000)
  assert.deepEqual(lines, [SPEED])
  assert.match(ended, /SIGABRT/)
})
