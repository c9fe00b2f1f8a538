/** What an API key opens may be less than what its holder may do; both planes ask these functions. */
import { type Cidr, cidrContains, cidrCovers, parseCidr, parseIpAddress } from './ip-address.ts';
import type { ApiKeyServers } from './snapshot.ts';
import { selectorMatches } from './snapshot.ts';

/** Whether a key opens a server at all; whether its holder may use it, grants decide. Absent: every server. */
export function keyOpensServer(
  servers: ApiKeyServers | undefined,
  server: { readonly id: string; readonly labels: Readonly<Record<string, string>> },
): boolean {
  if (servers === undefined) return true;
  return 'ids' in servers ? servers.ids.includes(server.id) : selectorMatches(servers.labels, server.labels);
}

/** @throws Error where one of them is no CIDR: parsing a document has seen to it */
export function parseNetworks(networks: readonly string[]): readonly Cidr[] {
  return networks.map((text) => {
    const cidr = parseCidr(text);
    if (cidr === undefined) throw new Error(`${text} is no CIDR`);
    return cidr;
  });
}

/** An address that is not known, or is none, is in no network. */
export function isInNetworks(networks: readonly Cidr[], address: string | null): boolean {
  const parsed = address === null ? undefined : parseIpAddress(address);
  return parsed !== undefined && networks.some((network) => cidrContains(network, parsed));
}

/** Whether every address of `inner` is in some network of `outer`. */
export function networksCover(outer: readonly Cidr[], inner: readonly Cidr[]): boolean {
  return inner.every((network) => outer.some((one) => cidrCovers(one, network)));
}
