/**
 * Things held for principals, in the order of their last use. What is bounded for all is shared fairly this way: whoever
 * holds most gives way first, so that nobody's things make those of others go.
 */
export class FairShares<T> {
  readonly #byOwner = new Map<string, Map<string, T>>();
  readonly #owners = new Map<string, string>();

  get size(): number {
    return this.#owners.size;
  }

  countOf(owner: string): number {
    return this.#byOwner.get(owner)?.size ?? 0;
  }

  ownerOf(key: string): string | undefined {
    return this.#owners.get(key);
  }

  /** The thing, which is used by that. */
  get(key: string): T | undefined {
    const owned = this.#byOwner.get(this.#owners.get(key) ?? '');
    const value = owned?.get(key);
    if (owned === undefined || value === undefined) return undefined;
    owned.delete(key);
    owned.set(key, value);
    return value;
  }

  set(owner: string, key: string, value: T): void {
    this.delete(key);
    const owned = this.#byOwner.get(owner) ?? new Map<string, T>();
    this.#byOwner.set(owner, owned.set(key, value));
    this.#owners.set(key, owner);
  }

  delete(key: string): T | undefined {
    const owner = this.#owners.get(key) ?? '';
    const owned = this.#byOwner.get(owner);
    const value = owned?.get(key);
    owned?.delete(key);
    if (owned?.size === 0) this.#byOwner.delete(owner);
    this.#owners.delete(key);
    return value;
  }

  /** Whoever holds most of all; undefined where nothing is held. */
  largest(): string | undefined {
    let most: string | undefined;
    for (const [owner, { size }] of this.#byOwner) if (most === undefined || size > this.countOf(most)) most = owner;
    return most;
  }

  /** What an owner holds, the one used longest ago first. */
  *heldBy(owner: string): Generator<readonly [key: string, value: T]> {
    for (const entry of this.#byOwner.get(owner) ?? []) yield entry;
  }

  /** Everything. */
  *values(): Generator<T> {
    for (const owned of this.#byOwner.values()) yield* owned.values();
  }
}
