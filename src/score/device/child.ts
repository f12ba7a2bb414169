/**
 * The child process that tries a device: `node child.js TASK`. Prints one JSON line a finding, so
 * that what was found before a driver hung or aborted counts.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { messageOf } from '../../errors.ts'
import { type DeviceFinding, type DeviceTestOptions, testDevice } from './trial.ts'

/** A GPU for the onnx engine, or what TensorFlow finds by itself. */
export type ChildTask = Omit<DeviceTestOptions, 'dir'> | { tensorflow: true }

/** The last line is `done`, or `failed` where the test could not go on. */
export type ChildLine =
  | DeviceFinding
  | { stage: 'tensorflow'; device: 'cpu' | 'cuda'; version: string }
  | { stage: 'failed'; message: string }
  | { stage: 'done' }

const dir = mkdtempSync(join(tmpdir(), 'xmasd-device-'))
process.on('exit', () => rmSync(dir, { recursive: true, force: true }))

function print(line: ChildLine): void {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

try {
  const task: ChildTask = JSON.parse(process.argv[2]!)
  if ('tensorflow' in task) await describe()
  else for await (const finding of testDevice({ ...task, dir })) print(finding)
  print({ stage: 'done' })
} catch (error) {
  print({ stage: 'failed', message: messageOf(error) })
}

async function describe(): Promise<void> {
  const { describeTensorflow } = await import('../../engine/tensorflow/backend.ts')
  const found = await describeTensorflow()
  if (found.backend === 'wasm') throw new Error('its addon does not start')
  print({ stage: 'tensorflow', device: found.device, version: found.version })
}
