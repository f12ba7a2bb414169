/** Examples of the baseline that are on the log themselves, under an online policy that continues it. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { type Assignment, keyOf } from '../../../src/record.ts'
import { selectBatch } from '../../../src/select/rule/quotas.ts'
import { drawOf } from '../../../src/select/rule/rank.ts'
import { SelectState } from '../../../src/select/state.ts'
import { MemoryState, recordOf, Subset } from '../stream.ts'

const BASELINE = 200
const STREAM = 150
const SETTINGS = { policy: 'final', percent: 20, settleEvery: 1, controlPercent: 10 } as const
type Rank = 'instability' | 'random'

/** Every ninth is text-only. Values repeat, so that some lie at a quota's edge together. */
function example(i: number): Assignment {
  const cluster = i % 9 === 0 ? ('text' as const) : (i * 7) % 5
  const instability = 0.1 + ((i * 31) % 23) / 10
  const content = createHash('sha256').update(String(i)).digest('hex')
  const record = recordOf({ content: i + 1, id: i, cluster, instability }) as Assignment
  return { ...record, content, key: keyOf(record.id, content) }
}

const baseline = Array.from({ length: BASELINE }, (_, i) => example(i))
/** As they are appended: text-only ones last, by id. */
const byId = (a: Assignment, b: Assignment): number => (a.id < b.id ? -1 : 1)
const texts = baseline.filter(({ cluster }) => cluster === 'text').sort(byId)
const numbered = baseline.filter(({ cluster }) => cluster !== 'text')
const appended = [...numbered, ...texts].map(one => ({ ...one, baseline: true as const }))
const stream = Array.from({ length: STREAM }, (_, i) => example(1_000 + i))

function begin(state: SelectState): void {
  const cluster = Int32Array.from(numbered, one => one.cluster as number)
  const instability = Float32Array.from(numbered, one => one.instability!)
  const draw = Float32Array.from(numbered, ({ key }) => drawOf(key))
  state.begin({ clusters: 5, textOnly: texts.length, members: { cluster, instability, draw } })
}

/** Folds; with `reopens` the state is written and opened again on the way, as often. */
function folded(records: readonly Assignment[], reopens = 0, rank: Rank = 'instability') {
  const reader = new MemoryState()
  const settings = { ...SETTINGS, rank }
  let state = new SelectState(reader, settings)
  const told = new Subset()
  const every = Math.ceil(records.length / (reopens + 1))
  for (const [offset, record] of records.entries()) {
    if (state.wantsBeginning) begin(state)
    told.apply(state.fold(record, offset).decisions)
    if ((offset + 1) % every !== 0) continue
    reader.commit(writer => state.write(writer))
    state = new SelectState(reader, settings)
  }
  return { told, state }
}

const rule = (rank: Rank = 'instability'): string[] => {
  const ordered = baseline.map(one =>
    rank === 'random' ? { ...one, instability: drawOf(one.key) } : one,
  )
  const { selected } = selectBatch(ordered, SETTINGS.percent)
  return selected.map(index => baseline[index]!.key).sort()
}

for (const rank of ['instability', 'random'] as const) {
  test(`examples of the baseline are decided by its batch rule and counted once, rank ${rank}`, () => {
    const wanted = rule(rank)
    for (const reopens of [0, 1, 8]) {
      const { told, state } = folded(appended, reopens, rank)
      assert.deepEqual([...told.kept].sort(), wanted)
      assert.deepEqual(state.parts.baseline, { examples: BASELINE, kept: wanted.length })
      assert.deepEqual(state.parts.stream, { examples: 0, kept: 0 })
      assert.deepEqual([...state.subset()].map(({ key }) => key).sort(), wanted)
    }
  })
}

test('examples of the baseline amid the stream change no decision of it, whenever the state is opened', () => {
  const alone = folded(stream)
  const mixed = [...appended.slice(0, 90), ...stream, ...appended.slice(90)]
  for (const reopens of [0, 7]) {
    const { told, state } = folded(mixed, reopens)
    const ofStream = [...told.kept].filter(key => !rule().includes(key)).sort()
    assert.deepEqual(ofStream, [...alone.told.kept].sort())
    assert.deepEqual(state.parts, alone.state.parts)
    assert.deepEqual([...state.subset()].map(({ key }) => key).sort(), [...told.kept].sort())
  }
})
