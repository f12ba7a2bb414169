import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isOutOfMemory } from '../../src/engine/engine.ts'
import { XmasdError } from '../../src/errors.ts'

/** As the libraries wrote them when allocations failed. */
const OUT_OF_MEMORY = [
  'Non-zero status code returned while running Where node. Status Message: bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 27394048',
  'Exception during initialization: std::bad_alloc',
  'CUDA failure 2: out of memory ; GPU=0',
  'CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED',
  'Invalid TF_Status: 8\nMessage: OOM when allocating tensor with shape[1,13376,8,64] and type float',
  'Aborted(). Build with -sASSERTIONS for more info.',
  'WebAssembly.Memory.grow(): Unable to grow instance memory',
  'Array buffer allocation failed',
  'Worker terminated due to reaching memory limit: JS heap out of memory',
]

test('allocations that failed are told from other failures by what the libraries say', () => {
  for (const message of OUT_OF_MEMORY) assert.ok(isOutOfMemory(new Error(message)), message)
  const others = ['Invalid TF_Status: 3\nMessage: shapes differ', 'GPU device lost', 'bad weights']
  for (const message of others) assert.ok(!isOutOfMemory(new Error(message)), message)
  assert.ok(isOutOfMemory(new XmasdError('OUT_OF_MEMORY', '', '')))
  assert.ok(!isOutOfMemory(new XmasdError('ENGINE_FAILED', 'out of memory', '')))
})
