import { logContract } from '../../log/contract.ts'
import { logsOn, sharedBroker } from '../setup.ts'

logContract('Kafka log', async t => logsOn(t, sharedBroker().plain), { modelRuns: 8 })
