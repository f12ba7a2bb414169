import { openLocalLog } from '../../src/log/local.ts'
import { temporaryFolder } from '../support.ts'
import { logContract } from './contract.ts'

logContract('local log', async t => {
  const path = temporaryFolder(t)
  return { open: () => openLocalLog({ path }) }
})
