/** What has something to write at the end of the turn. */
export interface TurnWriter {
  /** Writes what it holds; nothing where that was written meanwhile. */
  flush(): void;
}

/**
 * Has what is answered in one turn of the event loop written at its end, one after the other. Whoever is woken by the
 * first of several answers finds the others as well: to wake it for each costs more than all else about a write.
 */
export class TurnEnd {
  #writers: TurnWriter[] = [];

  add(writer: TurnWriter): void {
    this.#writers.push(writer);
    if (this.#writers.length === 1) setImmediate(this.#flush);
  }

  readonly #flush = (): void => {
    const writers = this.#writers;
    this.#writers = [];
    for (const writer of writers) writer.flush();
  };
}
