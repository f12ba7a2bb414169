import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { parse, parseAllDocuments, stringify } from 'yaml'
import { loadConfig } from '../../src/config.ts'
import { ROOT, temporaryFolder } from '../support.ts'

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

test('the network policy selects the pods of xmasd alone and limits what they send', () => {
  const { spec } = parse(text('kubernetes/base/network.yaml'))
  assert.deepEqual(spec.podSelector, { matchLabels: { 'app.kubernetes.io/name': 'xmasd' } })
  assert.deepEqual(spec.policyTypes, ['Ingress', 'Egress'])
  for (const rule of spec.egress) assert.ok(rule.to?.length > 0 && rule.ports?.length > 0)
})

test('claims that pods mount read-only can be filled by another pod', () => {
  const claims = parseAllDocuments(text('kubernetes/base/volumes.yaml')).map(one => one.toJS())
  const filled = parse(text('kubernetes/fill/pod.yaml')).spec.volumes as Volume[]
  for (const { metadata, spec } of claims) {
    assert.deepEqual(spec.accessModes, ['ReadWriteMany'])
    const volume = filled.find(one => one.persistentVolumeClaim.claimName === metadata.name)
    assert.ok(volume !== undefined && volume.persistentVolumeClaim.readOnly !== true, metadata.name)
  }
})
type Volume = { persistentVolumeClaim: { claimName: string; readOnly?: boolean } }

test('the folders that the header of compose.yaml names are absolute: relative ones are below deploy/', () => {
  const header = text('compose.yaml').match(/^(#.*\n)+/)![0]
  const folders = [...header.matchAll(/XMASD_(PROXY|BUNDLE|IMAGES)=(\S+)/g)]
  assert.deepEqual(
    folders.map(([, name]) => name),
    ['PROXY', 'BUNDLE', 'IMAGES'],
  )
  for (const [, , folder] of folders) assert.match(folder!, /^\$PWD\//)
})

test('the chart configures the daemon as the manifests do', t => {
  const file = join(temporaryFolder(t), 'xmasd.yaml')
  writeFileSync(file, stringify(parse(text('helm/xmasd/values.yaml')).config))
  assert.deepEqual(loadConfig(file, {}), loadConfig(at('kubernetes/base/xmasd.yaml'), {}))
})

test('the PrometheusRule and the chart hold the rules of deploy/prometheus (UPDATE_RULES=1 writes them)', () => {
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
  if (process.env.UPDATE_RULES === '1')
    writeFileSync(file, head + stringify(rule, { lineWidth: 0 }))
  assert.deepEqual(parse(readFileSync(file, 'utf8')), rule, 'run the tests with UPDATE_RULES=1')
  const chart = at('helm/xmasd/files/rules.yaml')
  if (process.env.UPDATE_RULES === '1') writeFileSync(chart, text('prometheus/rules.yaml'))
  assert.equal(readFileSync(chart, 'utf8'), text('prometheus/rules.yaml'))
})
