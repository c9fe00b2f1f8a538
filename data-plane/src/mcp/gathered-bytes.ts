const bytesFirst = 1024;
/** Where the length is announced, room is made for all of it, but for no more than so many times what has come. */
const expectedGrowthMax = 4;

/**
 * Bytes of a body, gathered from the parts in which they come. Parts are copied together, but for an only one: a body in
 * parts of one byte is held in about twice its length, and not in as many objects.
 */
export class GatheredBytes {
  readonly #expected: number;
  #bytes: Buffer = Buffer.alloc(0);
  length = 0;

  /** @param expected how many will come, as was announced; 0 where nothing was */
  constructor(expected = 0) {
    this.#expected = expected;
  }

  push(part: Buffer): void {
    const length = this.length + part.length;
    if (this.length === 0) this.#bytes = part;
    else {
      // What was not made here is another's memory, so it has no room behind its end.
      if (length > this.#bytes.length) this.#grow(length);
      part.copy(this.#bytes, this.length);
    }
    this.length = length;
  }

  /** All of it; shares memory with an only part. */
  whole(): Buffer {
    return this.length === this.#bytes.length ? this.#bytes : this.#bytes.subarray(0, this.length);
  }

  #grow(length: number): void {
    const announced = this.#expected >= length ? Math.min(this.#expected, length * expectedGrowthMax) : 0;
    const room = announced > 0 ? announced : Math.max(bytesFirst, this.#bytes.length * 2, length);
    const grown = Buffer.allocUnsafeSlow(room);
    this.#bytes.copy(grown, 0, 0, this.length);
    this.#bytes = grown;
  }
}
