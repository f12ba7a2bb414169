import assert from 'node:assert/strict'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { fillAssignments } from '../../bench/assignments.ts'
import { openBundle, readCentroids, writeBundle } from '../../src/bundle/bundle.ts'
import { publishBundle } from '../../src/bundle/publication.ts'
import { SIGNATURES } from '../../src/bundle/signature.ts'
import { Answers } from '../../src/dashboard/answers.ts'
import { Landscape } from '../../src/dashboard/landscape.ts'
import { Model } from '../../src/dashboard/model.ts'
import { Records } from '../../src/dashboard/records.ts'
import { countsOf, readWhole } from '../../src/dashboard/report.ts'
import { encodeDirection } from '../../src/math/vectors.ts'
import type { Assignment } from '../../src/record.ts'
import { imageSource } from '../../src/score/pipeline.ts'
import { append, assignmentOf, emptySite, logWith, type RoleSite, runSelect } from '../role/site.ts'
import { temporaryFolder } from '../support.ts'

const STREAM = 300

/** The members of the first bundle, as `produce --trajectories` appends them. */
function baselineOf({ bundles: [bundle] }: RoleSite): Assignment[] {
  const { cluster, instability } = bundle.members!
  return Array.from(cluster, (own, i) => {
    const made = assignmentOf(10_000 + i, bundle)
    return { ...made, cluster: own, instability: instability[i]!, baseline: true as const }
  })
}

/** What the dashboard holds of a log with `before` and then a stream; N by the select role. */
async function decided(
  t: TestContext,
  before: (parts: RoleSite) => Assignment[],
  parts?: RoleSite,
) {
  parts ??= await emptySite(t)
  const { log, config, bundles } = parts
  const stream = Array.from({ length: STREAM }, (_, i) => assignmentOf(i, bundles[0]))
  const assigned = [...before(parts), ...stream]
  await append(log, assigned)
  let examples = 0
  await runSelect(parts, bundles[0], async ({ history }) => {
    const [offset] = await log.committed(config.select.group, 'assignments')
    examples = (await history.get()).values.at(-1)?.value ?? 0
    return offset === assigned.length && examples > 0
  })
  const model = await readWhole(log, config)
  return { ...parts, model, assigned, examples, counts: countsOf(model, config) }
}

test('baseline examples that are on the log themselves are counted once', async t => {
  const alone = await decided(t, () => [])
  const both = await decided(t, baselineOf)
  const members = baselineOf(alone).length
  assert.equal(both.examples, members + STREAM)
  assert.equal(both.counts.examples, members + STREAM)
  assert.deepEqual(both.counts.parts, alone.counts.parts)
  assert.deepEqual(both.model.clusters(), alone.model.clusters())
  const sizes = both.model.clusters().map(({ size }) => size)
  assert.equal(
    sizes.reduce((sum, size) => sum + size, 0),
    members + STREAM,
  )

  const ofStream = both.assigned.at(-1)!.key
  assert.equal(await rankOf(both, ofStream), await rankOf(alone, ofStream))
  const [first] = both.assigned
  const said = await explained(both, first!.key)
  const { cluster, instability } = both.bundles[0].members!
  const steadier = (value: number, other: unknown) =>
    other === first!.cluster && value < first!.instability!
  const earlier = instability.filter((value, i) => steadier(value, cluster[i])).length
  const later = both.assigned.filter(
    one => one.baseline !== true && steadier(one.instability!, one.cluster),
  ).length
  assert.equal(said.rank, 1 + earlier + later)
  assert.match(said.because, /^the batch rule over the examples that the bundle was fitted to/)
})

type Decided = { log: RoleSite['log']; config: RoleSite['config']; model: Model }

async function explained({ log, config, model }: Decided, key: string) {
  const answers = new Answers(log, config, model, recordsOf({ log, config, model }))
  return (await answers.example(key))!.explanation
}

function recordsOf({ log, config, model }: Decided): Records {
  return new Records(log, 'examples', imageSource(config), model)
}

async function rankOf(of: Decided, key: string): Promise<number | null> {
  return (await explained(of, key)).rank
}

test('a step reads as much as it is asked to, and tells whether the select role has a backlog', async t => {
  const { log, config, bundles } = await emptySite(t)
  const size = { examples: 18_000, clusters: 7, checkpoints: 2 }
  await fillAssignments(log, { ...size, bundle: bundles[0].id })
  const behind = new Model(log, config)
  await behind.step(1_000)
  assert.equal(behind.isFoldBehind, true)
  assert.ok(behind.columns.count > 900 && behind.columns.count <= 1_000)
  const abreast = new Model(logWith(log, { committed: async () => [size.examples] }), config)
  await abreast.step()
  assert.equal(abreast.isFoldBehind, false)
})

test('the cut-off line of a gallery stands where the batch rule over stream and baseline cuts', async t => {
  for (const before of [() => [], baselineOf]) {
    const { log, config, model } = await decided(t, before)
    const answers = new Answers(log, config, model, recordsOf({ log, config, model }))
    let above = 0
    for (const { cluster, quota, size } of model.clusters()) {
      const { cut, counted, rows, policy, rank } = await answers.gallery(cluster, 0, size)
      assert.deepEqual([policy, rank], ['final', 'instability'])
      const ranks = await Promise.all(
        rows.slice(0, counted).map(async ({ key }) => {
          return (await answers.example(key))!.explanation.rank!
        }),
      )
      assert.equal(cut, ranks.filter(place => place <= quota).length, `cluster ${cluster}`)
      assert.ok(cut < quota, 'members of the baseline stand above the line, too')
      above += cut
    }
    assert.ok(above > 0)
  }
})

test('drift lists what lies beyond the radii, and of a bundle without them only what lies far out', async t => {
  const driftOf = async (parts: RoleSite) => {
    const { log, config, model } = await decided(t, () => [], parts)
    const answers = new Answers(log, config, model, recordsOf({ log, config, model }))
    return new Landscape(model, answers).drift()
  }
  const site = await emptySite(t)
  const { radii } = site.bundles[0].manifest
  const { far, beyondShare } = await driftOf(site)
  const isBeyond = ({ distance, cluster }: (typeof far)[number]): boolean =>
    distance! > radii![cluster as number]!
  assert.ok(far.length > 0 && far.every(isBeyond))
  assert.ok(far.every(({ times }, i) => times! > 1 && times! <= (far[i - 1]?.times ?? Infinity)))
  assert.ok(beyondShare! >= far.length / STREAM)

  const other = await emptySite(t)
  const without = await driftOf({
    ...other,
    bundles: [await withoutRadii(t, other), site.bundles[1]],
  })
  assert.equal(without.beyondShare, undefined)
  assert.ok(without.far.length > 0 && without.far.every(({ times }) => times === null))
})

async function withoutRadii(t: TestContext, { log, bundles: [bundle] }: RoleSite) {
  const { radii: _, schedule, mode, signature, baseline } = bundle.manifest
  const centroids = readCentroids(join(bundle.dir, 'centroids.safetensors'))
  const dir = temporaryFolder(t)
  const members = { members: bundle.members! }
  await writeBundle(dir, { schedule, mode, signature, baseline, centroids, ...members })
  const written = await openBundle(dir)
  await publishBundle(log, 'bundles', written)
  return written
}

const SPECTRA = [
  [5, 1, 1, 1, 1],
  [1.8, 1.8, 1.8, 1.8, 1.8],
].map(values => [values, values])
const STATES = [
  [1, 0, 0],
  [0, 1, 0],
].map(encodeDirection)

/** Two groups with the same trajectories and other signatures. */
const GROUPS = {
  sum: [{ trajectory: [9, 9] }, { trajectory: [3, 12] }],
  spectrum: SPECTRA.map(singularValues => ({ singularValues })),
  embedding: STATES.map(embedding => ({ embedding })),
  question: STATES.map(question => ({ question })),
  joint: SPECTRA.map((singularValues, i) => ({ singularValues, embedding: STATES[i] })),
}

for (const signature of SIGNATURES) {
  test(`the map of a bundle of signature ${signature} has its principal axes`, async t => {
    const { log, config, bundles } = await emptySite(t)
    const groups = GROUPS[signature]
    const dimensions = { sum: 2, spectrum: 10, embedding: 3, question: 3, joint: 13 }[signature]
    const dir = temporaryFolder(t)
    await writeBundle(dir, {
      schedule: { fingerprint: 'abc', steps: null, T: 2 },
      mode: 'reference',
      signature,
      ...(signature === 'sum'
        ? {}
        : {
            standardisation: {
              mean: new Array<number>(dimensions).fill(1),
              deviation: new Array<number>(dimensions).fill(2),
            },
          }),
      radii: [1],
      baseline: { examples: 1, textOnly: 0, sizes: [1] },
      centroids: { data: new Float32Array(dimensions), count: 1, dimensions },
      members: { cluster: Int32Array.of(0), instability: Float32Array.of(0) },
    })
    const bundle = await openBundle(dir)
    await publishBundle(log, 'bundles', bundle)
    const scores = { trajectory: [9, 9], instability: 0, cluster: 0, bundle: bundle.id }
    const assigned = Array.from({ length: 40 }, (_, i) => {
      return { ...assignmentOf(i, bundles[0]), ...scores, ...groups[i % 2] }
    })
    await append(log, [...assigned, { ...assigned[0], ...TEXT_ONLY }])
    const model = await readWhole(log, config)
    const answers = new Answers(log, config, model, recordsOf({ log, config, model }))
    const map = new Landscape(model, answers).map(-1)
    assert.deepEqual([map.signature, map.examples], [signature, assigned.length])
    assert.ok(map.explained[0]! > 0.999, `${map.explained}`)
    const x = new Uint16Array(Uint8Array.from(Buffer.from(map.x, 'base64')).buffer)
    const ofGroup = (group: number) => new Set(x.filter((_, i) => i % 2 === group))
    assert.deepEqual([ofGroup(0).size, ofGroup(1).size], [1, 1])
    assert.notDeepEqual(ofGroup(0), ofGroup(1))
  })
}

const TEXT_ONLY = {
  ...{ key: 'text@0123456789abcdef', id: 'text', content: '0123456789abcdef'.padEnd(64, 'a') },
  ...{ cluster: 'text', trajectory: null, instability: null, distance: null, embedding: null },
}
