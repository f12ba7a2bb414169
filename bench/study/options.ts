/** What the study's programs share: sizes, targets, lists of seeds. */

import type { TargetOptions } from '../../src/study/target.ts'
import { SMALL_PROXY } from '../../src/train/shape.ts'
import { TRAINING } from '../../src/train/train.ts'
import { SIDE, type StudyExample } from './scenes.ts'

export const POOL = 1000
export const STEPS = 200
const NLVR_SIDE = 96
const PATCH = 16

/** A proxy is trained at half of the width: a quarter of the parameters. */
export function target(data: string, steps: number): TargetOptions {
  const image = { imageSize: data === 'scenes' ? SIDE : NLVR_SIDE, patchSize: PATCH }
  const size = { width: 48, visionWidth: 48, layers: 2, visionLayers: 1, lengthMax: 200 }
  const shape = { ...SMALL_PROXY, ...image, ...size }
  const { warmupSteps, gradientNormMax } = TRAINING
  const [batchSize, learningRate] = [32, 5e-3]
  const jointSteps = Math.floor((3 * steps) / 4)
  return { shape, steps, batchSize, jointSteps, learningRate, warmupSteps, gradientNormMax }
}

/** "1-3,7" */
export function seedsOf(text: string): number[] {
  return text.split(',').flatMap(part => {
    const [first = 0, last = first] = part.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

/** A chart as a file of its own. Its legend, drawings before the last one, is left out. */
export function svgFile(chart: string): string {
  const plot = chart.slice(chart.lastIndexOf('<svg '), chart.lastIndexOf('</svg>'))
  const file = '<svg xmlns="http://www.w3.org/2000/svg" style="background: white" '
  return `${plot.replace('<svg ', file)}</svg>\n`
}

export function bytesOf(examples: readonly StudyExample[]): Uint8Array[] {
  return examples.map(example => Buffer.from(JSON.stringify(example)))
}
