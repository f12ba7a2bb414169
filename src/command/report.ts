/** `report`: one HTML page that shows what is kept and why, for people who would rather look. */
import { writeFile } from 'node:fs/promises'
import { Command } from 'commander'
import { openBundle } from '../cluster/bundle.ts'
import { type Config, loadConfig } from '../config.ts'
import { partsText } from '../observe/parts.ts'
import { openLogToRead } from '../open-log.ts'
import { collectReport, type ReportData } from '../report/collect.ts'
import { reportPage } from '../report/page.ts'
import { picturesOf } from '../report/pictures.ts'
import { imageSource } from '../score/measure.ts'
import { writeWhole } from './whole-file.ts'

type Options = { config?: string; out: string; images?: string; json?: boolean }

export function reportCommand(): Command {
  return new Command('report')
    .description(
      'Draw the subset as one HTML page: clusters against quotas, trajectories, decisions, examples.',
    )
    .requiredOption('--out <file>', 'HTML file to write')
    .option('--images <dir>', "folder of the images (default: the config's images.root)")
    .option('--config <file>', 'configuration file')
    .option('--json', 'what was counted, as one JSON document on stdout')
    .action(report)
}

async function report(options: Options): Promise<void> {
  const config = loadConfig(options.config, process.env, { 'images.root': options.images })
  const log = await openLogToRead(config)
  try {
    const data = await collectReport(log, config)
    const pictures = await picturesOf(log, imageSource(config), data.ends)
    const page = reportPage(data, pictures, await stepsOf(config))
    await writeWhole(options.out, temporary => writeFile(temporary, page))
    process.stdout.write(options.json === true ? `${jsonOf(data)}\n` : textOf(data, options.out))
  } finally {
    await log.close()
  }
}

/** The checkpoints' step numbers; none where the bundle is not at hand: they are numbered then. */
async function stepsOf(config: Config): Promise<readonly number[]> {
  try {
    return (await openBundle(config.bundle)).manifest.schedule.steps ?? []
  } catch {
    return []
  }
}

function jsonOf({ sample, trajectories, ends, flow, ...counted }: ReportData): string {
  return JSON.stringify(counted)
}

function textOf(data: ReportData, out: string): string {
  const waiting = data.waiting === 0 ? '' : `, ${data.waiting} not decided yet`
  return (
    `${out}: ${partsText(data.parts, `; budget ${data.budget}`)}; ${data.clusters.length} clusters, ` +
    `${data.duplicates} duplicates${waiting}; open it in a browser\n`
  )
}
