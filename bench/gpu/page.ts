/** The results as one page of text. */
import type { Device } from '../../src/engine/engine.ts'
import { type SetResult, TRAJECTORY_MAX } from './command.ts'
import type { Doctor, Machine, SelfTest } from './devices.ts'
import type { Throughput } from './throughput.ts'

export type Failed = { shape: string; side: string; failure: string }

export type Results = {
  v: 1
  xmasd: string
  commit: string | null
  onnxruntime: string
  started: string
  seconds: number
  /** A device was usable, each that was named; every set is within the tolerance; every measurement ended. */
  isRight: boolean
  machine: Machine
  devices: Partial<Record<Device, Doctor & { selfTest?: SelfTest }>>
  sets: SetResult[]
  throughput: Throughput[]
  /** xmasd's examples a second over PyTorch's at its best type and batch, by shape and device. */
  ratios: Ratios
  failed: Failed[]
}

export type Ratios = Record<string, Record<string, number>>

export function ratiosOf(throughput: readonly Throughput[]): Ratios {
  const ratios: Ratios = {}
  const rates = (shape: string, isTorch: boolean) =>
    throughput.filter(one => one.shape === shape && /^PyTorch/.test(one.side) === isTorch)
  for (const shape of new Set(throughput.map(one => one.shape))) {
    const best = Math.max(0, ...rates(shape, true).map(one => one.examplesPerSecond))
    if (best === 0) continue
    const ours = rates(shape, false).map(({ side, examplesPerSecond }): [string, number] => [
      side,
      Number((examplesPerSecond / best).toPrecision(3)),
    ])
    ratios[shape] = Object.fromEntries(ours)
  }
  return ratios
}

export function pageOf(results: Results): string {
  const { xmasd, commit, onnxruntime, started, seconds, machine } = results
  const { cpu, cores, memoryGiB, kernel, glibc, node, gpus, torch } = machine
  return [
    `xmasd ${xmasd} (${commit ?? 'no commit'}) on this machine, ${started}, ${seconds} s`,
    '',
    `  CPU      ${cpu}, ${cores} cores, ${memoryGiB} GiB`,
    `  GPU      ${gpus === null ? 'nvidia-smi is not here' : gpus.join('; ')}`,
    `  system   Linux ${kernel}, glibc ${glibc}, Node ${node}, onnxruntime ${onnxruntime}`,
    `  PyTorch  ${torch === null ? 'python3 cannot import torch and transformers' : describe(torch)}`,
    ...Object.values(results.devices).flatMap(deviceLines),
    ...setLines(results.sets),
    ...throughputLines(results),
    '',
    verdict(results),
    '',
  ].join('\n')
}

function describe({ torch, transformers, cuda, gpu }: NonNullable<Machine['torch']>): string {
  const where = gpu === null ? 'no CUDA GPU' : `CUDA ${cuda} on ${gpu}`
  return `${torch}, transformers ${transformers}, ${where}`
}

function deviceLines({
  device,
  isUsable,
  detail,
  selfTest,
}: Doctor & { selfTest?: SelfTest }): string[] {
  const lines = ['', `${device}: ${isUsable ? 'usable' : 'NOT USABLE'}`, `  doctor   ${detail}`]
  if (selfTest === undefined) return lines
  const stages = selfTest.stages
    .filter(({ stage }) => stage !== 'done')
    .map(({ stage, seconds, ...found }) => {
      const values = Object.entries(found).map(([name, value]) => `${name} ${shown(value)}`)
      return `  ${stage.padEnd(10)} ${seconds.toFixed(2).padStart(7)} s  ${values.join(', ')}`
    })
  const said = isUsable || selfTest.said === '' ? [] : selfTest.said.split('\n')
  return [
    ...lines,
    `  self-test: ${selfTest.seconds} s, ${selfTest.ended}`,
    ...[...stages, ...said.map(line => `  ${line}`)],
  ]
}

function shown(value: unknown): string {
  if (typeof value === 'number') return String(Number(value.toPrecision(3)))
  return Array.isArray(value) && value.length === 0 ? 'none' : String(value).trim()
}

function setLines(sets: readonly SetResult[]): string[] {
  if (sets.length === 0) return []
  const header = ['', 'device', 'golden set', 'mode', 'trajectory', 'values', 'seconds', '']
  const rows = sets.map(one => [
    one.isRight ? '✓' : '✗',
    ...[one.device, one.set, one.mode, error(one.trajectory), error(one.singularValue)],
    ...[one.seconds.toFixed(1), one.failure ?? ''],
  ])
  return ['', 'Largest relative differences from float64', ...table([header, ...rows])]
}

function error(value: number | null): string {
  return value === null ? '-' : value.toExponential(1)
}

function throughputLines({ throughput, ratios, failed }: Results): string[] {
  if (throughput.length + failed.length === 0) return []
  const header = ['shape', 'side', 'examples/s', 'examples/day', 'tokens/s', 'GPU MiB', 'GPU busy']
  const rows = throughput.map(one => [
    ...[one.shape, one.side, String(one.examplesPerSecond), String(one.examplesPerDay)],
    ...[String(one.tokensPerSecond), String(one.gpu?.peakMiB ?? '-')],
    one.gpu === null ? '-' : `${one.gpu.busyPercent} %`,
    residency(one),
    ...[`start ${one.startSeconds} s`, one.apart === undefined ? '' : `${error(one.apart)} apart`],
  ])
  const more = throughput.map(({ shape, checkpoints, tokens, examples }) => {
    const size = `${checkpoints} checkpoints, ${tokens} tokens an example`
    return `${shape}: ${size}, ${examples} examples a round`
  })
  return [
    '',
    'Throughput: examples through all checkpoints',
    ...table([[...header, '', '', ''], ...rows]),
    ...[...new Set(more)].map(line => `  ${line}`),
    ...Object.entries(ratios).flatMap(([shape, sides]) =>
      Object.entries(sides).map(
        ([side, ratio]) => `  ${shape}: ${side} has ${ratio} times PyTorch's best throughput`,
      ),
    ),
    ...failed.map(({ shape, side, failure }) => `  ✗ ${shape}, ${side}: ${failure}`),
  ]
}

function residency({ residents, checkpoints }: Throughput): string {
  return residents === undefined ? '' : `${residents}/${checkpoints} in memory`
}

/** Columns of equal width. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, k) => Math.max(...rows.map(row => row[k]!.length)))
  return rows.map(row => `  ${row.map((cell, k) => cell.padEnd(widths[k]!)).join('  ')}`.trimEnd())
}

function verdict({ isRight, devices, sets, failed }: Results): string {
  const usable = Object.values(devices).filter(one => one.isUsable)
  const on = usable.map(({ device }) => device).join(' and ') || 'no device'
  const right = sets.filter(one => one.isRight).length
  const found = `${right} of ${sets.length} golden sets within ${TRAJECTORY_MAX} on ${on}`
  const failures = failed.length === 0 ? '' : `, ${failed.length} measurements failed`
  return `${isRight ? 'right' : 'NOT RIGHT'}: ${found}${failures}`
}
