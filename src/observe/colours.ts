/**
 * One colour for one meaning: in the dashboard, the report, the terminal and Grafana. The colours on
 * light and on dark ground have a contrast of at least 4.5 to 1 (WCAG AA), so that they may colour text.
 */
export type Meaning = 'keep' | 'drop' | 'evict' | 'restore' | 'duplicate' | 'misaligned'

export type Colour = {
  /** On white, and on the dark ground of the dashboard. */
  light: string
  dark: string
  /** A style of `util.styleText`. */
  terminal: 'green' | 'gray' | 'yellow' | 'blue' | 'magenta' | 'red'
  says: string
}

export const COLOURS: Record<Meaning, Colour> = {
  keep: { light: '#1a7f5a', dark: '#3ecf95', terminal: 'green', says: 'kept' },
  drop: { light: '#6b6a65', dark: '#a3a29c', terminal: 'gray', says: 'dropped' },
  evict: { light: '#b45309', dark: '#f5b042', terminal: 'yellow', says: 'evicted' },
  restore: { light: '#1d5fc4', dark: '#7db3ff', terminal: 'blue', says: 'restored' },
  duplicate: { light: '#7c3aed', dark: '#c0a2ff', terminal: 'magenta', says: 'duplicate' },
  misaligned: { light: '#be185d', dark: '#fb8fc0', terminal: 'red', says: 'misaligned' },
}

/** What a decision means: drops of duplicates and of misaligned examples have colours of their own. */
export function meaningOf(action: string, reason: string | null): Meaning {
  if (reason === 'duplicate' || reason === 'near_duplicate' || reason === 'protected') {
    return 'duplicate'
  }
  if (reason === 'misaligned') return 'misaligned'
  return action in COLOURS ? (action as Meaning) : 'drop'
}

/** Reasons in words. */
export const REASON_TEXTS: Record<string, string> = {
  within_quota: 'among the first of its cluster',
  over_quota: 'others fill its cluster’s quota',
  cluster_too_small: 'its cluster is too small to give any',
  quota_grew: 'its cluster’s quota grew',
  quota_shrank: 'its cluster’s quota shrank',
  bundle_swapped: 'another bundle became active',
  below_level: 'its cluster is below the level',
  drawn: 'drawn at random, for comparison',
  not_drawn: 'not drawn at random, for comparison',
  duplicate: 'the same content as',
  near_duplicate: 'nearly the same as',
  protected: 'a copy of protected evaluation data',
  misaligned: 'its pictures mislead: the image gain is too low',
}
