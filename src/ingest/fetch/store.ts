/**
 * Pictures in object stores: `s3://BUCKET/KEY`, and `gs://BUCKET/KEY` over Google's S3-compatible interface.
 * Endpoint, region and credentials come from where AWS' own tools read them, for gs:// from
 * GS_ACCESS_KEY_ID and GS_SECRET_ACCESS_KEY (an HMAC key). Without credentials requests are not signed.
 */
import { AwsV4Signer } from 'aws4fetch'
import { messageOf, XmasdError } from '../../errors.ts'
import { shown } from '../form/json.ts'
import type { ImageLimits } from '../image/pixels.ts'
import { HOST_LIMITS, type HostLimits, inTurn } from './gate.ts'
import { createAgents, fetchFailed, readBody, send } from './transport.ts'

export type StoreSource = {
  limits: ImageLimits
  /** `s3://BUCKET[/PREFIX]` or `gs://BUCKET[/PREFIX]`, which images may come from. Default: none. */
  buckets?: readonly string[] | undefined
  hostLimits?: HostLimits | undefined
}

export const OBJECT_SCHEMES: readonly string[] = ['s3', 'gs']

type Credentials = { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
type Store = {
  region: string
  /** Where an object is requested. */
  place(bucket: string, path: string): URL
  /** Undefined: anonymous. */
  credentials(): Promise<Credentials | undefined>
}

/** What a deadline is put around. */
export type Timed = <T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>

/** The operator names the endpoint, so its addresses need no check. */
const agents = createAgents()

/** Throws IMAGE_FIELD_INVALID, IMAGE_ADDRESS_FORBIDDEN, IMAGE_NOT_FOUND, IMAGE_FETCH_FAILED. */
export async function fetchObject(
  reference: string,
  { limits, buckets = [], hostLimits = HOST_LIMITS }: StoreSource,
  timed: Timed,
  onWait: () => void,
): Promise<Uint8Array> {
  const { scheme, bucket, key } = parseReference(reference)
  checkBucket(`${scheme}://${bucket}/${key}`, buckets)
  const store = await storeOf(scheme)
  const path = key.split('/').map(encoded).join('/')
  const url = store.place(bucket, path)
  const at = { url, store, reference, limits }
  return await inTurn(url.host, hostLimits, onWait, () => timed(signal => get(at, signal)))
}

type Place = { url: URL; store: Store; reference: string; limits: ImageLimits }

async function get(
  { url, store, reference, limits }: Place,
  signal: AbortSignal,
): Promise<Uint8Array> {
  try {
    const { headers, isSigned } = await signed(url, store)
    const response = await send({ url, headers, agents }, signal)
    const refusal = refusalOf(response.statusCode ?? 0, reference, isSigned)
    if (refusal === undefined) return await readBody(response, reference, limits)
    response.destroy()
    throw refusal
  } catch (error) {
    if (error instanceof XmasdError) throw error
    throw fetchFailed(reference, messageOf(error), { cause: error, retryable: true })
  }
}

/** As signatures spell it (RFC 3986). */
function encoded(step: string): string {
  return encodeURIComponent(step).replace(
    /[!\x27()*]/g,
    sign => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

const REFERENCE = /^(s3|gs):\/\/([a-z0-9][a-z0-9._-]{1,220})\/(.+)$/is

/** A URL would resolve `.` and `..` within a key. */
function parseReference(reference: string): { scheme: string; bucket: string; key: string } {
  const [, scheme, bucket, key] = REFERENCE.exec(reference) ?? []
  const isPlain = key?.split('/').every(step => step !== '.' && step !== '..') === true
  if (isPlain && !/\p{Cs}/u.test(key!) && key!.length <= 1024) {
    return { scheme: scheme!.toLowerCase(), bucket: bucket!, key: key! }
  }
  throw new XmasdError(
    'IMAGE_FIELD_INVALID',
    `image is ${shown(reference)}, no object of a store`,
    'write s3://BUCKET/KEY or gs://BUCKET/KEY, without the steps . and .. in the key',
  )
}

function checkBucket(reference: string, buckets: readonly string[]): void {
  const isListed = buckets.some(entry => reference.startsWith(`${entry.replace(/\/+$/, '')}/`))
  if (isListed) return
  throw new XmasdError(
    'IMAGE_ADDRESS_FORBIDDEN',
    `images may not come from ${shown(reference)}`,
    'list its bucket under images.buckets (s3://BUCKET or s3://BUCKET/PREFIX)',
  )
}

/** Undefined where another attempt may help, or none is needed. */
function refusalOf(status: number, reference: string, isSigned: boolean): XmasdError | undefined {
  if (status === 404) {
    return new XmasdError(
      'IMAGE_NOT_FOUND',
      `there is no object ${shown(reference)}`,
      'put the object there before its example is produced',
    )
  }
  const how = isSigned ? 'signed with the credentials found' : 'not signed: no credentials found'
  const isElsewhere = status === 301 || status === 307
  if (!isElsewhere && status !== 400 && status !== 401 && status !== 403) return undefined
  return new XmasdError(
    'IMAGE_FETCH_FAILED',
    `cannot fetch ${shown(reference)}: status ${status}, ${how}`,
    isElsewhere
      ? 'the bucket is in another region: set AWS_REGION to it'
      : 'let the credentials (AWS_ACCESS_KEY_ID, a profile, or a role) read the bucket, and set AWS_REGION and AWS_ENDPOINT_URL_S3 to its own',
  )
}

async function signed(
  url: URL,
  store: Store,
): Promise<{ headers: Record<string, string>; isSigned: boolean }> {
  const credentials = await store.credentials()
  if (credentials === undefined) return { headers: {}, isSigned: false }
  const { region } = store
  const signer = new AwsV4Signer({ url: url.href, service: 's3', region, ...credentials })
  const { headers } = await signer.sign()
  return { headers: Object.fromEntries(headers), isSigned: true }
}

const stores = new Map<string, Promise<Store>>()

function storeOf(scheme: string): Promise<Store> {
  const store = stores.get(scheme) ?? (scheme === 's3' ? openS3() : Promise.resolve(openGs()))
  stores.set(scheme, store)
  return store
}

/** Amazon's packages are loaded for the first picture of a bucket: they are a tenth of a start. */
async function openS3(): Promise<Store> {
  const { env } = process
  const { defaultProvider } = await import('@aws-sdk/credential-provider-node')
  const { loadSharedConfigFiles } = await import('@smithy/core/config')
  const { configFile } = await loadSharedConfigFiles().catch(() => ({ configFile: {} }))
  const profile = (configFile as Record<string, Record<string, string | undefined>>)[
    env.AWS_PROFILE ?? 'default'
  ]
  const region = env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? profile?.region ?? 'us-east-1'
  const endpoint = env.AWS_ENDPOINT_URL_S3 ?? env.AWS_ENDPOINT_URL ?? profile?.endpoint_url
  const provider = defaultProvider()
  const isNamed = env.AWS_PROFILE !== undefined || env.AWS_ACCESS_KEY_ID !== undefined
  let isAnonymous = false
  return {
    region,
    place: (bucket, path) => {
      if (endpoint !== undefined) return below(endpoint, `${bucket}/${path}`)
      const host = `s3.${region}.amazonaws.com`
      // The certificate covers one label before the host.
      return bucket.includes('.')
        ? new URL(`https://${host}/${bucket}/${path}`)
        : new URL(`https://${bucket}.${host}/${path}`)
    },
    credentials: async () => {
      if (isAnonymous) return undefined
      try {
        const { accessKeyId, secretAccessKey, sessionToken } = await provider()
        const token = sessionToken === undefined ? {} : { sessionToken }
        return { accessKeyId, secretAccessKey, ...token }
      } catch (error) {
        if (isNamed || (error as Error).name !== 'CredentialsProviderError') throw error
        isAnonymous = true
        return undefined
      }
    },
  }
}

function openGs(): Store {
  const { GS_ACCESS_KEY_ID: accessKeyId, GS_SECRET_ACCESS_KEY: secretAccessKey } = process.env
  const endpoint = process.env.STORAGE_EMULATOR_HOST ?? 'https://storage.googleapis.com'
  const credentials =
    accessKeyId === undefined || secretAccessKey === undefined
      ? undefined
      : { accessKeyId, secretAccessKey }
  return {
    region: 'auto',
    place: (bucket, path) => below(endpoint, `${bucket}/${path}`),
    credentials: async () => credentials,
  }
}

function below(endpoint: string, path: string): URL {
  const base = /^https?:\/\//i.test(endpoint) ? endpoint : `http://${endpoint}`
  return new URL(`${base.replace(/\/+$/, '')}/${path}`)
}
