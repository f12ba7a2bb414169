import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp, { type Sharp } from 'sharp'
import { drawScene, renderScene } from '../../../src/demo/scene.ts'
import { decodeImage } from '../../../src/ingest/image/decode.ts'
import { colourLayout, LAYOUT_VALUES } from '../../../src/ingest/image/layout.ts'
import { IMAGE_LIMITS, type Rgb } from '../../../src/ingest/image/pixels.ts'
import { seededRandom } from '../../../src/math/random.ts'
import { unitOf } from '../../../src/math/vectors.ts'

/** A picture of the demo as PNG bytes. */
async function scene(seed: number): Promise<Buffer> {
  const url = await renderScene(drawScene(seededRandom(seed)))
  return Buffer.from(url.slice(url.indexOf(',') + 1), 'base64')
}

async function layout(bytes: Uint8Array): Promise<Float64Array> {
  return unitOf(colourLayout(await decodeImage(bytes, IMAGE_LIMITS)))
}

function distance(a: Float64Array, b: Float64Array): number {
  return Math.hypot(...a.map((value, i) => value - b[i]!))
}

test('re-encoded, resized, brightened and slightly cropped pictures keep their layout; others have another', async () => {
  const pictures = await Promise.all(Array.from({ length: 12 }, (_, i) => scene(i)))
  const layouts = await Promise.all(pictures.map(layout))
  for (const [i, bytes] of pictures.entries()) {
    const { width = 0, height = 0 } = await sharp(bytes).metadata()
    const near = async (what: string, most: number, made: Sharp): Promise<void> => {
      const found = distance(await layout(await made.toBuffer()), layouts[i]!)
      assert.ok(found <= most, `picture ${i}, ${what}: ${found}`)
    }
    await near('jpeg', 0.1, sharp(bytes).jpeg({ quality: 40 }))
    await near('webp', 0.1, sharp(bytes).webp({ quality: 70 }))
    await near(
      'half',
      0.12,
      sharp(bytes)
        .resize(width >> 1, height >> 1, { fit: 'fill' })
        .png(),
    )
    await near(
      'twice',
      0.12,
      sharp(bytes)
        .resize(2 * width, 2 * height, { fit: 'fill' })
        .png(),
    )
    await near('brighter', 0.1, sharp(bytes).modulate({ brightness: 1.05 }).png())
    const edge = Math.round(0.02 * width)
    const inner = { left: edge, top: edge, width: width - 2 * edge, height: height - 2 * edge }
    await near('cropped', 0.35, sharp(bytes).extract(inner).png())
    const others = layouts.filter((_, j) => j !== i).map(other => distance(other, layouts[i]!))
    assert.ok(Math.min(...others) > 0.15, `picture ${i} and another: ${Math.min(...others)}`)
  }
})

/** By the definition: mean colours of all points, then the cosine transform as a double sum; luma at half its size. */
function naive({ width, height, data }: Rgb): number[] {
  const found: number[] = []
  const weights = [
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
  ]
  const at = (point: number, length: number): number => Math.floor(((point + 0.5) * length) / 256)
  for (const [p, count] of [5, 4, 4].entries()) {
    for (let v = 0; v < count; v++) {
      for (let u = 0; u < count; u++) {
        let sum = 0
        for (let y = 0; y < 256; y++) {
          for (let x = 0; x < 256; x++) {
            const from = (at(y, height) * width + at(x, width)) * 3
            const value = weights[p]!.reduce((all, weight, c) => all + weight * data[from + c]!, 0)
            const cosine = (cell: number, frequency: number): number =>
              Math.cos(((2 * Math.floor(cell / 8) + 1) * frequency * Math.PI) / 64)
            const scale = (u === 0 ? Math.SQRT1_2 : 1) * (v === 0 ? Math.SQRT1_2 : 1)
            sum += (scale * value * cosine(x, u) * cosine(y, v)) / 64
          }
        }
        if (u + v > 0) found.push(p === 0 ? sum / 2 : sum)
      }
    }
  }
  return found
}

test('a layout is the low frequencies of mean colours, however small or narrow the image', () => {
  const random = seededRandom(5)
  for (const [width, height] of [
    [1, 1],
    [3, 700],
    [50, 20],
  ] as const) {
    const data = Uint8Array.from({ length: 3 * width * height }, () => 256 * random())
    const found = colourLayout({ width, height, data })
    assert.equal(found.length, LAYOUT_VALUES)
    for (const [i, value] of naive({ width, height, data }).entries()) {
      assert.ok(
        Math.abs(found[i]! - value) < 1e-6,
        `${width}×${height}, ${i}: ${found[i]}, ${value}`,
      )
    }
  }
})
