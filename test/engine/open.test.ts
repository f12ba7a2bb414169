import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Engine } from '../../src/engine/engine.ts'
import { openEngine } from '../../src/engine/open.ts'
import { tensorflowEngine } from '../../src/engine/tensorflow/engine.ts'
import { XmasdError } from '../../src/errors.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { compileVision } from '../../src/score/checkpoint-score.ts'
import { writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'

const SIZES = { threads: 1 }

function refusal(code: string, fix: RegExp): (error: unknown) => boolean {
  return error => error instanceof XmasdError && error.code === code && fix.test(error.hint)
}

test('the engine that is named is opened, onnx where none is', async () => {
  const open = async (engine?: Engine['name']) => (await openEngine({ engine, ...SIZES })).name
  assert.deepEqual(
    [await open(), await open('onnx'), await open('tensorflow')],
    ['onnx', 'onnx', 'tensorflow'],
  )
})

test('a precision that the engine has not, or not here, is refused with what to do', async t => {
  const onnx = openEngine({ engine: 'onnx', precision: 'bfloat16', ...SIZES })
  await assert.rejects(onnx, refusal('CONFIG_INVALID', /proxy.engine to tensorflow/))
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { steps: [1] })
  const { config, checkpoints } = openSchedule(dir)
  const wasm = tensorflowEngine({ backend: 'wasm', precision: 'bfloat16' })
  await assert.rejects(
    compileVision(wasm, config, checkpoints[0]!),
    refusal('ENGINE_UNAVAILABLE', /build:tensorflow.*float32/),
  )
})
