import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { parse, stringify } from 'yaml'
import { loadConfig } from '../../src/config.ts'
import { ROOT } from '../support.ts'

const at = (...path: string[]): string => join(ROOT, 'deploy', ...path)
const text = (...path: string[]): string => readFileSync(at(...path), 'utf8')

test('the configuration of the image puts everything below /var/lib/xmasd and listens for the outside', () => {
  const config = loadConfig(at('image.yaml'), {})
  for (const path of [config.log.path, config.images.root, config.proxy.path, config.bundle]) {
    assert.match(path, /^\/var\/lib\/xmasd\//)
  }
  assert.equal(config.http.host, '0.0.0.0')
  assert.match(text('..', 'Dockerfile'), /COPY deploy\/image\.yaml \/etc\/xmasd\/xmasd\.yaml/)
})

test('compose.yaml sets variables that are keys, with values that are allowed', () => {
  const { services } = parse(text('compose.yaml'), { merge: true })
  for (const name of ['score', 'select', 'xmasd']) {
    const { environment } = services[name] as { environment: Record<string, unknown> }
    const env = Object.entries(environment).map(([key, value]) => [key, String(value)])
    const config = loadConfig(at('image.yaml'), Object.fromEntries(env))
    assert.equal(config.log.kind, 'kafka')
  }
})

test('the manifests set keys that exist, with SASL and without', () => {
  const base = at('kubernetes/base/xmasd.yaml')
  assert.equal(loadConfig(base, {}).log.kind, 'kafka')
  type Patch = { path: string; value: { name: string; value?: string }[] }
  const patches = parse(parse(text('kubernetes/sasl/kustomization.yaml')).patches[0].patch)
  const added = (patches as Patch[]).find(({ path }) => path.endsWith('/env'))!.value
  const env = Object.fromEntries(added.map(({ name, value = 'a secret' }) => [name, value]))
  const { log } = loadConfig(base, env)
  assert.ok(log.kind === 'kafka')
  assert.deepEqual([log.tls.enabled, log.sasl.mechanism], [true, 'scram-sha-512'])
})

test('no more score processes are asked for than there are partitions', () => {
  const { spec } = parse(text('kubernetes/autoscale/scaledobject.yaml'))
  const { log } = loadConfig(at('kubernetes/base/xmasd.yaml'), {})
  assert.equal(spec.maxReplicaCount, log.examplesPartitions)
})

test('the PrometheusRule holds the rules of deploy/prometheus (UPDATE_RULES=1 writes it)', () => {
  const file = at('kubernetes/monitoring/prometheusrule.yaml')
  const { groups } = parse(text('prometheus/rules.yaml'))
  const rule = {
    apiVersion: 'monitoring.coreos.com/v1',
    kind: 'PrometheusRule',
    metadata: { name: 'xmasd' },
    spec: { groups },
  }
  const head =
    '# Written by test/deploy/config.test.ts from ../../prometheus/rules.yaml (UPDATE_RULES=1).\n'
  if (process.env.UPDATE_RULES === '1') writeFileSync(file, head + stringify(rule))
  assert.deepEqual(parse(readFileSync(file, 'utf8')), rule, 'run the tests with UPDATE_RULES=1')
})
