import { Readable } from 'node:stream';
import type { CallOptions, CallPool, EgressPools } from './connections.ts';

/** A larger body is handed over in parts of this size, in bytes. */
const partBytes = 64 * 1024;

/**
 * The edge towards upstreams on undici's pools. A large body is handed over in parts, each when the connection took the one
 * before: undici ends a connection that answers while a stream is sent on it. A buffer it takes for sent as soon as it has
 * it, so where an upstream answers early and reads no further, the rest would wait before the next call.
 */
export class LibraryPools implements EgressPools {
  readonly #egress: EgressPools;

  /** @param egress the guarded one, which checks every address it dials */
  constructor(egress: EgressPools) {
    this.#egress = egress;
  }

  pool(url: URL): CallPool {
    const pool = this.#egress.pool(url);
    return { dispatch: (options, handler) => pool.dispatch(inParts(options), handler) };
  }
}

function inParts(options: CallOptions): CallOptions {
  const { body, headers } = options;
  if (!Buffer.isBuffer(body) || body.length <= partBytes) return options;
  const lines = [...(headers as readonly string[]), 'content-length', String(body.length)];
  return { ...options, headers: lines, body: Readable.from(partsOf(body)) };
}

function* partsOf(body: Buffer): Generator<Buffer> {
  for (let at = 0; at < body.length; at += partBytes) yield body.subarray(at, at + partBytes);
}
