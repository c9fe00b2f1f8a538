import { formatIpAddress, parseIpAddress } from '../ip-address.ts';
import type { Clock } from './clock.ts';

/** Failures that one network may have at once, and how many it earns back in a second. */
const attemptsBurst = 60;
const attemptsPerSecond = 1;
/** Networks remembered; beyond, the one that failed longest ago is forgotten. */
const networksMax = 10_000;
/** One customer of a provider holds a network of this size and every address in it. */
const ipv6PrefixBits = 64n;

interface Bucket {
  credit: number;
  /** Monotonic, milliseconds. */
  at: number;
}

/**
 * Counts failed authentications by the network they come from, each a bucket that fills again with time. Knows nothing
 * of what was tried. A network is often shared, so whoever asks decides what still passes where it is over its limit.
 * An address that is not known (null) has no limit: it would be everybody's.
 */
export class FailedAttempts {
  readonly #clock: Clock;
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: { readonly clock: Clock }) {
    this.#clock = options.clock;
  }

  /** Whether further failures from this address are beyond the limit now. */
  isOver(address: string | null): boolean {
    const network = networkOf(address);
    const bucket = network === undefined ? undefined : this.#buckets.get(network);
    return bucket !== undefined && this.#creditOf(bucket) < 1;
  }

  /** Counts a failure. */
  failed(address: string | null): void {
    this.#change(networkOf(address), -1);
    if (this.#buckets.size <= networksMax) return;
    for (const oldest of this.#buckets.keys()) {
      this.#buckets.delete(oldest);
      break;
    }
  }

  /** Takes back a failure that was counted in advance. */
  forgive(address: string | null): void {
    const network = networkOf(address);
    if (network !== undefined && this.#buckets.has(network)) this.#change(network, 1);
  }

  #change(network: string | undefined, by: number): void {
    if (network === undefined) return;
    const bucket = this.#buckets.get(network);
    const credit = Math.max(0, (bucket === undefined ? attemptsBurst : this.#creditOf(bucket)) + by);
    this.#buckets.delete(network);
    this.#buckets.set(network, { credit, at: this.#clock.monotonic() });
  }

  #creditOf({ credit, at }: Bucket): number {
    return Math.min(attemptsBurst, credit + ((this.#clock.monotonic() - at) / 1_000) * attemptsPerSecond);
  }
}

function networkOf(address: string | null): string | undefined {
  const parsed = address === null ? undefined : parseIpAddress(address);
  if (parsed === undefined) return undefined;
  if (parsed.family === 4) return formatIpAddress(parsed);
  return formatIpAddress({ family: 6, value: (parsed.value >> ipv6PrefixBits) << ipv6PrefixBits });
}
