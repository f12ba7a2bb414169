/**
 * Runs the Dockerfile without a docker engine: each stage is an overlay over its base, RUN runs in a
 * chroot, and at the end the image is started as it would be: user 1000, root file system
 * read-only, its HEALTHCHECK asked, SIGTERM sent.
 *
 *   node deploy/check/image.mjs [--target cpu|cuda] [--base DIR]     as root, on Linux
 *
 * --base is the root of a Debian 12, as debootstrap makes one (slow, but nothing of this machine helps):
 *     debootstrap --include=ca-certificates,libstdc++6,g++,make,python3 bookworm DIR
 * Without it this machine's own root is the base. Node comes from this machine either way.
 */
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const PROJECT = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
const { values: options } = parseArgs({
  options: { target: { type: 'string', default: 'cpu' }, base: { type: 'string', default: '/' } },
})

// A mount namespace of its own, so that no mount stays behind.
if (process.env.XMASD_IMAGE_CHECK === undefined) {
  const args = ['--mount', '--propagation', 'private', process.execPath, ...process.argv.slice(1)]
  const env = { ...process.env, XMASD_IMAGE_CHECK: '1' }
  execFileSync('unshare', args, { stdio: 'inherit', env })
  process.exit(0)
}

const work = mkdtempSync(join(tmpdir(), 'xmasd-image-'))
run('mount', '-t', 'tmpfs', 'tmpfs', work)
const context = join(work, 'context')
copyContext()
const stages = parseDockerfile(readFileSync(join(PROJECT, 'Dockerfile'), 'utf8'))
const built = new Map()
const image = build(options.target)
await start(image)
run('umount', '-R', '-l', work)
rmSync(work, { recursive: true, force: true })

/** Copies what .dockerignore admits: lines with ! admit, later lines exclude again. */
function copyContext() {
  const lines = readFileSync(join(PROJECT, '.dockerignore'), 'utf8').split('\n')
  const rules = lines.filter(line => line !== '' && !line.startsWith('#'))
  if (rules[0] !== '*') throw new Error('.dockerignore is to begin with *')
  const out = rules.slice(1).filter(rule => !rule.startsWith('!'))
  for (const rule of rules.filter(line => line.startsWith('!'))) {
    const name = rule.slice(1)
    const isIn = path => !out.some(other => path === join(PROJECT, other))
    cpSync(join(PROJECT, name), join(context, name), { recursive: true, filter: isIn })
  }
}

/** Stages by name, with their base and their instructions. */
function parseDockerfile(text) {
  const lines = text
    .replace(/^\s*#.*\n/gm, '')
    .replace(/\\\n/g, ' ')
    .split('\n')
  const found = new Map()
  let stage
  for (const line of lines.filter(line => line.trim() !== '')) {
    const [, word, rest] = /^(\w+)\s+(.*)$/.exec(line.trim())
    if (word === 'FROM') {
      const [from, , name] = rest.split(/\s+/)
      stage = { from, instructions: [] }
      found.set(name, stage)
    } else stage.instructions.push([word, rest])
  }
  return found
}

/** Builds a stage; returns its root folder, environment, working folder and configuration. */
function build(name) {
  const done = built.get(name)
  if (done !== undefined) return done
  const { from, instructions } = stages.get(name)
  const parent = stages.has(from) ? build(from) : baseOf(from)
  const layers = [join(work, `${name}-upper`), ...parent.layers]
  const root = overlay(name, layers)
  const state = { ...parent, layers, root, env: { ...parent.env } }
  process.stdout.write(`== ${name}, from ${from}\n`)
  for (const [word, rest] of instructions) apply(state, word, rest)
  built.set(name, state)
  return state
}

function overlay(name, [upper, ...lower]) {
  const [root, workdir] = [join(work, name), join(work, `${name}-work`)]
  for (const folder of [root, upper, workdir]) mkdirSync(folder, { recursive: true })
  const dirs = `lowerdir=${lower.join(':')},upperdir=${upper},workdir=${workdir}`
  run('mount', '-t', 'overlay', 'overlay', '-o', dirs, root)
  for (const shared of ['/proc', '/dev']) run('mount', '--rbind', shared, join(root, shared))
  return root
}

/** The layout of node:VERSION-bookworm: Node below /usr/local. */
function baseOf(from) {
  const wanted = /^node:([\d.]+)-bookworm(-slim)?$/.exec(from)?.[1]
  if (wanted === undefined) throw new Error(`FROM ${from}: only node:VERSION-bookworm is known`)
  if (wanted !== process.versions.node) {
    process.stdout.write(`Node ${process.versions.node} of this machine stands in for ${from}\n`)
  }
  const layer = join(work, 'node')
  if (!existsSync(layer)) {
    const prefix = dirname(dirname(process.execPath))
    const parts = ['include/node', 'lib/node_modules/npm']
    cpSync(process.execPath, join(layer, 'usr/local/bin/node'))
    for (const part of parts) {
      cpSync(join(prefix, part), join(layer, 'usr/local', part), { recursive: true })
    }
    run('ln', '-s', '../lib/node_modules/npm/bin/npm-cli.js', join(layer, 'usr/local/bin/npm'))
    mkdirSync(join(layer, 'etc/ssl/certs'), { recursive: true })
    for (const file of ['etc/resolv.conf', 'etc/hosts', 'etc/ssl/certs/ca-certificates.crt']) {
      cpSync(join('/', file), join(layer, file), { dereference: true })
    }
  }
  const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  return {
    layers: [layer, options.base],
    env: { PATH: path, HOME: '/root' },
    folder: '/',
    user: '0',
  }
}

function apply(state, word, rest) {
  switch (word) {
    case 'ENV':
      for (const [, name, value] of rest.matchAll(/(\w+)=(\S+)/g)) state.env[name] = value
      return
    case 'WORKDIR':
      state.folder = rest
      mkdirSync(join(state.root, rest), { recursive: true })
      return
    case 'COPY':
      return copy(state, rest)
    case 'RUN':
      process.stdout.write(`RUN ${rest.replace(/\s+/g, ' ')}\n`)
      return run(
        'chroot',
        state.root,
        'env',
        '-i',
        ...environment(state),
        'sh',
        '-ec',
        inFolder(state, rest),
      )
    case 'USER':
      state.user = rest
      return
    case 'HEALTHCHECK':
      state.healthcheck = JSON.parse(rest.slice(rest.indexOf('CMD') + 3))
      return
    case 'ENTRYPOINT':
    case 'CMD':
      state[word.toLowerCase()] = JSON.parse(rest)
      return
    case 'ARG':
    case 'VOLUME':
    case 'EXPOSE':
    case 'STOPSIGNAL':
      return
    default:
      throw new Error(`${word} is not known here`)
  }
}

function copy(state, rest) {
  const [, from, paths] = /^(?:--from=(\S+)\s+)?(.*)$/.exec(rest)
  const source = from === undefined ? context : build(from).root
  const parts = paths.split(/\s+/)
  const target = join(state.root, resolve(state.folder, parts.pop()))
  for (const part of parts) {
    // COPY copies a folder's content. Several sources, or a target that ends in /, go into the folder.
    const isInto = parts.length > 1 || /\/$/.test(paths)
    mkdirSync(isInto ? target : dirname(target), { recursive: true })
    run(
      'cp',
      '-a',
      '--no-preserve=ownership',
      '-T',
      join(source, part),
      isInto ? join(target, part) : target,
    )
  }
}

function environment({ env }) {
  return Object.entries(env).map(([name, value]) => `${name}=${value}`)
}

function inFolder({ folder }, command) {
  return `cd ${folder}\n${command}`
}

function run(...[command, ...args]) {
  execFileSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'] })
}

/** Starts it as a container: user 1000, only volumes and /tmp writable. */
async function start(image) {
  const { root } = image
  const inside = (...command) => [
    ...['--userspec', image.user, root, 'env', '-i', ...environment(image), 'HOME=/tmp'],
    ...command,
  ]
  const answer = (...command) => execFileSync('chroot', inside(...command), { encoding: 'utf8' })
  run('mount', '-t', 'tmpfs', 'tmpfs', join(root, 'tmp'), '-o', 'mode=1777')
  run(
    'mount',
    '-t',
    'tmpfs',
    'tmpfs',
    join(root, 'var/lib/xmasd/log'),
    '-o',
    'mode=700,uid=1000,gid=1000',
  )
  run('mount', '-o', 'remount,ro', root)
  process.stdout.write(`== started: ${answer('du', '-sh', '/opt/xmasd')}`)
  process.stdout.write(`xmasd ${answer('xmasd', '--version')}`)
  const demo = '/opt/xmasd/config/demo'
  const config = [`XMASD_PROXY_PATH=${demo}/proxy`, `XMASD_BUNDLE=${demo}/bundle`]
  const child = spawn('chroot', inside(...config, ...image.entrypoint, ...image.cmd), {
    stdio: ['ignore', 'inherit', 'pipe'],
  })
  let seen = ''
  child.stderr.on('data', text => {
    seen += text
  })
  const ended = new Promise(resolve => child.once('exit', code => resolve(code)))
  const deadline = Date.now() + 120_000
  while (!seen.includes('"started"')) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Error(`not started:\n${seen}`)
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  answer(...image.healthcheck)
  process.stdout.write(answer(...config, 'xmasd', 'doctor'))
  child.kill('SIGTERM')
  const code = await ended
  if (code !== 0) throw new Error(`exit code ${code} after SIGTERM:\n${seen}`)
  process.stdout.write('healthy, and exit code 0 after SIGTERM\n')
}
