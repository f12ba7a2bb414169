import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const BENCH = join(dirname(fileURLToPath(import.meta.url)), '../../bench/regret.js')

type Cell = { baseline: number; clusters: number; percent: number }

test('bench:regret ends in one JSON object with a cell for every size and percent', () => {
  const output = execFileSync(process.execPath, [BENCH, '--examples', '4000', '--seeds', '1'], {
    encoding: 'utf8',
  })
  const { cells, variants } = JSON.parse(output.trimEnd().split('\n').at(-1)!)
  assert.deepEqual(
    cells.map((cell: Cell) => [cell.baseline, cell.clusters, cell.percent]),
    [0, 400].flatMap(baseline =>
      [200, 1000].flatMap(clusters => [10, 20, 50].map(percent => [baseline, clusters, percent])),
    ),
  )
  for (const cell of [...cells, ...variants]) {
    for (const [name, value] of Object.entries(cell)) {
      assert.ok(typeof value === 'string' || Number.isFinite(value), `${name} ${value}`)
    }
    assert.ok(cell.recoveredMended <= 1)
  }
  for (const { budgetErrorEnd } of cells) assert.ok(budgetErrorEnd <= 0.01, `${budgetErrorEnd}`)
})
