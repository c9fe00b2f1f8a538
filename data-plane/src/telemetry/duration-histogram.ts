import { Histogram, type Registry } from 'prom-client';

export interface DurationHistogramOptions {
  readonly name: string;
  readonly help: string;
  /** Upper bounds in seconds, ascending. */
  readonly buckets: readonly number[];
  /** The one label there is; none where absent. */
  readonly label?: string;
  readonly registry: Registry;
}

interface Series {
  /** By bucket; the last is of what exceeds all bounds. */
  readonly counts: number[];
  sum: number;
}

/**
 * A histogram of prom-client that counts in plain arrays: to look for labels and bounds in objects, at each of several
 * observations a call, would cost more than all else that is measured of it. Shows what a `Histogram` shows.
 */
export class DurationHistogram extends Histogram {
  readonly #name: string;
  readonly #help: string;
  readonly #buckets: readonly number[];
  readonly #label: string | undefined;
  /** By the label's value. */
  readonly #series = new Map<string, Series>();

  constructor({ name, help, buckets, label, registry }: DurationHistogramOptions) {
    super({ name, help, buckets: [...buckets], registers: [registry] });
    this.#name = name;
    this.#help = help;
    this.#buckets = buckets;
    this.#label = label;
    // Without a label there is one series, which is shown from the beginning.
    if (label === undefined) this.#add('');
  }

  /** @param labelled the label's value, where there is a label */
  count(seconds: number, labelled = ''): void {
    const series = this.#series.get(labelled) ?? this.#add(labelled);
    const buckets = this.#buckets;
    let at = 0;
    while (at < buckets.length && seconds > (buckets[at] ?? 0)) at++;
    series.counts[at] = (series.counts[at] ?? 0) + 1;
    series.sum += seconds;
  }

  #add(labelled: string): Series {
    const series: Series = { counts: Array.from({ length: this.#buckets.length + 1 }, () => 0), sum: 0 };
    this.#series.set(labelled, series);
    return series;
  }

  /** What prom-client asks for at each scrape; not in its types. */
  getForPromString(): Promise<unknown> {
    const values = [...this.#series].flatMap(([labelled, series]) => this.#shown(labelled, series));
    return Promise.resolve({ name: this.#name, help: this.#help, type: 'histogram', values, aggregator: 'sum' });
  }

  #shown(labelled: string, { counts, sum }: Series) {
    const shared = () => (this.#label === undefined ? {} : { [this.#label]: labelled });
    let total = 0;
    const buckets = counts.map((count, at) => {
      total += count;
      const labels = { le: this.#buckets[at] ?? '+Inf' };
      return { metricName: `${this.#name}_bucket`, labels, sharedLabels: shared(), value: total };
    });
    return [
      ...buckets,
      { metricName: `${this.#name}_sum`, labels: {}, sharedLabels: shared(), value: sum },
      { metricName: `${this.#name}_count`, labels: {}, sharedLabels: shared(), value: total },
    ];
  }
}
