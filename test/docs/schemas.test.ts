import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { z } from 'zod'
import { API_SCHEMAS } from '../../src/dashboard/schemas.ts'
import { Assignment, Control, Decision, Example, SubsetEntry } from '../../src/record.ts'
import { ROOT } from '../support.ts'

const FOLDER = join(ROOT, 'docs/schemas')
const SCHEMAS = {
  example: Example,
  assignment: Assignment,
  control: Control,
  decision: Decision,
  subset: SubsetEntry,
}

/** One file for the API: its documents by their path. */
const API = z.object(API_SCHEMAS)

test('docs/schemas holds the records of the log and the answers of the API as JSON Schema (UPDATE_SCHEMAS=1 writes them)', () => {
  for (const [name, schema] of Object.entries({ ...SCHEMAS, api: API })) {
    const text = `${JSON.stringify(z.toJSONSchema(schema), null, 2)}\n`
    const file = join(FOLDER, `${name}.schema.json`)
    if (process.env.UPDATE_SCHEMAS === '1') writeFileSync(file, text)
    assert.equal(readFileSync(file, 'utf8'), text, `${name}: run the tests with UPDATE_SCHEMAS=1`)
  }
  // config.schema.json is held by test/command/config.test.ts.
  assert.equal(readdirSync(FOLDER).length, Object.keys(SCHEMAS).length + 2)
})
