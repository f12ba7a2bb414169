/** `node copier.js ADDRESS FOLDER INPUT OUT OUT_PARTITIONS`: a process that copies records in small commits, until it is killed. */
import { openKafkaLog } from '../../src/log/kafka/log.ts'
import { step } from '../log/helpers.ts'
import { kafkaOptions } from './setup.ts'

const [address, folder, input, out, partitions] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string,
]
const log = await openKafkaLog(
  kafkaOptions(address, folder, { sessionMsMax: 3_000, unreachableMsMax: 120_000 }),
)
await log.ensureTopics([{ name: out, partitions: Number(partitions) }])
const consumer = await log.consume({ group: 'g', topics: [input] })
for (;;) await step(consumer, out, 15)
