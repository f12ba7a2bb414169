/** `config`: check a configuration offline, print its schema for editors. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { z } from 'zod'
import { ConfigSchema, checkConfig } from '../config.ts'
import { packageRoot } from '../version.ts'
import { print } from './helpers/options.ts'

type Options = { config?: string; json?: boolean }

export function command(): Command {
  return new Command('config')
    .description('Check a configuration without starting anything, or print its schema.')
    .addCommand(
      new Command('check')
        .description('Name every mistake of a configuration and of the XMASD_ variables; exit 2.')
        .option('--config <file>', 'configuration file (default: $XMASD_CONFIG, else all defaults)')
        .option('--json', 'one JSON document on stdout')
        .action(check),
    )
    .addCommand(
      new Command('schema')
        .description('Print the configuration file as JSON Schema, for editors.')
        .action(() => {
          process.stdout.write(`${JSON.stringify(configSchema(), null, 2)}\n`)
        }),
    )
}

function check(options: Options): void {
  const { file = null, mistakes } = checkConfig(options.config)
  const name = file ?? 'the defaults'
  const found = mistakes.length === 1 ? '1 mistake' : `${mistakes.length} mistakes`
  print(options, { ok: mistakes.length === 0, file, mistakes }, [
    ...mistakes.flatMap(({ problem, fix }) => [`✗ ${problem}`, `  → ${fix}`]),
    mistakes.length === 0 ? `${name}: no mistakes` : `${name}: ${found}`,
  ])
  if (mistakes.length > 0) process.exitCode = 2
}

/**
 * The configuration file as JSON Schema. The comments of config/xmasd.yaml are the descriptions.
 */
export function configSchema(): object {
  const schema = z.toJSONSchema(ConfigSchema, { io: 'input' })
  const log = schema.properties!.log as z.core.JSONSchema.JSONSchema
  // Without a kind the log is local.
  for (const option of log.oneOf ?? []) {
    const kind = option.properties?.kind
    if (typeof kind === 'object' && kind.const === 'local') delete option.required
  }
  const descriptions = keyComments(readFileSync(join(packageRoot(), 'config/xmasd.yaml'), 'utf8'))
  const describe = (node: z.core.JSONSchema.JSONSchema, key: string): void => {
    for (const option of node.oneOf ?? node.anyOf ?? []) describe(option, key)
    for (const [name, child] of Object.entries(node.properties ?? {})) {
      if (typeof child !== 'object') continue
      const path = key === '' ? name : `${key}.${name}`
      const description = descriptions.get(path)
      if (description !== undefined) child.description = description
      describe(child, path)
    }
  }
  describe(schema, '')
  const { required: _, ...rest } = schema
  return { ...rest, title: 'xmasd configuration' }
}

/** Dotted keys and the comments behind them, from a YAML file whose optional keys are commented out. */
function keyComments(text: string): Map<string, string> {
  const comments = new Map<string, string>()
  const path: { indent: number; name: string }[] = []
  let last: string | undefined
  for (const line of text.split('\n')) {
    const found = /^( *)(?:# )?([a-zA-Z]+):(?: +[^#]*)?(?: # (.*))?$/.exec(line)
    const more = /^ {20,}# (.*)$/.exec(line)
    if (more !== null && last !== undefined) {
      comments.set(last, `${comments.get(last)} ${more[1]}`)
    } else if (found !== null) {
      const [, { length: indent }, name, comment] = found as unknown as [
        string,
        string,
        string,
        string,
      ]
      while (path.length > 0 && path.at(-1)!.indent >= indent) path.pop()
      path.push({ indent, name })
      last = comment === undefined ? undefined : path.map(({ name }) => name).join('.')
      if (last !== undefined) comments.set(last, comment.trim())
    } else last = undefined
  }
  return comments
}
