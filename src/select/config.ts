/** The part `select` of the configuration. */
import { z } from 'zod'
import { BASELINES, POLICIES } from './rule/policy.ts'
import { RANKS } from './rule/rank.ts'

export const SelectConfig = z
  .strictObject({
    group: z.string().min(1).max(100).default('xmasd-select'),
    policy: z.enum(POLICIES).default('revisable'),
    percent: z.number().min(0).max(100).default(20),
    budgetExamples: z.int().min(0).optional(),
    horizonExamples: z.int().min(1).optional(),
    baseline: z.enum(BASELINES).default('continue'),
    controlPercent: z.number().min(0).max(50).default(0),
    rank: z.enum(RANKS).default('instability'),
    gainMin: z.number().optional(),
    settleEvery: z.int().min(1).default(1),
    idleSettleMs: z.int().min(1).default(1_000),
    nearDuplicates: z
      .strictObject({
        enabled: z.boolean().default(false),
        exemplarsMax: z.int().min(1_000).max(100_000_000).default(1_000_000),
      })
      .prefault({}),
  })
  .refine(
    ({ budgetExamples, controlPercent }) => budgetExamples === undefined || controlPercent === 0,
    {
      path: ['controlPercent'],
      error: 'a random holdout needs a percent: leave out budgetExamples',
    },
  )
  .refine(
    ({ policy, budgetExamples, horizonExamples }) =>
      policy === 'revisable' || budgetExamples === undefined || horizonExamples !== undefined,
    {
      path: ['horizonExamples'],
      error: 'final decisions with budgetExamples need the number of examples to choose from',
    },
  )
  .refine(
    ({ policy, budgetExamples = 0, horizonExamples = Number.POSITIVE_INFINITY }) =>
      policy === 'revisable' || budgetExamples <= horizonExamples,
    {
      path: ['budgetExamples'],
      error: 'it is above select.horizonExamples, the number of examples to choose from',
    },
  )
