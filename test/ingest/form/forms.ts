/** One conversation written in every form of docs/data.md. */

export type Picture = { path: string } | { base64: string; type: string }

export type Given = {
  id?: string | number
  pictures: Picture[]
  system?: string
  talk: readonly (readonly [string, string])[]
  /** `<image>` in front of the first question; default: one a picture. */
  marks?: number
  video?: boolean
}

type Fields = Record<string, unknown>

const nameOf = (picture: Picture): string =>
  'path' in picture ? picture.path : `data:${picture.type};base64,${picture.base64}`

/** As a struct of the Hub's data sets; its bytes have no type. */
const structOf = (picture: Picture) =>
  'path' in picture ? { bytes: null, path: picture.path } : { bytes: picture.base64, path: 'x.png' }

function marked({ pictures, marks = pictures.length, talk }: Given): [string, string][] {
  return talk.map(([question, answer], i) => [
    i === 0 ? '<image>\n'.repeat(marks) + question : question,
    answer,
  ])
}

const fromTurns = (given: Given) => [
  ...(given.system === undefined ? [] : [{ from: 'system', value: given.system }]),
  ...marked(given).flatMap(([human, gpt]) => [
    { from: 'human', value: human },
    { from: 'gpt', value: gpt },
  ]),
]

const roleTurns = (given: Given) => [
  ...(given.system === undefined ? [] : [{ role: 'system', content: given.system }]),
  ...marked(given).flatMap(([user, assistant]) => [
    { role: 'user', content: user },
    { role: 'assistant', content: assistant },
  ]),
]

/** Turns of parts, each picture of the first question a part made by `part`. */
function partTurns(given: Given, part: (picture: Picture) => object, text = 'text') {
  const said = (words: string) => [{ type: 'text', [text]: words }]
  const { pictures, marks = 0, system, talk, video } = given
  return [
    ...(system === undefined ? [] : [{ role: 'system', content: said(system) }]),
    ...talk.flatMap(([question, answer], i) => {
      const inText = i === 0 ? '<image>'.repeat(Math.max(0, marks - pictures.length)) : ''
      const before = i === 0 ? pictures.map(part) : []
      const film = i === 0 && video === true ? [{ type: 'video', video: 'a.mp4' }] : []
      return [
        { role: 'user', content: [...before, ...film, ...said(inText + question)] },
        { role: 'assistant', content: said(answer) },
      ]
    }),
  ]
}

const idOf = ({ id }: Given): Fields => (id === undefined ? {} : { id })
const videoOf = ({ video }: Given): Fields => (video === true ? { videos: ['a.mp4'] } : {})

/** What a form lacks a way to say. */
export type Lack = 'system' | 'several turns' | 'inline' | 'missing tag' | 'too many tags'

export type Form = { name: string; record: (given: Given) => Fields; lacks: readonly Lack[] }

const TAGGED: readonly Lack[] = []
const PARTS: readonly Lack[] = ['missing tag']

export const FORMS: readonly Form[] = [
  {
    name: 'LLaVA',
    lacks: TAGGED,
    record: given => {
      const names = given.pictures.map(nameOf)
      const image = names.length === 1 ? names[0] : names
      const video = given.video === true ? { video: 'a.mp4' } : {}
      return { ...idOf(given), ...video, image, conversations: fromTurns(given) }
    },
  },
  {
    name: 'Qwen-VL',
    lacks: TAGGED,
    record: given => ({
      ...idOf(given),
      ...(given.video === true ? { video: 'a.mp4' } : {}),
      image: given.pictures.map(nameOf),
      conversations: fromTurns(given),
    }),
  },
  {
    name: 'LLaMA-Factory sharegpt',
    lacks: TAGGED,
    record: given => {
      const { system } = given
      const conversations = fromTurns({ ...given, system: undefined } as never)
      const images = given.pictures.map(nameOf)
      return { ...idOf(given), ...videoOf(given), images, system: system ?? '', conversations }
    },
  },
  {
    name: 'LLaMA-Factory messages',
    lacks: TAGGED,
    record: given => ({
      ...idOf(given),
      ...videoOf(given),
      messages: roleTurns(given),
      images: given.pictures.map(nameOf),
    }),
  },
  {
    name: 'LLaMA-Factory alpaca',
    lacks: TAGGED,
    record: given => {
      const turns = marked(given)
      const [instruction, output] = turns.at(-1)!
      const images = given.pictures.map(nameOf)
      const history = turns.slice(0, -1)
      const { system = '' } = given
      const rest = { ...videoOf(given), images, history, system }
      return { ...idOf(given), instruction, input: '', output, ...rest }
    },
  },
  {
    name: 'ms-swift',
    lacks: TAGGED,
    record: given => ({
      ...idOf(given),
      ...videoOf(given),
      messages: roleTurns(given).map(turn => ({ ...turn, loss: true })),
      images: given.pictures.map(structOf),
      objects: { ref: [], bbox: [] },
    }),
  },
  {
    name: 'OpenAI parts',
    lacks: PARTS,
    record: given => ({
      ...idOf(given),
      messages: partTurns(given, one => ({ type: 'image_url', image_url: { url: nameOf(one) } })),
    }),
  },
  {
    name: 'OpenAI parts with bare URLs',
    lacks: PARTS,
    record: given => ({
      ...idOf(given),
      messages: partTurns(given, one => ({ type: 'image_url', image_url: nameOf(one) })),
    }),
  },
  {
    name: 'Anthropic parts',
    lacks: PARTS,
    record: given => ({
      ...idOf(given),
      messages: partTurns(given, one => ({
        type: 'image',
        source:
          'path' in one
            ? { type: 'url', url: one.path }
            : { type: 'base64', media_type: one.type, data: one.base64 },
      })),
    }),
  },
  {
    name: 'TRL messages',
    lacks: PARTS,
    record: given => ({
      ...idOf(given),
      images: given.pictures.map(structOf),
      messages: partTurns(given, () => ({ type: 'image', text: null })),
    }),
  },
  {
    name: 'TRL prompt and completion',
    lacks: PARTS,
    record: given => {
      const turns = partTurns(given, () => ({ type: 'image' }))
      const images = given.pictures.map(nameOf)
      return { ...idOf(given), images, prompt: turns.slice(0, -1), completion: turns.slice(-1) }
    },
  },
  {
    name: 'Qwen parts',
    lacks: PARTS,
    record: given => ({
      ...idOf(given),
      messages: partTurns(given, one => ({ type: 'image', image: nameOf(one) })),
    }),
  },
  {
    name: 'LLaMA-Factory v1 parts',
    lacks: PARTS,
    record: given => ({
      ...idOf(given),
      messages: partTurns(given, one => ({ type: 'image_url', value: nameOf(one) }), 'value'),
    }),
  },
  {
    name: 'FineVision',
    lacks: ['system', 'too many tags'],
    record: given => ({
      ...idOf(given),
      ...videoOf(given),
      images: given.pictures.map(structOf),
      texts: given.talk.map(([user, assistant]) => ({ user, assistant })),
      source: 'clevr',
      relevance_ratings: [5],
    }),
  },
  {
    name: 'LLaVA-OneVision-Data',
    lacks: TAGGED,
    record: given => {
      const structs = given.pictures.map(structOf)
      const image = structs.length > 1 ? structs : (structs[0] ?? { bytes: null, path: null })
      return { ...idOf(given), ...videoOf(given), image, conversations: fromTurns(given) }
    },
  },
  {
    name: 'preferences',
    lacks: ['system', 'several turns'],
    record: given => {
      const [[prompt, chosen]] = marked(given) as [[string, string]]
      const image = given.pictures.map(nameOf)
      return { ...idOf(given), ...videoOf(given), prompt, chosen, rejected: 'No idea.', image }
    },
  },
  {
    name: 'preferences of messages',
    lacks: TAGGED,
    record: given => {
      const turns = roleTurns(given)
      const rejected = [{ role: 'assistant', content: 'No idea.' }]
      const images = given.pictures.map(nameOf)
      const prompt = turns.slice(0, -1)
      return {
        ...idOf(given),
        ...videoOf(given),
        prompt,
        chosen: turns.slice(-1),
        rejected,
        images,
      }
    },
  },
]
