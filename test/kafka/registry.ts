/**
 * A real schema registry for tests: Apicurio's (io.apicurio:apicurio-registry-app, Apache 2.0), which speaks
 * Confluent's API. Maven fetches it once into the cache, as the broker. It keeps schemas in memory.
 */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { freePorts } from './broker.ts'
import { cachedFolder, run } from './jars.ts'

const VERSION = '2.6.13.Final'
const UNPACK = 'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack'
const START_MS_MAX = 180_000

/** The folder of the registry, filled where it is not there yet. Throws where Java or Maven are missing. */
function registryFolder(): string {
  return cachedFolder(`apicurio-${VERSION}`, folder => {
    const artifact = `io.apicurio:apicurio-registry-app:${VERSION}:tar.gz:all`
    const args = ['-B', '-q', UNPACK, `-Dartifact=${artifact}`, `-DoutputDirectory=${folder}`]
    // The plugin leaves a marker where it runs.
    run('mvn', args, folder)
    return readdirSync(folder).some(name => name.endsWith('-runner.jar'))
  })
}

/** The address of its Confluent API. It ends with the test. */
export async function startRegistry(t: TestContext): Promise<string> {
  const folder = registryFolder()
  const [port] = await freePorts(1)
  const jar = join(folder, `apicurio-registry-app-${VERSION}-runner.jar`)
  const listen = [`-Dquarkus.http.port=${port}`, '-Dquarkus.http.host=127.0.0.1']
  // Compiles as little as it can: it is asked a few times only.
  const java = ['-Xmx400m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', ...listen, '-jar', jar]
  const child = spawn('java', java, { stdio: ['ignore', 'pipe', 'pipe'] })
  t.after(() => child.kill('SIGKILL'))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', text => (output += text))
  const url = `http://127.0.0.1:${port}/apis/ccompat/v7`
  const deadline = performance.now() + START_MS_MAX
  for (;;) {
    if (child.exitCode !== null || performance.now() > deadline) {
      throw new Error(`the registry did not start\n${output}`)
    }
    const answer = await fetch(`${url}/subjects`).catch(() => undefined)
    if (answer?.ok) return url
    await setTimeout(200)
  }
}
