/** The connector: two linear layers from vision channels to the language model's. */
import type { ConnectorConfig } from './config.ts'
import type { Ops } from './ops.ts'

/** features [M, N, Cv] -> [M, N, C] */
export function connector<V>(ops: Ops<V>, config: ConnectorConfig, features: V): V {
  return ops.linear(
    ops.activation(ops.linear(features, 'connector.1'), config.activation),
    'connector.2',
  )
}
