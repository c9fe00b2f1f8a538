const bytesFirst = 1024;

/**
 * Bytes of a body, gathered from the parts in which they come. Parts are copied together, but for an only one: a body in
 * parts of one byte is held in about twice its length, and not in as many objects.
 */
export class GatheredBytes {
  #bytes: Buffer = Buffer.alloc(0);
  length = 0;

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
    const grown = Buffer.allocUnsafeSlow(Math.max(bytesFirst, this.#bytes.length * 2, length));
    this.#bytes.copy(grown, 0, 0, this.length);
    this.#bytes = grown;
  }
}
