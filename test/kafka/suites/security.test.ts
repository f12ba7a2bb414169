import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { dataUrl, type Ended, example, picture, run, succeed } from '../../e2e/command.ts'
import { USERS } from '../broker.ts'
import { type KafkaSite, kafkaSite } from '../scene.ts'
import { sharedBroker } from '../setup.ts'

const { sasl, plain, ca, otherCa } = sharedBroker()
const LOGIN = {
  XMASD_LOG_SASL_MECHANISM: 'scram-sha-512',
  XMASD_LOG_SASL_USERNAME: 'app',
  XMASD_LOG_SASL_PASSWORD: USERS.app,
}
const TRUST = { XMASD_LOG_TLS_ENABLED: 'true', XMASD_LOG_TLS_CA: ca }
/** What must never be seen, whatever goes wrong and however much is logged. */
const SECRETS = [...Object.values(USERS), 'swordfish']

function site(t: TestContext, address = sasl): KafkaSite {
  return kafkaSite(t, address, { log: ['connectMsMax: 3000'] })
}

async function runs(here: KafkaSite, env: NodeJS.ProcessEnv): Promise<Ended> {
  const args = ['run', '--config', here.config, '--until-idle']
  const ended = await run(args, { XMASD_LOGGING_LEVEL: 'trace', ...env })
  for (const secret of SECRETS) {
    assert.ok(!`${ended.stdout}${ended.stderr}`.includes(secret), 'a password was shown')
  }
  return ended
}

async function refused(here: KafkaSite, env: NodeJS.ProcessEnv, ...said: RegExp[]): Promise<void> {
  const { code, stderr } = await runs(here, env)
  assert.equal(code, 1, stderr)
  for (const text of said) assert.match(stderr, text)
}

for (const mechanism of ['plain', 'scram-sha-256', 'scram-sha-512']) {
  test(`TLS with ${mechanism} works, the password from a file or the environment`, async t => {
    const here = site(t)
    const data = join(here.folder, 'data.jsonl')
    const examples = await Promise.all(
      [1, 2, 3].map(async n => example(`e${n}`, dataUrl(await picture(n)), `number ${n}?`)),
    )
    writeFileSync(data, examples.map(one => `${JSON.stringify(one)}\n`).join(''))
    const file = join(here.folder, 'password')
    writeFileSync(file, `${USERS.app}\n`)
    const user = { XMASD_LOG_SASL_MECHANISM: mechanism, XMASD_LOG_SASL_USERNAME: 'app' }
    const fromFile = { ...TRUST, ...user, XMASD_LOG_SASL_PASSWORD_FILE: file }
    await succeed(['produce', '--config', here.config, '--data', data], fromFile)
    const ended = await runs(here, { ...TRUST, ...user, XMASD_LOG_SASL_PASSWORD: USERS.app })
    assert.equal(ended.code, 0, ended.stderr)
    assert.match(ended.stdout, /3 assigned/)
  })
}

test('a wrong password, user or mechanism ends with a message that says so', async t => {
  const here = site(t)
  const wrong = { ...TRUST, ...LOGIN, XMASD_LOG_SASL_PASSWORD: 'swordfish' }
  const said = [
    /refuses the user name or the password.*\[LOG_LOGIN_FAILED\]/,
    /log\.sasl\.username/,
  ]
  await refused(here, wrong, ...said)
  await refused(here, { ...wrong, XMASD_LOG_SASL_MECHANISM: 'plain' }, ...said)
  await refused(here, { ...TRUST, ...LOGIN, XMASD_LOG_SASL_USERNAME: 'nobody' }, ...said)
})

test('a wrong authority ends with a message that says so', async t => {
  const wrong = { ...TRUST, ...LOGIN, XMASD_LOG_TLS_CA: otherCa }
  await refused(site(t), wrong, /not signed by an authority.*\[LOG_TLS_FAILED\]/, /log\.tls\.ca/)
  const none = { XMASD_LOG_TLS_ENABLED: 'true', ...LOGIN }
  await refused(site(t), none, /not signed by an authority.*\[LOG_TLS_FAILED\]/, /log\.tls\.ca/)
})

test('a certificate for another name ends with a message that says so, and a server name mends it', async t => {
  const here = site(t, sasl.replace('localhost', '127.0.0.1'))
  const env = { ...TRUST, ...LOGIN }
  await refused(here, env, /another name.*127\.0\.0\.1.*\[LOG_TLS_FAILED\]/, /log\.tls\.servername/)
  const mended = await runs(here, { ...env, XMASD_LOG_TLS_SERVERNAME: 'localhost' })
  assert.equal(mended.code, 0, mended.stderr)
})

test('a user without rights ends with a message that names the right', async t => {
  const limited = {
    ...TRUST,
    ...LOGIN,
    XMASD_LOG_SASL_USERNAME: 'limited',
    XMASD_LOG_SASL_PASSWORD: USERS.limited,
  }
  await refused(
    site(t),
    limited,
    /do not allow it.*\[LOG_FORBIDDEN\]/,
    /give this user the ACL for/,
  )
})

test('no login where one is wanted, no TLS where it is wanted, and nobody there: each says what it may be', async t => {
  await refused(site(t), TRUST, /\[LOG_UNAVAILABLE\]/, /log\.sasl/)
  await refused(site(t), {}, /\[LOG_UNAVAILABLE\]/, /log\.tls\.enabled/)
  await refused(site(t, plain), TRUST, /secure TLS.*\[LOG_UNAVAILABLE\]/, /log\.tls\.enabled/)
  const absent = site(t, '127.0.0.1:1')
  await refused(
    absent,
    {},
    /no answer from 127\.0\.0\.1:1 for 3 s.*\[LOG_UNAVAILABLE\]/,
    /log\.brokers/,
  )
  const lost = { XMASD_LOG_BROKERS: 'no-such-host.invalid:9092' }
  await refused(absent, lost, /no-such-host\.invalid.*\[LOG_UNAVAILABLE\]/)
})
