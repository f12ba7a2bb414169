/** Which positions of a sequence the loss is taken at: those of the answers' tokens. */
import { IMAGE_MARK } from './decode.ts'
import { answerSpans, buildPrompt, type Dialog, type Template } from './template.ts'
import { type EncodeOptions, encodePrompt, type Tokenizer } from './tokenizer.ts'

/**
 * Positions of the answers' tokens within `lengthMax`, end tokens included, ascending. From where the spaces
 * before an answer begin, as the published code's labels, or from the answer itself: the same where a
 * tokenizer joins a space with the word behind it. (TinyLLaVA's Template._make_masks)
 */
export function answerPositions(
  tokenizer: Tokenizer,
  template: Template,
  dialog: Dialog,
  { start, ...options }: EncodeOptions & { start: 'spaced' | 'from' },
): Int32Array {
  const prompt = buildPrompt(template, dialog)
  const positionOf = (index: number): number => {
    const text = prompt.slice(0, index)
    const images = text.split(IMAGE_MARK).length - 1
    return encodePrompt(tokenizer, text, images, options).lengthUntruncated
  }
  const positions: number[] = []
  for (const span of answerSpans(template, dialog)) {
    const end = Math.min(positionOf(span.to), options.lengthMax)
    for (let p = positionOf(span[start]); p < end; p++) positions.push(p)
  }
  return Int32Array.from(positions)
}
