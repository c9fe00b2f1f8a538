/**
 * A DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019): counts of positive numbers in buckets whose bounds grow by a
 * constant factor, so that any quantile is within 1 % of the true value, and two sketches merge into exactly the sketch
 * of both data sets.
 */
const relativeError = 0.01;
const gamma = (1 + relativeError) / (1 - relativeError);
const logGamma = Math.log(gamma);
/** Smaller values count as 0; larger ones as this. With the factor above that leaves at most 1,383 buckets. */
const valueMin = 1e-3;
const valueMax = 1e9;
const indexMin = Math.ceil(Math.log(valueMin) / logGamma);
const indexMax = Math.ceil(Math.log(valueMax) / logGamma);

export class Sketch {
  #zeros = 0;
  #count = 0;
  readonly #buckets = new Map<number, number>();

  get count(): number {
    return this.#count;
  }

  /** Counts one value; negative ones and NaN count as 0. */
  add(value: number): void {
    this.#count += 1;
    if (!(value >= valueMin)) {
      this.#zeros += 1;
      return;
    }
    const index = Math.ceil(Math.log(Math.min(value, valueMax)) / logGamma);
    this.#buckets.set(index, (this.#buckets.get(index) ?? 0) + 1);
  }

  merge(other: Sketch): void {
    this.#count += other.#count;
    this.#zeros += other.#zeros;
    for (const [index, count] of other.#buckets) this.#buckets.set(index, (this.#buckets.get(index) ?? 0) + count);
  }

  /** @param fraction 0.5 for the median; undefined when nothing was counted */
  quantile(fraction: number): number | undefined {
    if (this.#count === 0) return undefined;
    let before = this.#zeros;
    const rank = Math.min(Math.max(fraction, 0), 1) * (this.#count - 1);
    if (rank < before) return 0;
    for (const [index, count] of this.#sorted()) {
      before += count;
      if (rank < before) return (2 * gamma ** index) / (gamma + 1);
    }
    return valueMax;
  }

  /** JSON text `[zeros, index, count, index step, count, …]`. */
  serialize(): string {
    const numbers = [this.#zeros];
    let last = 0;
    for (const [index, count] of this.#sorted()) {
      numbers.push(index - last, count);
      last = index;
    }
    return JSON.stringify(numbers);
  }

  /** The sketch of a serialized one; undefined when the text is none. */
  static parse(text: string): Sketch | undefined {
    const numbers = parseNumbers(text);
    if (numbers === undefined || numbers.length % 2 !== 1) return undefined;
    const sketch = new Sketch();
    sketch.#zeros = numbers[0] ?? 0;
    sketch.#count = sketch.#zeros;
    let index = 0;
    for (let at = 1; at < numbers.length; at += 2) {
      const step = numbers[at] ?? 0;
      const count = numbers[at + 1] ?? 0;
      index += step;
      if ((at > 1 && step <= 0) || count <= 0 || index < indexMin || index > indexMax) return undefined;
      sketch.#buckets.set(index, count);
      sketch.#count += count;
    }
    return sketch.#zeros < 0 || !Number.isSafeInteger(sketch.#count) ? undefined : sketch;
  }

  #sorted(): readonly (readonly [number, number])[] {
    return [...this.#buckets].sort(([a], [b]) => a - b);
  }
}

function parseNumbers(text: string): readonly number[] | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!Array.isArray(value)) return undefined;
  return value.every((item): item is number => Number.isSafeInteger(item)) ? value : undefined;
}
