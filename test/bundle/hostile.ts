/** Bundles with files that no xmasd wrote, under right checksums. */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MANIFEST, Manifest } from '../../src/bundle/bundle.ts'

/** Adds an `index.hnsw` with this content to the bundle in `dir`, as bundles of 0.1.0 have one. Returns its id. */
export function addIndexFile(dir: string, content: Uint8Array): string {
  const manifest = Manifest.parse(JSON.parse(readFileSync(join(dir, MANIFEST), 'utf8')))
  writeFileSync(join(dir, 'index.hnsw'), content)
  const checksum = { sha256: sha256(content), bytes: content.length }
  const files = { ...manifest.files, 'index.hnsw': checksum }
  const id = sha256(textOf({ ...manifest, files, id: '' })).slice(0, 12)
  writeFileSync(join(dir, MANIFEST), textOf({ ...manifest, files, id }))
  return id
}

function textOf(manifest: Manifest): string {
  return `${JSON.stringify(Manifest.parse(manifest), null, 2)}\n`
}

function sha256(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}
