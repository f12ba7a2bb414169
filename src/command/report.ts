/** `report`: the dashboard's page with its data in one file. */
import { writeFile } from 'node:fs/promises'
import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { freeze, reportPage } from '../dashboard/frozen.ts'
import { partsText } from '../observe/segments.ts'
import { imageSource } from '../score/pipeline.ts'
import { FLAGS, imagesOverride, inFlags, print, withLog } from './helpers/options.ts'
import { writeWhole } from './helpers/output.ts'

type Options = { config?: string; out: string; images?: string; json?: boolean }

export function command(): Command {
  return new Command('report')
    .description(
      'Write the dashboard as it is now into one HTML file: clusters, trajectories, decisions, examples.',
    )
    .requiredOption('--out <file>', 'HTML file to write')
    .option('--images <dir>', 'folder of the images (default: images.root)')
    .option('--config <file>', 'configuration file')
    .option('--json', 'the counts as one JSON document on stdout')
    .action((options: Options) => {
      return inFlags(imagesOverride(options), () => report(options))
    })
}

async function report(options: Options): Promise<void> {
  const { out } = options
  const config = loadConfig(options.config, process.env, imagesOverride(options), FLAGS)
  const frozen = await withLog(config, log => freeze(log, config, imageSource(config)))
  await writeWhole(out, temporary => writeFile(temporary, reportPage(frozen)))
  const { counts } = frozen
  const waiting = counts.waiting === 0 ? '' : `, ${counts.waiting} not decided yet`
  print(options, counts, [
    `${out}: ${partsText(counts.parts, `; budget ${counts.budget}`)}; ${counts.clusters.length} clusters, ` +
      `${counts.duplicates} duplicates${waiting}; open it in a browser`,
  ])
}
