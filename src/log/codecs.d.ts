declare module 'lz4js' {
  const lz4: { decompress(bytes: Uint8Array): Uint8Array }
  export default lz4
}

declare module 'snappyjs' {
  export function uncompress(bytes: Uint8Array, sizeMax?: number): Uint8Array
}
