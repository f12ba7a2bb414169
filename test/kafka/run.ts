/**
 * `npm run test:kafka [-- FILE…]`: starts one real broker, runs the tests in `suites/` on it, ends it. Files
 * that want a broker of their own (to kill it) start that themselves.
 */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Broker } from './broker.ts'
import { SHARED_BROKER, type SharedBroker } from './setup.ts'

const FOLDER = join(dirname(fileURLToPath(import.meta.url)), 'suites')

function filesOf(asked: readonly string[]): string[] {
  const all = readdirSync(FOLDER).filter(name => name.endsWith('.test.js'))
  const wanted = asked.map(name => basename(name).replace(/(\.test)?\.[jt]s$/, ''))
  const chosen = all.filter(name => wanted.length === 0 || wanted.includes(name.slice(0, -8)))
  if (chosen.length === 0) throw new Error(`no test file among ${all.join(', ')}`)
  return chosen.map(name => join(FOLDER, name)).sort()
}

function test(files: readonly string[], shared: SharedBroker): Promise<number> {
  const child = spawn(process.execPath, ['--test', '--test-concurrency=3', ...files], {
    env: { ...process.env, [SHARED_BROKER]: JSON.stringify(shared) },
    stdio: 'inherit',
  })
  return new Promise(resolve => child.once('exit', code => resolve(code ?? 1)))
}

const broker = await Broker.start({ sasl: true })
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void broker.close().then(() => process.exit(1)))
}
try {
  const shared: SharedBroker = {
    plain: broker.address,
    sasl: broker.saslAddress,
    ca: broker.tls!.ca,
    otherCa: broker.tls!.otherCa,
  }
  process.exitCode = await test(filesOf(process.argv.slice(2)), shared)
} finally {
  await broker.close()
}
