/**
 * node split.mjs RENDERED.yaml DIR writes the objects of Kubernetes itself to DIR/built-in.yaml, and custom
 * resources to DIR/custom.mts, as literals of their schemas' types, so that tsc checks them.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseAllDocuments, stringify } from 'yaml'

const PACKAGES = {
  'keda.sh/v1alpha1': '@kubernetes-models/keda',
  'monitoring.coreos.com/v1': '@kubernetes-models/prometheus-operator',
}

const [rendered, folder] = process.argv.slice(2)
const objects = parseAllDocuments(readFileSync(rendered, 'utf8')).map(one => one.toJS())
const isCustom = ({ apiVersion }) =>
  /\.(?!k8s\.io)/.test(apiVersion) && !/\.k8s\.io\//.test(apiVersion)
mkdirSync(folder, { recursive: true })
const builtIn = objects.filter(one => !isCustom(one)).map(one => stringify(one))
writeFileSync(join(folder, 'built-in.yaml'), builtIn.join('---\n'))
const typed = objects.filter(isCustom).map((object, i) => {
  const name = PACKAGES[object.apiVersion]
  if (name === undefined) throw new Error(`${object.apiVersion} ${object.kind}: no schema is known`)
  const type = `import('${name}/${object.apiVersion}/${object.kind}').I${object.kind}`
  return `export const object${i}: ${type} = ${JSON.stringify(object, null, 2)}\n`
})
writeFileSync(join(folder, 'custom.mts'), typed.join('') || 'export {}\n')
