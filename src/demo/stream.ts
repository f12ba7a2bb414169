/**
 * The demo's stream: instruction examples about drawn scenes. Kinds of question follow a power law; a
 * few records are duplicates under another id, redeliveries or broken. Now and then a night sky comes:
 * neither the demo's proxy nor its bundle was made from any.
 */
import { seededRandom } from '../math/random.ts'
import type { Turn } from '../record.ts'
import {
  COLOURS,
  type Colour,
  drawNight,
  drawScene,
  KINDS,
  type Kind,
  renderScene,
  type Scene,
} from './scene.ts'

export type DemoRecord = { key: string | null; value: Uint8Array }

const DUPLICATES = 0.05
const REDELIVERIES = 0.02
const BROKEN = 0.01
/** Duplicates and redeliveries repeat one of this many recent examples. */
const RECENT = 256
/** Of so many records, a night sky comes before one. */
const NIGHT_EVERY = 80
const NIGHT_AT = 40
/** Nights have a randomness of their own, so that the other records do not depend on them. */
const NIGHT_SEED = 1_000_003

type Example = { id: string; image?: string; conversations: Turn[] }
type Random = () => number
/** Questions about a scene, with their answers. */
type Family = (scene: Scene, random: Random) => [question: string, answer: string][]

/** Endless; the same seed gives the same records. */
export async function* demoStream({ seed }: { seed: number }): AsyncGenerator<DemoRecord> {
  const random = seededRandom(seed)
  const nights = seededRandom(seed + NIGHT_SEED)
  const recent: Example[] = []
  for (let number = 0; ; number++) {
    if (number % NIGHT_EVERY === NIGHT_AT) yield recordOf(await nightExample(number, nights))
    const kind = random()
    const old = recent[Math.floor(recent.length * random())]
    if (old !== undefined && kind < REDELIVERIES) yield recordOf(old)
    else if (old !== undefined && kind < REDELIVERIES + DUPLICATES) {
      yield recordOf({ ...old, id: `copy-${number}` })
    } else if (kind < REDELIVERIES + DUPLICATES + BROKEN) yield brokenRecord(number, random)
    else {
      const example = await demoExample(`demo-${number}`, random)
      if (recent.push(example) > RECENT) recent.shift()
      yield recordOf(example)
    }
  }
}

/** `count` distinct valid examples: the demo's proxy is trained on them. */
export async function demoExamples(seed: number, count: number): Promise<object[]> {
  const random = seededRandom(seed)
  const examples: object[] = []
  while (examples.length < count)
    examples.push(await demoExample(`train-${examples.length}`, random))
  return examples
}

function recordOf(example: Example): DemoRecord {
  return { key: example.id, value: Buffer.from(JSON.stringify(example)) }
}

function brokenRecord(number: number, random: Random): DemoRecord {
  const id = `broken-${number}`
  const values = [
    `{"id": "${id}", "conversations": [`,
    JSON.stringify({ id, conversations: [] }),
    JSON.stringify({
      id,
      image: 'data:image/png;base64,bm90IGFuIGltYWdl',
      conversations: turnsOf([['What is this?', 'Nobody knows.']], true),
    }),
  ]
  return { key: id, value: Buffer.from(values[Math.floor(values.length * random())]!) }
}

const TEXT_ONLY = 0.06

async function demoExample(id: string, random: Random): Promise<Example> {
  if (random() < TEXT_ONLY) return { id, conversations: turnsOf(askArithmetic(random), false) }
  const scene = drawScene(random)
  const family = FAMILIES[zipf(FAMILIES.length, random)]!
  const conversations = turnsOf(family(scene, random), true)
  return { id, image: await renderScene(scene), conversations }
}

async function nightExample(number: number, random: Random): Promise<Example> {
  const scene = drawNight(random)
  const question = 'How many stars are in the night sky?'
  const conversations = turnsOf([[question, String(scene.shapes.length)]], true)
  return { id: `night-${number}`, image: await renderScene(scene), conversations }
}

/** 0 … n-1 with weights 1/(i+1)^1.2. */
function zipf(n: number, random: Random): number {
  const weights = Array.from({ length: n }, (_, i) => (i + 1) ** -1.2)
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0)
  return Math.max(
    0,
    weights.findIndex(weight => {
      left -= weight
      return left < 0
    }),
  )
}

function turnsOf(talk: [string, string][], hasImage: boolean): Turn[] {
  return talk.flatMap(([question, answer], i) => [
    { from: 'human', value: i === 0 && hasImage ? `<image>\n${question}` : question },
    { from: 'gpt', value: answer },
  ])
}

/** Most frequent first. */
const FAMILIES: readonly Family[] = [
  askWhetherThere,
  askWhetherCount,
  askHowMany,
  askLargest,
  askEverything,
  askDescription,
  askSides,
  askMostCommon,
]

function askWhetherThere({ shapes }: Scene, random: Random): [string, string][] {
  const [colour, kind] = [anyColour(random), anyKind(random)]
  const isThere = shapes.some(shape => shape.colour === colour && shape.kind === kind)
  return [[`There is a ${colour} ${kind}.`, String(isThere)]]
}

function askWhetherCount({ shapes }: Scene, random: Random): [string, string][] {
  const kind = anyKind(random)
  const count = Math.floor(4 * random())
  const real = shapes.filter(shape => shape.kind === kind).length
  return [[`There are exactly ${count} ${kind}s.`, String(real === count)]]
}

function askHowMany({ shapes }: Scene, random: Random): [string, string][] {
  const colour = anyColour(random)
  const count = shapes.filter(shape => shape.colour === colour).length
  return [[`How many ${colour} objects are there?`, String(count)]]
}

function askLargest({ shapes }: Scene): [string, string][] {
  const largest = shapes.reduce((a, b) => (b.radius > a.radius ? b : a))
  return [['What colour is the largest object?', largest.colour]]
}

/** A conversation of three turns. */
function askEverything(scene: Scene, random: Random): [string, string][] {
  const [count] = [scene.shapes.length]
  return [
    ['How many objects can you count in this picture?', `There are ${count}.`],
    ...askLargest(scene),
    ...askWhetherThere(scene, random),
  ]
}

function askDescription({ shapes }: Scene): [string, string][] {
  const parts = shapes.map(({ colour, kind, x, y }) => `a ${colour} ${kind} at ${x}, ${y}`)
  const text = `The picture shows ${parts.join(', ')} on a grey background.`
  return [['Describe the picture in one sentence, with the place of every object.', text]]
}

function askSides({ shapes, side }: Scene): [string, string][] {
  const left = shapes.filter(({ x }) => x < side / 2).length
  const answer =
    left * 2 === shapes.length ? 'both alike' : left * 2 > shapes.length ? 'left' : 'right'
  return [['Which side of the picture holds more objects, left or right?', answer]]
}

function askMostCommon({ shapes }: Scene): [string, string][] {
  const counts = KINDS.map(kind => shapes.filter(shape => shape.kind === kind).length)
  const most = KINDS[counts.indexOf(Math.max(...counts))]!
  return [['Which shape appears most often? Answer with one word.', most]]
}

function askArithmetic(random: Random): [string, string][] {
  const [a, b] = [Math.floor(90 * random()), Math.floor(90 * random())]
  return [[`What is ${a} plus ${b}?`, String(a + b)]]
}

function anyColour(random: Random): Colour {
  const names = Object.keys(COLOURS) as Colour[]
  return names[Math.floor(names.length * random())]!
}

function anyKind(random: Random): Kind {
  return KINDS[Math.floor(KINDS.length * random())]!
}
