import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import sharp from 'sharp'
import { fetchImage, type ImageSource } from '../../../src/ingest/fetch/image.ts'
import { IMAGE_LIMITS } from '../../../src/ingest/image/pixels.ts'
import { example, jsonOf, makeSite, readTopic, succeed, writeLines } from '../../e2e/command.ts'
import { temporaryFolder } from '../../support.ts'
import { hasCode } from '../fixtures.ts'
import { type Fault, s3Jars, startFaults, startS3 } from './s3-server.ts'

const CHILD = fileURLToPath(new URL('store-child.js', import.meta.url))
/** XMASD_TEST_OBJECTS=2000 takes a minute and a half of processor time. */
const PICTURES = Number(process.env.XMASD_TEST_OBJECTS ?? 500)
/** The first attempts of a picture fail so, by its number. */
const FAULTS: readonly (readonly Fault[])[] = [
  [],
  ['busy'],
  ['unavailable', 'busy', 'unavailable'],
  ['cut'],
  ['slow'],
  ['cut', 'unavailable'],
]
const SOURCE: ImageSource = {
  root: '/nowhere',
  limits: IMAGE_LIMITS,
  hosts: [],
  addressesAllowed: [],
  buckets: ['s3://pictures', 's3://open/below', 'gs://pictures'],
}

const refused = (reference: string, code: Parameters<typeof hasCode>[0]) =>
  assert.rejects(fetchImage(reference, SOURCE), hasCode(code), reference)

test('objects of buckets that are not listed, and keys that lead elsewhere, are refused unasked', async () => {
  await refused('s3://other/a.png', 'IMAGE_ADDRESS_FORBIDDEN')
  await refused('s3://pictures-too/a.png', 'IMAGE_ADDRESS_FORBIDDEN')
  await refused('s3://open/above/a.png', 'IMAGE_ADDRESS_FORBIDDEN')
  await refused('s3://pictures/../other/a.png', 'IMAGE_FIELD_INVALID')
  await refused('s3://pictures/a/./b.png', 'IMAGE_FIELD_INVALID')
  await refused('s3://pictures', 'IMAGE_FIELD_INVALID')
  await refused('s3://user:secret@pictures/a.png', 'IMAGE_FIELD_INVALID')
  await assert.rejects(
    fetchImage('s3://pictures/a.png', { ...SOURCE, buckets: [] }),
    hasCode('IMAGE_ADDRESS_FORBIDDEN'),
  )
})

const jars = s3Jars()

describe('a real S3 server', { skip: jars === undefined }, () => {
  test('hundreds of pictures come whole and once through faults, and no output holds a credential', async t => {
    const server = await startS3(t, jars!)
    const faults = await startFaults(t, server.endpoint, (path, attempt) => {
      const number = Number(/p(\d+)/.exec(path)?.[1] ?? 0)
      return FAULTS[number % FAULTS.length]![attempt - 1]
    })
    const picture = await sharp({
      create: { width: 8, height: 8, channels: 3, background: 'red' },
    })
      .raw()
      .toBuffer()
    for (let i = 0; i < PICTURES; i++) {
      const pixels = Buffer.from(picture)
      pixels.writeUInt32LE(i, 0)
      const raw = { width: 8, height: 8, channels: 3 } as const
      server.put('pictures', `deep/p${i}.png`, await sharp(pixels, { raw }).png().toBuffer())
    }
    const names = ['a b+c.png', 'ü%20?#&=.png', "日本/!*'().png"]
    for (const name of names) server.put('pictures', name, await tiny(names.indexOf(name)))
    const references = [
      ...Array.from({ length: PICTURES }, (_, i) => `s3://pictures/deep/p${i}.png`),
      ...names.map(name => `s3://pictures/${name}`),
      's3://pictures/none.png',
    ]
    const { keys, errors, output } = await throughDaemon(t, references, {
      AWS_ENDPOINT_URL_S3: faults.endpoint,
      AWS_REGION: 'eu-central-1',
      AWS_ACCESS_KEY_ID: server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
    })
    assert.deepEqual(errors, { [PICTURES + names.length]: 'IMAGE_NOT_FOUND' })
    const contents = new Set(keys.flatMap(key => key?.split('@')[1] ?? []))
    assert.equal(contents.size, PICTURES + names.length)
    assert.ok(
      [...faults.answers].filter(([path]) => path.includes('/deep/')).every(([, n]) => n === 1),
    )
    t.diagnostic(`${faults.connections()} connections`)
    assert.ok(faults.connections() < PICTURES / 2, `${faults.connections()} connections`)
    for (const secret of [server.accessKeyId, server.secretAccessKey, 'Signature']) {
      assert.ok(!output.includes(secret), output)
    }

    const wrong = await identified(temporaryFolder(t), ['s3://pictures/deep/p0.png'], {
      AWS_ENDPOINT_URL_S3: server.endpoint,
      AWS_ACCESS_KEY_ID: server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: 'another-secret',
    })
    assert.deepEqual(wrong.errors, { 0: 'IMAGE_FETCH_FAILED' })
    assert.match(wrong.output, /status 403, signed with the credentials found/)
    assert.ok(!wrong.output.includes('another-secret'))

    const folder = temporaryFolder(t)
    const profile = `aws_access_key_id=${server.accessKeyId}\naws_secret_access_key=${server.secretAccessKey}\n`
    writeFileSync(join(folder, 'credentials'), `[work]\n${profile}`)
    writeFileSync(
      join(folder, 'config'),
      `[profile work]\nregion=eu-west-1\nendpoint_url=${server.endpoint}\n`,
    )
    const byProfile = await identified(folder, ['s3://pictures/deep/p0.png'], {
      AWS_PROFILE: 'work',
      AWS_SHARED_CREDENTIALS_FILE: join(folder, 'credentials'),
      AWS_CONFIG_FILE: join(folder, 'config'),
    })
    assert.equal(byProfile.keys[0]?.split('@')[1], keys[0]?.split('@')[1])
    const google = await identified(temporaryFolder(t), ['gs://pictures/deep/p1.png'], {
      STORAGE_EMULATOR_HOST: server.endpoint,
      GS_ACCESS_KEY_ID: server.accessKeyId,
      GS_SECRET_ACCESS_KEY: server.secretAccessKey,
    })
    assert.equal(google.keys[0]?.split('@')[1], keys[1]?.split('@')[1])
    server.put('pictures', 'private.png', await tiny(7), 0o600)
    const asked = ['gs://pictures/deep/p1.png', 'gs://pictures/private.png']
    const anonymous = await identified(temporaryFolder(t), asked, {
      STORAGE_EMULATOR_HOST: server.endpoint,
    })
    assert.equal(anonymous.keys[0]?.split('@')[1], keys[1]?.split('@')[1])
    assert.deepEqual(anonymous.errors, { 1: 'IMAGE_FETCH_FAILED' })
    assert.match(anonymous.output, /status 403, not signed: no credentials found/)
  })
})

/** By the built daemon: what it logs at its most talkative, prints and appends, of each example. */
async function throughDaemon(
  t: TestContext,
  references: readonly string[],
  env: Record<string, string>,
): Promise<Identified> {
  const site = makeSite(
    t,
    'images: { root: ./images, buckets: [s3://pictures] }\nscore: { ingestWorkers: 2 }\nlogging: { level: trace }',
  )
  const values = references.map((image, i) => example(String(i), image, 'What is it?', 'A square.'))
  const config = ['--config', site.config]
  await succeed(['produce', '--data', writeLines(site, 'data.jsonl', values), ...config])
  const { stdout, stderr } = await succeed(['run', ...config, '--until-idle'], {
    ...env,
    AWS_EC2_METADATA_DISABLED: 'true',
    HOME: site.folder,
  })
  const keys: Identified['keys'] = references.map(() => undefined)
  for (const record of await readTopic(site.log, 'assignments')) {
    const { id, key } = jsonOf<{ id: string; key: string }>(record)
    assert.equal(keys[Number(id)], undefined, `${id} was assigned twice`)
    keys[Number(id)] = key
  }
  const letters = await readTopic(site.log, 'dead-letters')
  const errors = Object.fromEntries(
    letters.map(letter => [Number(jsonOf<{ id: string }>(letter).id), letter.headers.code!]),
  )
  const headers = JSON.stringify(letters.map(letter => letter.headers))
  return { keys, errors, output: stdout + stderr + headers }
}

async function tiny(shade: number): Promise<Buffer> {
  const background = { r: shade, g: 1, b: 2 }
  return await sharp({ create: { width: 9, height: 9, channels: 3, background } })
    .png()
    .toBuffer()
}

type Identified = { keys: (string | undefined)[]; errors: Record<number, string>; output: string }

/** By real ingest workers, in a process with this environment: what they say, and the error of each that failed. */
async function identified(
  folder: string,
  references: readonly string[],
  env: Record<string, string>,
): Promise<Identified> {
  writeFileSync(join(folder, 'references.json'), JSON.stringify(references))
  const clean = Object.entries(process.env).filter(([name]) => !/^(AWS|GS)_/.test(name))
  const child = spawn(process.execPath, [CHILD, folder], {
    env: { ...Object.fromEntries(clean), AWS_EC2_METADATA_DISABLED: 'true', HOME: folder, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', text => (output += text))
  const code = await new Promise(resolve => child.once('close', resolve))
  assert.equal(code, 0, output)
  return { ...JSON.parse(readFileSync(join(folder, 'found.json'), 'utf8')), output }
}
