import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { ROOT } from '../support.ts'

type Locked = { version: string; license?: string; integrity?: string; dev?: boolean }

const PAGE = join(ROOT, 'docs/licences.md')
/** By the file LICENSE of a package that declares none. */
const UNDECLARED: Record<string, string> = { '@kafkajs/confluent-schema-registry': 'MIT' }
const HEAD = '| licence | packages |\n|---|---|\n'

const packagesOf = (lock: string): [name: string, locked: Locked][] => {
  const { packages } = JSON.parse(readFileSync(join(ROOT, lock), 'utf8'))
  return (Object.entries(packages) as [string, Locked][])
    .filter(([path]) => path !== '')
    .map(([path, locked]) => [path.replace(/^.*node_modules\//, ''), locked])
}

test('docs/licences.md lists the licence of every production package (UPDATE_LICENCES=1 writes it)', () => {
  const byLicence = new Map<string, Set<string>>()
  for (const [name, { license, dev }] of packagesOf('package-lock.json')) {
    if (dev) continue
    const licence = license ?? UNDECLARED[name]
    assert.ok(licence !== undefined, `${name} has no licence in package-lock.json`)
    byLicence.set(licence, (byLicence.get(licence) ?? new Set()).add(name))
  }
  const rows = [...byLicence].sort(([a], [b]) => (a < b ? -1 : 1))
  const table = rows.map(([licence, names]) => `| ${licence} | ${[...names].sort().join(', ')} |\n`)
  const [prose] = readFileSync(PAGE, 'utf8').split(HEAD)
  const text = `${prose}${HEAD}${table.join('')}`
  if (process.env.UPDATE_LICENCES === '1') writeFileSync(PAGE, text)
  assert.equal(readFileSync(PAGE, 'utf8'), text, 'run the tests with UPDATE_LICENCES=1')
})

test('every package of a lock file has a checksum', () => {
  for (const folder of ['', 'deploy/check/', 'deploy/tensorflow/']) {
    const packages = packagesOf(`${folder}package-lock.json`)
    const without = packages.filter(([, { integrity }]) => integrity === undefined)
    assert.deepEqual(
      without.map(([name]) => name),
      [],
      folder,
    )
  }
})
