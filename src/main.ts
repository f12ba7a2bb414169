#!/usr/bin/env node
/** argv -> command -> exit code: 0 done, 1 operating error, 2 usage or configuration. */
import { Command, CommanderError } from 'commander'
import { messageOf, systemError, XmasdError } from './errors.ts'
import { printable } from './observe/text.ts'
import { version } from './version.ts'

/** onnxruntime writes usage data to the home folder unless told not to; workers inherit this. */
process.env.ORT_DISABLE_TELEMETRY ??= '1'
/** Otherwise NVIDIA's GPUs round products to 10 bits. */
process.env.NVIDIA_TF32_OVERRIDE ??= '0'

type Entry = [summary: string, load: () => Promise<{ command(): Command }>]

/** A command's module is loaded only when it is asked for: first output within 100 ms. */
const COMMANDS: Record<string, Entry> = {
  run: ['the daemon: read examples, score, assign, decide', () => import('./command/run.ts')],
  watch: ['watch a running daemon on the terminal', () => import('./command/watch.ts')],
  demo: ['watch decisions arrive on a generated stream', () => import('./command/demo.ts')],
  produce: ['append data files to the examples topic', () => import('./command/produce.ts')],
  score: ['score data files offline', () => import('./command/score.ts')],
  train: ['fine-tune a small proxy and keep its checkpoints', () => import('./command/train.ts')],
  study: ['measure whether selecting pays on your data', () => import('./command/study.ts')],
  schedule: ["judge a proxy's checkpoints", () => import('./command/schedule.ts')],
  fit: ['cluster trajectories into a bundle', () => import('./command/fit.ts')],
  select: ['select a subset of a file of trajectories', () => import('./command/select.ts')],
  bundle: [
    'list, activate, roll back and shadow cluster bundles',
    () => import('./command/bundle.ts'),
  ],
  'import-metrics': [
    'make trajectories from files of the published code',
    () => import('./command/import-metrics.ts'),
  ],
  'export-metrics': [
    'write trajectories as files of the published code',
    () => import('./command/export-metrics.ts'),
  ],
  export: ['write the current subset', () => import('./command/export.ts')],
  redrive: ['send dead letters back to the examples topic', () => import('./command/redrive.ts')],
  explain: ['explain why an example is kept or dropped', () => import('./command/explain.ts')],
  replay: ['compute the subset under other settings', () => import('./command/replay.ts')],
  tail: ['print the last records of a topic', () => import('./command/tail.ts')],
  report: ['draw the subset as one HTML page', () => import('./command/report.ts')],
  config: ['check a configuration, print its schema', () => import('./command/config.ts')],
  doctor: ['check what works here and say what to do', () => import('./command/doctor.ts')],
}

async function main(argv: string[]): Promise<number> {
  const program = new Command('xmasd')
    .description('Decides which vision-language instruction data is worth training on.')
    .version(version(), '--version', 'the version')
    .exitOverride()
  const asked = argv[0] === 'help' ? argv[1] : argv[0]
  for (const [name, [summary, load]] of Object.entries(COMMANDS)) {
    const command =
      name === asked ? (await load()).command() : new Command(name).description(summary)
    for (const one of [command, ...command.commands]) {
      one.exitOverride().configureOutput({ writeErr: writeLines })
    }
    program.addCommand(command)
  }
  try {
    await program.parseAsync(argv, { from: 'user' })
    return Number(process.exitCode ?? 0)
  } catch (error) {
    return report(error)
  }
}

function writeLines(text: string): void {
  process.stderr.write(text.split('\n').map(printable).join('\n'))
}

/** Says on stderr what failed; returns the exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof XmasdError) {
    const { message, code, hint } = error
    const text = [...`${message} [${code}]`.split('\n'), ...hint.split('\n')]
    writeLines(`xmasd: ${text.join('\n  ')}\n`)
    return code === 'CONFIG_INVALID' ? 2 : 1
  }
  const system = systemError(error)
  if (system !== undefined) return report(system)
  const isSystem = error instanceof Error && 'syscall' in error
  const text = isSystem || !(error instanceof Error) ? messageOf(error) : error.stack
  process.stderr.write(`xmasd: ${text}\n`)
  return 1
}

/** Thrown outside of any call that waits for it. */
process.on('uncaughtException', error => {
  const code = report(error)
  import('./log/local/environment.ts').then(
    ({ exitAfterWrites }) => exitAfterWrites(code, EXIT_MS_MAX),
    () => process.exit(code),
  )
})

const EXIT_MS_MAX = 2_000

/** Messages that cannot be written, as on a full disk, end nothing. */
process.stderr.on('error', () => {})

/** lmdb prints the stack of an error that it also throws. */
console.error = (...said: unknown[]) => writeLines(`${said.map(messageOf).join(' ')}\n`)

/** A reader that has seen enough (`| head`) is no error. */
process.stdout.on('error', error => {
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0)
  throw error
})

process.exitCode = await main(process.argv.slice(2))
