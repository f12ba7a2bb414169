/**
 * `store-child.js FOLDER`: identifies an example for each of references.json, several by ingest workers, and
 * writes found.json: the keys, and the code of what failed, whose message is printed.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadConfig } from '../../../src/config.ts'
import { XmasdError } from '../../../src/errors.ts'
import { identify } from '../../../src/ingest/prepare.ts'
import { imageSource, startIdentifying } from '../../../src/score/pipeline.ts'

const folder = process.argv[2]!
const references: string[] = JSON.parse(readFileSync(join(folder, 'references.json'), 'utf8'))
const config = loadConfig(
  undefined,
  {},
  {
    'images.root': folder,
    'images.buckets': ['s3://pictures', 'gs://pictures'],
    'score.ingestWorkers': 2,
  },
)
const values = references.map((image, i) => {
  const conversations = [
    { from: 'human', value: '<image>\nWhat is it?' },
    { from: 'gpt', value: 'A square.' },
  ]
  return Buffer.from(JSON.stringify({ id: `${i}`, image, conversations }))
})
const keys = values.length === 1 ? [undefined] : await identified()
const errors: Record<number, string> = {}
for (const [i, key] of keys.entries()) {
  if (key !== undefined) continue
  try {
    keys[i] = (await identify(values[i]!, imageSource(config), () => undefined)).key
  } catch (error) {
    if (!(error instanceof XmasdError)) throw error
    errors[i] = error.code
    console.log(`${error.message}\n${error.hint}`)
  }
}
async function identified(): Promise<(string | undefined)[]> {
  const identifier = await startIdentifying(config)
  try {
    return await identifier.identify(values)
  } finally {
    await identifier.close()
  }
}

writeFileSync(join(folder, 'found.json'), JSON.stringify({ keys, errors }))
