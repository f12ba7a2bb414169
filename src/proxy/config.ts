/** What the proxy is: read from a checkpoint's `config.json`, checked, defaults filled in. */
import type { Activation } from './ops.ts'

export type VisionConfig = {
  family: 'clip' | 'siglip'
  width: number
  layers: number
  heads: number
  imageSize: number
  patchSize: number
  activation: Activation
  epsilon: number
  /** How many encoder layers run: the hidden state that the connector reads. */
  layersRun: number
  /** Is the class token dropped from what the connector reads. */
  dropClassToken: boolean
}

export type ConnectorConfig = { activation: Activation }

export type TextConfig = {
  family: 'llama'
  width: number
  intermediate: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  ropeTheta: number
  /** Channels of a head that are rotated. */
  rotaryDims: number
  epsilon: number
  norm: 'rms' | 'layer'
  activation: Activation
  vocab: number
  tiedHead: boolean
}

export type ProxyConfig = {
  kind: 'llava'
  vision: VisionConfig
  connector: ConnectorConfig
  text: TextConfig
  /** Image positions an image takes in the sequence. */
  imageTokens: number
  imageTokenId: number
  /** Longest sequence, in positions after the image is expanded. */
  lengthMax: number
  aspect: 'square' | 'pad'
}
