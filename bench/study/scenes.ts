/**
 * Generated data for the study: twelve families of questions about drawn scenes, with the faults of
 * real streams. Families and concepts of the pool follow power laws; part of it are near-duplicates,
 * part has the answer of another picture, part can be answered without the picture. The held-out
 * examples are clean, as many of each family, all concepts alike.
 */
import {
  COLOURS,
  type Colour,
  KINDS,
  renderScene,
  type Scene,
  type Shape,
} from '../../src/demo/scene.ts'
import { permutation, seededRandom, seedOf } from '../../src/math/random.ts'

export const SIDE = 64
/** A shape a cell: each lies within one patch of 16 pixels. */
const GRID = 4
const CELL = SIDE / GRID
const SHAPES_MAX = 5

export const FAULTS = { nearDuplicate: 0.4, swapped: 0.15, blind: 0.2 } as const
/** Weights of families are (i + 1)^-1.2, of colours and kinds (i + 1)^-1. */
const FAMILY_EXPONENT = 1.2
const CONCEPT_EXPONENT = 1

type Random = () => number
/** `fault`: what is wrong with the example, for the oracle and for tables. Only `source` is read otherwise. */
export type StudyExample = {
  id: string
  image: string
  source: string
  fault?: 'near_duplicate' | 'swapped' | 'blind'
  conversations: { from: 'human' | 'gpt'; value: string }[]
}
type Asked = { question: string; answer: string }
/** Undefined where the scene does not suit the question. */
type Family = (scene: Scene, random: Random) => Asked | undefined
type Draft = Asked & { family: string; scene: Scene; fault?: StudyExample['fault'] }

/** The same seed gives the same examples. */
export async function generate(
  seed: number,
  { pool, heldOut }: { pool: number; heldOut: number },
): Promise<{ pool: StudyExample[]; heldOut: StudyExample[] }> {
  const drafts = poolOf(seededRandom(seedOf(seed, 'pool')), pool)
  const clean = heldOutOf(seededRandom(seedOf(seed, 'held out')), heldOut)
  return {
    pool: await Promise.all(drafts.map((draft, i) => exampleOf(`pool-${i}`, draft))),
    heldOut: await Promise.all(clean.map((draft, i) => exampleOf(`held-out-${i}`, draft))),
  }
}

function poolOf(random: Random, count: number): Draft[] {
  const drafts: Draft[] = []
  while (drafts.length < count) {
    const old = drafts[Math.floor(drafts.length * random())]
    const isCopy = old !== undefined && random() < FAULTS.nearDuplicate
    drafts.push(isCopy ? nearCopy(old, random) : draftOf(random, CONCEPT_EXPONENT))
  }
  swapAnswers(drafts, random)
  return permutation(random, count).map(i => drafts[i]!)
}

function heldOutOf(random: Random, count: number): Draft[] {
  const names = Object.keys(FAMILIES)
  return Array.from({ length: count }, (_, i) => {
    const family = names[i % names.length]!
    return { family, ...ask(family, random, 0) }
  })
}

function draftOf(random: Random, exponent: number): Draft {
  const names = Object.keys(FAMILIES)
  const family = names[zipf(names.length, FAMILY_EXPONENT, random)]!
  const draft = { family, ...ask(family, random, exponent) }
  if (random() >= FAULTS.blind) return draft
  return { ...draft, question: `It is ${draft.answer}. ${draft.question}`, fault: 'blind' }
}

/** The first scene that suits the family. */
function ask(family: string, random: Random, exponent: number): Asked & { scene: Scene } {
  for (;;) {
    const scene = drawScene(random, exponent)
    const asked = FAMILIES[family]!(scene, random)
    if (asked !== undefined) return { ...asked, scene }
  }
}

/** The same question about the same scene, another shade and a pixel aside. */
function nearCopy(old: Draft, random: Random): Draft {
  const [dx, dy] = [random() < 0.5 ? 0 : 1, random() < 0.5 ? 0 : 1]
  const shapes = old.scene.shapes.map(shape => ({ ...shape, x: shape.x + dx, y: shape.y + dy }))
  const grey = old.scene.grey + Math.floor(5 * random()) - 2
  return { ...old, fault: old.fault ?? 'near_duplicate', scene: { ...old.scene, grey, shapes } }
}

/** Gives a share of the examples the answer of another one of their family that has a different one. */
function swapAnswers(drafts: Draft[], random: Random): void {
  const originals = drafts.map(({ answer }) => answer)
  for (const draft of drafts) {
    if (random() >= FAULTS.swapped || draft.fault === 'blind') continue
    const others = drafts.flatMap(({ family }, j) =>
      family === draft.family && originals[j] !== draft.answer ? [originals[j]!] : [],
    )
    if (others.length === 0) continue
    draft.answer = others[Math.floor(others.length * random())]!
    draft.fault = 'swapped'
  }
}

async function exampleOf(id: string, draft: Draft): Promise<StudyExample> {
  const { family, question, answer, fault } = draft
  return {
    id,
    image: await renderScene(draft.scene),
    source: family,
    ...(fault === undefined ? {} : { fault }),
    conversations: [
      { from: 'human', value: `<image>\n${question}` },
      { from: 'gpt', value: answer },
    ],
  }
}

const COLOUR_NAMES = Object.keys(COLOURS) as Colour[]

/** Two to five shapes of two sizes. */
function drawScene(random: Random, exponent: number): Scene {
  const cells = permutation(random, GRID * GRID)
  const count = 2 + Math.floor((SHAPES_MAX - 1) * random())
  const shapes = cells.slice(0, count).map((cell): Shape => {
    const radius = random() < 0.5 ? 4 : 7
    return {
      kind: KINDS[zipf(KINDS.length, exponent, random)]!,
      colour: COLOUR_NAMES[zipf(COLOUR_NAMES.length, exponent, random)]!,
      x: (cell % GRID) * CELL + CELL / 2 - 1,
      y: Math.floor(cell / GRID) * CELL + CELL / 2 - 1,
      radius,
    }
  })
  return { side: SIDE, grey: random() < 0.5 ? 235 : 150, shapes }
}

/** 0 … n-1 with weights (i + 1)^-exponent. */
function zipf(n: number, exponent: number, random: Random): number {
  const weights = Array.from({ length: n }, (_, i) => (i + 1) ** -exponent)
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0)
  const found = weights.findIndex(weight => {
    left -= weight
    return left < 0
  })
  return Math.max(0, found)
}

function pick<Item>(items: readonly Item[], random: Random): Item {
  return items[Math.floor(items.length * random())]!
}

/** The only shape that `is` true of. */
function only(shapes: readonly Shape[], is: (shape: Shape) => boolean): Shape | undefined {
  const found = shapes.filter(is)
  return found.length === 1 ? found[0] : undefined
}

function edge(shapes: readonly Shape[], key: (shape: Shape) => number): Shape | undefined {
  const least = Math.min(...shapes.map(key))
  return only(shapes, shape => key(shape) === least)
}

function yesNo(value: boolean): string {
  return value ? 'yes' : 'no'
}

/** Half of the scenes answer yes: otherwise "no" is nearly always right. */
function balanced(value: boolean, random: Random): string | undefined {
  return value === random() < 0.5 ? yesNo(value) : undefined
}

/** Most frequent first. */
const FAMILIES: Record<string, Family> = {
  exists({ shapes }, random) {
    const [colour, kind] = [pick(COLOUR_NAMES, random), pick(KINDS, random)]
    const answer = balanced(
      shapes.some(shape => shape.colour === colour && shape.kind === kind),
      random,
    )
    return answer === undefined ? undefined : { question: `Is there a ${colour} ${kind}?`, answer }
  },
  colour({ shapes }, random) {
    const kind = pick(KINDS, random)
    const shape = only(shapes, one => one.kind === kind)
    return shape && { question: `Which colour has the ${kind}?`, answer: shape.colour }
  },
  count({ shapes }) {
    return { question: 'How many things are there?', answer: String(shapes.length) }
  },
  kind({ shapes }, random) {
    const colour = pick(COLOUR_NAMES, random)
    const shape = only(shapes, one => one.colour === colour)
    return shape && { question: `What is ${colour}?`, answer: `a ${shape.kind}` }
  },
  ground({ grey }) {
    return { question: 'How is the ground?', answer: grey > 200 ? 'light' : 'dark' }
  },
  size({ shapes }, random) {
    const colour = pick(COLOUR_NAMES, random)
    const shape = only(shapes, one => one.colour === colour)
    const question = `Is the ${colour} thing big or small?`
    return shape && { question, answer: shape.radius > 5 ? 'big' : 'small' }
  },
  row({ shapes }, random) {
    const colour = pick(COLOUR_NAMES, random)
    const shape = only(shapes, one => one.colour === colour)
    const question = `At which height is the ${colour} one?`
    return shape && { question, answer: shape.y < SIDE / 2 ? 'upper half' : 'lower half' }
  },
  leftmost({ shapes }) {
    const shape = edge(shapes, one => one.x)
    return shape && { question: 'Name the colour of what is leftmost.', answer: shape.colour }
  },
  topmost({ shapes }) {
    const shape = edge(shapes, one => one.y)
    return shape && { question: 'What form is on top of all others?', answer: shape.kind }
  },
  same({ shapes }, random) {
    const colours = new Set(shapes.map(({ colour }) => colour))
    const answer = balanced(colours.size < shapes.length, random)
    if (answer === undefined) return undefined
    return { question: 'Do any two share their colour?', answer }
  },
  howMany({ shapes }, random) {
    const kind = pick(KINDS, random)
    const count = shapes.filter(shape => shape.kind === kind).length
    return { question: `Count every ${kind} that can be seen here.`, answer: `${count} of them` }
  },
  describe({ shapes }) {
    const colours = COLOUR_NAMES.filter(name => shapes.some(({ colour }) => colour === name))
    return { question: 'List the colours.', answer: colours.join(', ') }
  },
}
