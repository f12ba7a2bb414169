/** Key material made on the fly: an authority, a server certificate of it, and a foreign authority. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from './jars.ts'

export type Tls = {
  /** Trust this one. */
  ca: string
  /** Nothing is signed by this one. */
  otherCa: string
  /** Key and certificates of the server, for `localhost`: what a broker reads. */
  server: string
}

/** Writes PEM files into `folder`. */
export function makeTls(folder: string): Tls {
  mkdirSync(folder, { recursive: true })
  for (const name of ['ca', 'other-ca']) makeAuthority(folder, name)
  const openssl = (...args: string[]): void => run('openssl', args, folder)
  openssl('genpkey', ...EC_KEY, '-out', 'server.key')
  openssl('req', '-new', '-key', 'server.key', '-subj', '/CN=localhost', '-out', 'server.csr')
  const extensions = 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n'
  writeFileSync(join(folder, 'extensions'), extensions)
  const signed = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '3650']
  const request = ['-req', '-in', 'server.csr', '-extfile', 'extensions', '-sha256']
  openssl('x509', ...request, ...signed, '-out', 'server.crt')
  const parts = ['server.key', 'server.crt', 'ca.pem'].map(name => readFileSync(join(folder, name)))
  const server = join(folder, 'server.pem')
  writeFileSync(server, Buffer.concat(parts))
  return { ca: join(folder, 'ca.pem'), otherCa: join(folder, 'other-ca.pem'), server }
}

const EC_KEY = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256']

function makeAuthority(folder: string, name: string): void {
  run('openssl', ['genpkey', ...EC_KEY, '-out', `${name}.key`], folder)
  const use = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=keyCertSign']
  const self = ['-x509', '-key', `${name}.key`, '-sha256', '-days', '3650', '-subj', `/CN=${name}`]
  run('openssl', ['req', ...self, ...use, '-out', `${name}.pem`], folder)
}
