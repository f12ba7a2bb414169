#!/usr/bin/env node
/** argv -> command -> exit code: 0 done, 1 operating error, 2 usage or configuration. */
import { Command, CommanderError } from 'commander'
import { messageOf, XmasdError } from './errors.ts'

/** Each command's module is loaded only when it is asked for: first output within 100 ms. */
const COMMANDS: Record<string, { summary: string; load: () => Promise<Command> }> = {}

async function main(argv: string[]): Promise<number> {
  const program = new Command('xmasd')
    .description('Decides which vision-language instruction data is worth training on.')
    .exitOverride()
  for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
    program.addCommand(argv[0] === name ? await load() : new Command(name).description(summary))
  }
  program.commands.forEach(command => command.exitOverride())
  try {
    await program.parseAsync(argv, { from: 'user' })
    return Number(process.exitCode ?? 0)
  } catch (error) {
    return report(error)
  }
}

function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof XmasdError) {
    process.stderr.write(`xmasd: ${error.message} [${error.code}]\n  ${error.hint}\n`)
    return error.code === 'CONFIG_INVALID' ? 2 : 1
  }
  process.stderr.write(`xmasd: ${error instanceof Error ? error.stack : messageOf(error)}\n`)
  return 1
}

process.exitCode = await main(process.argv.slice(2))
