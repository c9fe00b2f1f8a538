import { formatIpAddress, parseIpAddress } from '../ip-address.ts';
import { Buckets } from './buckets.ts';
import type { Clock } from './clock.ts';

/** Failures that one network may have at once, and how many it earns back in a second. */
const attemptsBurst = 60;
const attemptsPerSecond = 1;
/** Networks remembered; beyond, the one that failed longest ago is forgotten. */
const networksMax = 10_000;
/** One customer of a provider holds a network of this size and every address in it. */
const ipv6PrefixBits = 64n;

/**
 * Counts failed authentications by the network they come from, each a bucket that fills again with time. Knows nothing
 * of what was tried. A network is often shared, so whoever asks decides what still passes where it is over its limit.
 * An address that is not known (null) has no limit: it would be everybody's.
 */
export class FailedAttempts {
  readonly #buckets: Buckets;

  constructor(options: { readonly clock: Clock }) {
    const rate = { burst: attemptsBurst, perSecond: attemptsPerSecond, keysMax: networksMax };
    this.#buckets = new Buckets({ clock: options.clock, ...rate });
  }

  /** Whether further failures from this address are beyond the limit now. */
  isOver(address: string | null): boolean {
    const network = networkOf(address);
    return network !== undefined && this.#buckets.creditOf(network) < 1;
  }

  /** Counts a failure. */
  failed(address: string | null): void {
    const network = networkOf(address);
    if (network !== undefined) this.#buckets.change(network, -1);
  }

  /** Takes back a failure that was counted in advance. */
  forgive(address: string | null): void {
    const network = networkOf(address);
    if (network !== undefined && this.#buckets.has(network)) this.#buckets.change(network, 1);
  }
}

/** What is limited for an address: an IPv4 address, an IPv6 /64; undefined where it is not known. */
export function networkOf(address: string | null): string | undefined {
  const parsed = address === null ? undefined : parseIpAddress(address);
  if (parsed === undefined) return undefined;
  if (parsed.family === 4) return formatIpAddress(parsed);
  return formatIpAddress({ family: 6, value: (parsed.value >> ipv6PrefixBits) << ipv6PrefixBits });
}
