import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { parse } from 'yaml'
import { configKeys, loadConfig, variableOf } from '../src/config.ts'
import { XmasdError } from '../src/errors.ts'
import { ROOT, temporaryFolder } from './support.ts'

const EXAMPLE = join(ROOT, 'config/xmasd.yaml')

function refused(run: () => unknown, ...parts: string[]): void {
  assert.throws(run, (error: unknown) => {
    assert.ok(error instanceof XmasdError)
    assert.equal(error.code, 'CONFIG_INVALID')
    for (const part of parts)
      assert.ok(`${error.message} ${error.hint}`.includes(part), `${error.message} ${error.hint}`)
    return true
  })
}

test('config/xmasd.yaml names every key and holds the defaults', () => {
  const text = readFileSync(EXAMPLE, 'utf8')
  for (const key of configKeys()) {
    const name = key.split('.').at(-1)
    assert.match(text, new RegExp(`^\\s*(# )?${name}: `, 'm'), key)
  }
  const folder = join(ROOT, 'config')
  const strip = (value: unknown): unknown =>
    JSON.parse(
      JSON.stringify(value).replaceAll(`"${folder}/`, '"').replaceAll(`"${process.cwd()}/`, '"'),
    )
  assert.deepEqual(strip(loadConfig(EXAMPLE, {})), strip(loadConfig(undefined, {})))
  assert.ok(Object.keys(parse(text)).length > 5)
})

test('relative paths are taken from the file that names them', t => {
  const folder = temporaryFolder(t)
  writeFileSync(join(folder, 'x.yaml'), 'proxy: { path: ../p }\nbundle: /abs\n')
  const config = loadConfig(join(folder, 'x.yaml'), { XMASD_LOG_PATH: 'elsewhere' })
  assert.equal(config.proxy.path, join(folder, '../p'))
  assert.equal(config.bundle, '/abs')
  assert.equal(config.log.path, join(process.cwd(), 'elsewhere'))
})

test('the environment wins over the file, in the type of the key', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  writeFileSync(file, 'select: { percent: 10 }\n')
  const config = loadConfig(file, {
    XMASD_SELECT_PERCENT: '12.5',
    XMASD_HTTP_ENABLED: 'false',
    XMASD_IMAGES_HOSTS: 'a.example,b.example',
    XMASD_IMAGES_BYTES_MAX: '1000',
  })
  assert.equal(config.select.percent, 12.5)
  assert.equal(config.http.enabled, false)
  assert.deepEqual(config.images.hosts, ['a.example', 'b.example'])
  assert.equal(config.images.bytesMax, 1000)
  assert.ok(Object.isFrozen(config) && Object.isFrozen(config.select))
})

test('the keys of Kafka come with log.kind, from the file or the environment', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  writeFileSync(
    file,
    'log: { kind: kafka, brokers: [a:9092], tls: { enabled: true, ca: ca.pem } }\n',
  )
  const { log } = loadConfig(file, {
    XMASD_LOG_BROKERS: 'b:1,c:2',
    XMASD_LOG_MIN_INSYNC_REPLICAS: '2',
  })
  assert.ok(log.kind === 'kafka')
  assert.deepEqual(log.brokers, ['b:1', 'c:2'])
  assert.equal(log.minInsyncReplicas, 2)
  assert.equal(log.tls.ca, join(file, '../ca.pem'))
  const kafka = { XMASD_LOG_KIND: 'kafka' }
  refused(() => loadConfig(undefined, kafka), 'log.brokers')
  refused(() => loadConfig(undefined, { ...kafka, XMASD_LOG_BROKERS: 'a' }), '"a"', 'host:port')
  refused(
    () => loadConfig(undefined, { XMASD_LOG_BROKERS: 'a:1' }),
    'log.brokers',
    'log.kind: kafka',
  )
  refused(() => loadConfig(undefined, { XMASD_LOG_KIND: 'files' }), 'log.kind', 'local', 'kafka')
})

test('a password is never shown', () => {
  const env = {
    XMASD_LOG_KIND: 'kafka',
    XMASD_LOG_BROKERS: 'a:1',
    XMASD_LOG_SASL_MECHANISM: 'plain',
    XMASD_LOG_SASL_USERNAME: 'u',
    XMASD_LOG_SASL_PASSWORD: 'swordfish',
  }
  const twice = { ...env, XMASD_LOG_SASL_PASSWORD_FILE: '/run/secret' }
  const run = () => loadConfig(undefined, twice)
  refused(run, 'log.sasl.password', 'passwordFile')
  assert.throws(run, error => !JSON.stringify([String(error), error]).includes('swordfish'))
})

test('every variable name belongs to one key', () => {
  const names = configKeys().map(variableOf)
  assert.equal(new Set(names).size, names.length)
  assert.equal(variableOf('select.idleSettleMs'), 'XMASD_SELECT_IDLE_SETTLE_MS')
})

test('a bad configuration names the key, the value and the fix', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  const load = (text: string) => () => {
    writeFileSync(file, text)
    return loadConfig(file, {})
  }
  refused(load('select: { percent: 120 }'), 'select.percent', '120', '100', 'XMASD_SELECT_PERCENT')
  refused(load('select: { precent: 20 }'), 'select.precent', 'did you mean select.percent')
  refused(load('proxxy: {}'), 'proxxy')
  refused(load('proxy: { mode: exact }'), 'proxy.mode', '"exact"', 'paper')
  refused(load('- a\n- b\n'), 'YAML')
  refused(load('a: [unclosed'), 'YAML')
  refused(() => loadConfig('/does/not/exist.yaml', {}), '/does/not/exist.yaml')
  refused(() => loadConfig(undefined, { XMASD_SELECT_PERCNT: '1' }), 'XMASD_SELECT_PERCENT')
  refused(() => loadConfig(undefined, { XMASD_HTTP_PORT: 'x' }), 'http.port', 'XMASD_HTTP_PORT')
  refused(() => loadConfig(undefined, { XMASD_HTTP_ENABLED: 'maybe' }), 'http.enabled', 'maybe')
})

test('the two roles cannot share a group', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  writeFileSync(file, 'score: { group: mine }\nselect: { group: mine }\n')
  refused(() => loadConfig(file, {}), 'score.group', '"mine"', 'select.group', 'XMASD_SCORE_GROUP')
  const env = { XMASD_SELECT_GROUP: 'xmasd-score' }
  refused(() => loadConfig(undefined, env), 'select.group is "xmasd-score"', 'score.group')
})

test('topics need names of their own, which Kafka takes, on both logs', () => {
  const kafka = { XMASD_LOG_KIND: 'kafka', XMASD_LOG_BROKERS: 'a:1' }
  const load = (env: Record<string, string>) => () => loadConfig(undefined, env)
  for (const log of [{}, kafka]) {
    const same = { ...log, XMASD_LOG_TOPICS_EXAMPLES: 'assignments' }
    refused(load(same), 'log.topics.examples is "assignments"', 'log.topics.assignments')
    const alike = { ...log, XMASD_LOG_TOPICS_EXAMPLES: 'a.b', XMASD_LOG_TOPICS_SHADOW: 'a_b' }
    refused(load(alike), 'log.topics.shadow is "a_b"', 'log.topics.examples is "a.b"')
    for (const name of ['', '.', '..', 'a/b', 'a b', 'é', 'a\n', 'a'.repeat(250)]) {
      const topic = { ...log, XMASD_LOG_TOPICS_SHADOW: name }
      refused(load(topic), 'log.topics.shadow', JSON.stringify(name), 'letters')
    }
    const named = { ...log, XMASD_LOG_TOPICS_SHADOW: `.x-${'a'.repeat(245)}` }
    assert.equal(load(named)().log.topics.shadow.length, 248)
  }
})

test('no more can be kept for good than there is to choose from', () => {
  const load = (policy: string, budget: number, horizon: number) => () =>
    loadConfig(undefined, {
      XMASD_SELECT_POLICY: policy,
      XMASD_SELECT_BUDGET_EXAMPLES: String(budget),
      XMASD_SELECT_HORIZON_EXAMPLES: String(horizon),
    })
  for (const policy of ['final', 'naive']) {
    refused(load(policy, 100, 50), 'select.budgetExamples is 100', 'select.horizonExamples')
    assert.equal(load(policy, 50, 50)().select.budgetExamples, 50)
  }
})

test('what was given is shown as it was given, with what would do', t => {
  const file = join(temporaryFolder(t), 'x.yaml')
  const load = (text: string) => () => {
    writeFileSync(file, text)
    return loadConfig(file, {})
  }
  const withEnv = (env: Record<string, string>) => () => loadConfig(undefined, env)
  refused(load('selct: { percent: 20 }'), 'unknown key selct', 'did you mean select?')
  refused(load('percent: 20'), 'unknown key percent', 'did you mean select.percent?')
  refused(load('log: { topics: { exmples: a } }'), 'did you mean log.topics.examples?')
  refused(withEnv({ XMASD_SELECT_PERCENT: 'abc' }), 'select.percent is "abc"', 'number')
  refused(withEnv({ XMASD_SELECT_PERCENT: 'Infinity' }), 'select.percent is "Infinity"')
  refused(withEnv({ XMASD_HTTP_ENABLED: '1' }), 'http.enabled is "1"', 'true or false')
  refused(load('http: { enabled: yes }'), 'http.enabled is "yes"', 'true or false')
  refused(load('select: { percent: .nan }'), 'select.percent is NaN')
})
