/** What a subset and a history are made of. */

export type Part = { examples: number; kept: number }

/**
 * N and the subset of the policy are those of `stream` and `baseline`; what the `subset` topic holds is what is
 * kept of `stream` and `control`.
 */
export type Parts = {
  /** What came and is the policy's to decide. */
  stream: Part
  /** Of the bundle's data, where decisions for good go on from it. */
  baseline: Part
  /** What came and is decided by lot, for comparison. */
  control: Part
}

export const PARTS = ['stream', 'baseline', 'control'] as const satisfies (keyof Parts)[]

/** What the policy decides, the baseline with it. */
export function policyPart({ stream, baseline }: Parts): Part {
  return {
    examples: stream.examples + baseline.examples,
    kept: stream.kept + baseline.kept,
  }
}

/** In words, with the share in brackets; `more` stands there too. */
export function partsText(parts: Parts, more = ''): string {
  const { stream, baseline, control } = parts
  const { examples, kept } = policyPart(parts)
  const share = examples === 0 ? 0 : (100 * kept) / examples
  const all =
    baseline.examples === 0
      ? `${kept} of ${examples} examples kept`
      : `${stream.kept} of ${stream.examples} of the stream kept, with the baseline ${kept} of ${examples}`
  const besides =
    control.examples === 0
      ? ''
      : `; besides ${control.kept} of ${control.examples} by lot, the control arm`
  return `${all} (${share.toFixed(1)} %${more})${besides}`
}
