/** Records that producers have framed with schemas of a real registry. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SchemaRegistry, SchemaType } from '@kafkajs/confluent-schema-registry'
import { loadConfig } from '../../../src/config.ts'
import { topicSpecs } from '../../../src/log/open.ts'
import type { Assignment, Decision } from '../../../src/record.ts'
import { distinct, succeed } from '../../e2e/command.ts'
import { startRegistry } from '../registry.ts'
import { json, kafkaSite, readTopic } from '../scene.ts'
import { sharedBroker } from '../setup.ts'

const PASSWORD = 'never/shown+0123456789'

const AVRO = JSON.stringify({
  type: 'record',
  name: 'Example',
  fields: [
    { name: 'id', type: 'string' },
    { name: 'image', type: ['null', 'string'], default: null },
    {
      name: 'conversations',
      type: {
        type: 'array',
        items: {
          type: 'record',
          name: 'Turn',
          fields: [
            { name: 'from', type: 'string' },
            { name: 'value', type: 'string' },
          ],
        },
      },
    },
  ],
})

const PROTOBUF = `
syntax = "proto3";
message Example {
  message Turn { string from = 1; string value = 2; }
  string id = 1;
  string image = 2;
  repeated Turn conversations = 3;
}
`

/** `title`: schemas that differ in it are two. */
function jsonSchema(title: string): string {
  const $schema = 'http://json-schema.org/draft-07/schema#'
  return JSON.stringify({ $schema, title, type: 'object', required: ['id', 'conversations'] })
}

test('records framed with Avro, Protobuf and JSON schemas are decided; one whose schema comes late is redriven', async t => {
  const url = await startRegistry(t)
  const registry = new SchemaRegistry({ host: url })
  const credentials = `username: reader, password: '${PASSWORD}'`
  const site = kafkaSite(t, sharedBroker().plain, {
    log: [`schemaRegistry: { url: '${url}', ${credentials} }`],
  })
  const log = await site.open()
  t.after(() => log.close())
  await log.ensureTopics(topicSpecs(loadConfig(site.config, {}).log))

  const examples = (await distinct(4)) as { id: string }[]
  const schemas = [
    [SchemaType.AVRO, AVRO],
    [SchemaType.PROTOBUF, PROTOBUF],
    [SchemaType.JSON, jsonSchema('Example')],
  ] as const
  const values: Buffer[] = []
  const ids: number[] = []
  for (const [i, [type, schema]] of schemas.entries()) {
    const { id } = await registry.register({ type, schema } as never, { subject: `${type}-value` })
    ids.push(id)
    values.push(await registry.encode(id, examples[i]!))
  }
  const late = Math.max(...ids) + 1
  const frame = Buffer.alloc(5)
  frame.writeUInt32BE(late, 1)
  values.push(Buffer.concat([frame, Buffer.from(JSON.stringify(examples[3]))]))
  const topic = site.topics.examples
  await log.append(values.map(value => ({ topic, key: null, value })))

  const flags = ['--config', site.config, '--json']
  const running = () => succeed(['run', ...flags, '--until-idle'], { XMASD_LOGGING_LEVEL: 'trace' })
  const first = await running()
  assert.deepEqual(JSON.parse(first.stdout).examples.assigned, 3)
  const [letter] = await readTopic(log, site.topics.deadLetters)
  assert.equal(letter!.headers.code, 'SCHEMA_UNKNOWN')
  assert.match(letter!.headers.message!, new RegExp(`no schema ${late}`))
  assert.deepEqual(letter!.value, values[3])

  const registered = { type: SchemaType.JSON, schema: jsonSchema('Late') } as never
  const { id } = await registry.register(registered, { subject: 'late-value' })
  assert.equal(id, late)
  const redriven = await succeed(['redrive', ...flags, '--code', 'SCHEMA_UNKNOWN'])
  assert.equal(JSON.parse(redriven.stdout).sent, 1)
  const second = await running()
  assert.deepEqual(JSON.parse(second.stdout).examples.assigned, 1)

  const wanted = examples.map(example => example.id).sort()
  const assigned = (await readTopic(log, site.topics.assignments)).map(json<Assignment>)
  const decided = (await readTopic(log, site.topics.decisions)).map(json<Decision>)
  assert.deepEqual(assigned.map(one => one.id).sort(), wanted)
  assert.deepEqual([...new Set(decided.map(one => one.id))].sort(), wanted)
  const basic = Buffer.from(`reader:${PASSWORD}`).toString('base64')
  for (const { stdout, stderr } of [first, redriven, second]) {
    for (const secret of [PASSWORD, basic]) assert.ok(!`${stdout}${stderr}`.includes(secret))
  }
})
