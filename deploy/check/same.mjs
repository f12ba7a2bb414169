/**
 * node same.mjs KUSTOMIZE.yaml HELM.yaml exits 1 with the difference unless both hold the same objects. It
 * ignores what the tools add: the hash in a generated name, labels, Helm's checksum annotation, the
 * namespace.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { parse, parseAllDocuments } from 'yaml'

const [left, right] = process.argv.slice(2).map(objectsIn)
assert.deepEqual(Object.keys(right), Object.keys(left))
for (const name of Object.keys(left)) assert.deepEqual(right[name], left[name], name)

function objectsIn(file) {
  const documents = parseAllDocuments(readFileSync(file, 'utf8')).map(one => one.toJS())
  const objects = documents.filter(one => one !== null).map(plain)
  const named = objects.map(one => [`${one.kind}/${one.metadata.name}`, one])
  return Object.fromEntries(named.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Removes what the tools add, and parses the xmasd.yaml of a map. */
function plain(value, key = '') {
  if (Array.isArray(value)) return value.map(one => plain(one))
  if (key === 'xmasd.yaml') return parse(value)
  if (typeof value === 'string') return value.replace(/^xmasd-[a-z0-9]{10}$/, 'xmasd')
  if (value === null || typeof value !== 'object') return value
  const added = ['app.kubernetes.io/instance', 'checksum/config', 'namespace']
  const entries = Object.entries(value)
    .filter(([name]) => !added.includes(name))
    .map(([name, one]) => [name, plain(one, name)])
    .filter(([name, one]) => name !== 'annotations' || Object.keys(one).length > 0)
  const object = Object.fromEntries(entries)
  if (key === 'metadata') delete object.labels
  return object
}
