/** Dead letters by code, with hint and record; and the export commands. */
import { useState } from 'preact/hooks'
import type { DeadLetters as LettersDocument } from '../schemas.ts'
import { useApi, useLive } from './store.ts'
import { Command, count, Panel, Waiting } from './widgets.tsx'

type Letter = LettersDocument['letters'][number]

export function DeadLetters() {
  const { version } = useLive()
  const [code, setCode] = useState<string | undefined>(undefined)
  const query = code === undefined ? '' : `?code=${encodeURIComponent(code)}`
  const { value, problem } = useApi<LettersDocument>(`dead-letters${query}`, version, 1_000)
  const [known, setKnown] = useState<LettersDocument | undefined>(undefined)
  if (value !== undefined && value !== known) setKnown(value)
  const document = value ?? known
  if (document === undefined) return <Waiting problem={problem} />
  const { codes, letters, topic } = document
  return (
    <Panel
      title="Dead letters"
      note="Records that could not be used: the original bytes, a code, and what to do."
    >
      {codes.length === 0 && <p class="note">There are none.</p>}
      <div class="bar">
        {codes.map(one => (
          <button
            type="button"
            key={one.code}
            aria-pressed={one.code === code}
            onClick={() => setCode(one.code === code ? undefined : one.code)}
          >
            {one.code} {count(one.count)}
          </button>
        ))}
      </div>
      {code !== undefined && (
        <>
          <p class="note">When the cause is mended, send them to the examples again:</p>
          <Command text={`xmasd redrive --code ${code} --dry-run`} />
          <Command text={`xmasd redrive --code ${code}`} />
        </>
      )}
      {letters.map(letter => (
        <LetterView key={letter.offset} letter={letter} topic={topic} />
      ))}
    </Panel>
  )
}

function LetterView({ letter, topic }: { letter: Letter; topic: string }) {
  const { code, message, hint, source, value, bytes, offset, at } = letter
  return (
    <details class="letter">
      <summary>
        <b>{code}</b> {message}
      </summary>
      <p>→ {hint}</p>
      <p class="note">
        {topic}@{offset}, {new Date(at).toLocaleString()}, from {source}, {count(bytes)} bytes
      </p>
      <pre>{value}</pre>
    </details>
  )
}

const EXPORTS: [name: string, note: string, command: string][] = [
  ['Keys', 'A JSON array of the keys that are kept now.', 'xmasd export --out subset.json'],
  [
    'LLaVA',
    'A JSON array as its trainer reads it (--data_path).',
    'xmasd export --format llava --out subset.json',
  ],
  [
    'LLaMA-Factory',
    'A JSON array, and its entry in dataset_info.json beside it.',
    'xmasd export --format llama-factory --out data/subset.json',
  ],
  ['ms-swift', 'JSON lines (--dataset).', 'xmasd export --format ms-swift --out subset.jsonl'],
  ['TRL', 'JSON lines for load_dataset.', 'xmasd export --format trl --out subset.jsonl'],
  [
    'Parquet',
    'Columns id, messages, images, and weight.',
    'xmasd export --format parquet --weights --out subset.parquet',
  ],
  [
    'As it was produced',
    'The kept examples of the file that was produced, unchanged.',
    'xmasd export --data DATA.json --out subset.json',
  ],
  ['A stream', 'Each decision as it is made, one JSON line each.', 'xmasd tail decisions --json'],
]

export function Export() {
  return (
    <Panel
      title="Export"
      note="Commands that write the subset as it is now; images stay as they came, below images.root. Add --config FILE where the daemon runs with one."
    >
      {EXPORTS.map(([name, note, command]) => (
        <section key={name}>
          <h3>{name}</h3>
          <p class="note">{note}</p>
          <Command text={command} />
        </section>
      ))}
    </Panel>
  )
}
