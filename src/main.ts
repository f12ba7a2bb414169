#!/usr/bin/env node
/** argv -> command -> exit code: 0 done, 1 operating error, 2 usage or configuration. */
import { Command, CommanderError } from 'commander'
import { messageOf, XmasdError } from './errors.ts'
import { version } from './version.ts'

/** onnxruntime writes usage data to the home folder unless told not to; workers inherit this. */
process.env.ORT_DISABLE_TELEMETRY ??= '1'
/** NVIDIA's GPUs would round products to 10 bits. */
process.env.NVIDIA_TF32_OVERRIDE ??= '0'

type Entry = { summary: string; load: () => Promise<Command> }

/** Each command's module is loaded only when it is asked for: first output within 100 ms. */
const COMMANDS: Record<string, Entry> = {
  run: {
    summary: 'the daemon: read examples, score, assign, decide',
    load: async () => (await import('./command/run.ts')).runCommand(),
  },
  demo: {
    summary: 'watch decisions arrive on a generated stream',
    load: async () => (await import('./command/demo.ts')).demoCommand(),
  },
  produce: {
    summary: 'append a LLaVA file to the examples topic',
    load: async () => (await import('./command/produce.ts')).produceCommand(),
  },
  score: {
    summary: 'score a LLaVA file offline',
    load: async () => (await import('./command/score.ts')).scoreCommand(),
  },
  train: {
    summary: 'fine-tune a small proxy and keep its checkpoints',
    load: async () => (await import('./command/train.ts')).trainCommand(),
  },
  fit: {
    summary: 'cluster trajectories into a bundle',
    load: async () => (await import('./command/fit.ts')).fitCommand(),
  },
  select: {
    summary: 'the batch rule over a file of trajectories',
    load: async () => (await import('./command/select.ts')).selectCommand(),
  },
  bundle: {
    summary: 'which clusters are in force; swap them, go back, try others beside',
    load: async () => (await import('./command/bundle.ts')).bundleCommand(),
  },
  'import-metrics': {
    summary: 'trajectories from the files of the published code',
    load: async () => (await import('./command/import-metrics.ts')).importMetricsCommand(),
  },
  'export-metrics': {
    summary: 'files of the published code from trajectories and a bundle',
    load: async () => (await import('./command/export-metrics.ts')).exportMetricsCommand(),
  },
  export: {
    summary: 'write the current subset',
    load: async () => (await import('./command/export.ts')).exportCommand(),
  },
  explain: {
    summary: 'why an example is kept or dropped',
    load: async () => (await import('./command/explain.ts')).explainCommand(),
  },
  replay: {
    summary: 'what would have been kept under other settings or clusters',
    load: async () => (await import('./command/replay.ts')).replayCommand(),
  },
  tail: {
    summary: 'the last records of a topic, and those that come',
    load: async () => (await import('./command/tail.ts')).tailCommand(),
  },
  report: {
    summary: 'one HTML page that shows what is kept and why',
    load: async () => (await import('./command/report.ts')).reportCommand(),
  },
  doctor: {
    summary: 'what works here, what does not, what to do',
    load: async () => (await import('./command/doctor.ts')).doctorCommand(),
  },
}

async function main(argv: string[]): Promise<number> {
  const program = new Command('xmasd')
    .description('Decides which vision-language instruction data is worth training on.')
    .version(version(), '--version', 'the version')
    .exitOverride()
  const asked = argv[0] === 'help' ? argv[1] : argv[0]
  for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
    const command = name === asked ? await load() : new Command(name).description(summary)
    for (const one of [command, ...command.commands]) one.exitOverride()
    program.addCommand(command)
  }
  try {
    await program.parseAsync(argv, { from: 'user' })
    return Number(process.exitCode ?? 0)
  } catch (error) {
    return report(error)
  }
}

/** System calls that change a file or a folder. */
const WRITES = new Set([
  'mkdir',
  'mkdtemp',
  'write',
  'rename',
  'unlink',
  'rm',
  'rmdir',
  'ftruncate',
])

function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof XmasdError) {
    process.stderr.write(`xmasd: ${error.message} [${error.code}]\n  ${error.hint}\n`)
    return error.code === 'CONFIG_INVALID' ? 2 : 1
  }
  if (error instanceof Error && 'syscall' in error && 'path' in error) {
    const hint = 'does that path exist, may this user use it, and has its disk room?'
    const code = WRITES.has(String(error.syscall)) ? 'FILE_UNWRITABLE' : 'FILE_UNREADABLE'
    return report(new XmasdError(code, error.message, hint, { cause: error }))
  }
  const isSystem = error instanceof Error && 'syscall' in error
  const text = isSystem || !(error instanceof Error) ? messageOf(error) : error.stack
  process.stderr.write(`xmasd: ${text}\n`)
  return 1
}

/** A reader that has seen enough (`| head`) is no error. */
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0)
  throw error
})

process.exitCode = await main(process.argv.slice(2))
