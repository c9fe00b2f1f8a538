import { BlockList, isIP } from 'node:net';

/** Addresses and CIDRs of proxies, as one list to look into; undefined when an entry is neither. */
export function parseTrustedProxies(entries: readonly string[]): BlockList | undefined {
  const found = new BlockList();
  for (const entry of entries) {
    const [address = '', prefix] = entry.split('/');
    const family = isIP(address);
    const length = prefix === undefined ? (family === 6 ? 128 : 32) : Number(prefix);
    if (family === 0 || !Number.isInteger(length) || length < 0 || length > (family === 6 ? 128 : 32)) return undefined;
    found.addSubnet(address, length, family === 6 ? 'ipv6' : 'ipv4');
  }
  return found;
}

/**
 * Who asks: the last hop that is no trusted proxy; what a stranger claims of itself counts for nothing.
 * @param peer the other end of the connection
 * @param forwardedFor `X-Forwarded-For`, all its lines as one list
 */
export function clientAddress(
  peer: string | undefined,
  forwardedFor: string | undefined,
  trustedProxies: BlockList,
): string | null {
  const isTrusted = (address: string): boolean => {
    const family = isIP(address);
    return family !== 0 && trustedProxies.check(address, family === 6 ? 'ipv6' : 'ipv4');
  };
  let address = plainAddress(peer ?? '');
  for (const hop of forwardedFor?.split(',').reverse() ?? []) {
    if (!isTrusted(address)) break;
    const candidate = plainAddress(hop.trim());
    if (isIP(candidate) === 0) break;
    address = candidate;
  }
  return address === '' ? null : address;
}

/** An IPv4 address as such where the socket shows it mapped into IPv6. */
function plainAddress(address: string): string {
  return address.startsWith('::ffff:') && isIP(address.slice(7)) === 4 ? address.slice(7) : address;
}
