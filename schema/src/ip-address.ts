import { isIP } from 'node:net';

/** An address as a number, so that ranges are comparisons. */
export interface IpAddress {
  readonly family: 4 | 6;
  readonly value: bigint;
}

export interface Cidr {
  readonly family: 4 | 6;
  readonly base: bigint;
  readonly prefixLength: number;
}

const bits = { 4: 32, 6: 128 } as const;

function parseIpv4(text: string): bigint {
  return text.split('.').reduce((value, octet) => (value << 8n) | BigInt(octet), 0n);
}

function parseIpv6(text: string): bigint {
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  const low = dotted?.[2] === undefined ? undefined : parseIpv4(dotted[2]);
  const plain =
    dotted?.[1] === undefined || low === undefined
      ? text
      : `${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  const [head = '', tail] = plain.split('::');
  const groups = (part: string): readonly string[] => (part === '' ? [] : part.split(':'));
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0');
  return [...before, ...zeros, ...after].reduce((value, group) => (value << 16n) | BigInt(`0x${group}`), 0n);
}

/** An IPv4 or IPv6 address without brackets; undefined when it is none or carries a zone (`fe80::1%eth0`). */
export function parseIpAddress(text: string): IpAddress | undefined {
  const family = text.includes('%') ? 0 : isIP(text);
  if (family === 4) return { family: 4, value: parseIpv4(text) };
  if (family === 6) return { family: 6, value: parseIpv6(text) };
  return undefined;
}

/** `10.0.0.0/8` or `fd00::/8`; undefined when it is not of that form. Host bits are cleared. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^(.+)\/(\d{1,3})$/.exec(text);
  const address = match?.[1] === undefined ? undefined : parseIpAddress(match[1]);
  const prefixLength = Number(match?.[2]);
  if (address === undefined || prefixLength > bits[address.family]) return undefined;
  const hostBits = BigInt(bits[address.family] - prefixLength);
  return { family: address.family, base: (address.value >> hostBits) << hostBits, prefixLength };
}

export function cidrContains(cidr: Cidr, address: IpAddress): boolean {
  if (cidr.family !== address.family) return false;
  const hostBits = BigInt(bits[cidr.family] - cidr.prefixLength);
  return address.value >> hostBits === cidr.base >> hostBits;
}

/** True when every address of `inner` is in `outer`. */
export function cidrCovers(outer: Cidr, inner: Cidr): boolean {
  return outer.prefixLength <= inner.prefixLength && cidrContains(outer, { family: inner.family, value: inner.base });
}

/** Dotted for IPv4, uncompressed groups for IPv6: for messages to operators. */
export function formatIpAddress(address: IpAddress): string {
  const [groups, width, radix, separator] = address.family === 4 ? [4, 8n, 10, '.'] : [8, 16n, 16, ':'];
  const mask = (1n << width) - 1n;
  return Array.from({ length: groups }, (_, index) =>
    ((address.value >> (BigInt(groups - 1 - index) * width)) & mask).toString(radix),
  ).join(separator);
}

function cidr(text: string): Cidr {
  const parsed = parseCidr(text);
  if (parsed === undefined) throw new Error(`not a CIDR: ${text}`);
  return parsed;
}

/**
 * Addresses that hand out credentials of the machine to whoever asks: instance metadata and its relatives of AWS,
 * Google, Azure, Oracle, Alibaba, Tencent, Scaleway and OpenStack. No allow-list opens them.
 */
const metadataRanges: readonly Cidr[] = [
  '169.254.169.0/24',
  '169.254.170.0/24',
  '169.254.0.23/32',
  '169.254.10.10/32',
  '169.254.42.42/32',
  '100.100.100.200/32',
  '168.63.129.16/32',
  '192.0.0.192/32',
  'fd00:ec2::/32',
  'fd00:42::42/128',
  'fd20:ce::254/128',
  'fe80::a9fe:a9fe/128',
].map(cidr);

/** Not reachable from the public Internet, with the words an operator knows each by (IANA special-purpose registries). */
const reservedRanges: readonly (readonly [Cidr, string])[] = (
  [
    ['0.0.0.0/8', 'unspecified'],
    ['10.0.0.0/8', 'private'],
    ['100.64.0.0/10', 'carrier-grade NAT'],
    ['127.0.0.0/8', 'loopback'],
    ['169.254.0.0/16', 'link-local'],
    ['172.16.0.0/12', 'private'],
    ['192.0.0.0/24', 'reserved'],
    ['192.0.2.0/24', 'documentation'],
    ['192.88.99.0/24', 'reserved'],
    ['192.168.0.0/16', 'private'],
    ['198.18.0.0/15', 'benchmarking'],
    ['198.51.100.0/24', 'documentation'],
    ['203.0.113.0/24', 'documentation'],
    ['224.0.0.0/4', 'multicast'],
    ['240.0.0.0/4', 'reserved'],
    ['::/128', 'unspecified'],
    ['::1/128', 'loopback'],
    ['64:ff9b:1::/48', 'local NAT64'],
    ['100::/64', 'discard'],
    ['2001:2::/48', 'benchmarking'],
    ['2001::/23', 'reserved'],
    ['2001:db8::/32', 'documentation'],
    ['2002::/16', '6to4'],
    ['3fff::/20', 'documentation'],
    ['fc00::/7', 'private'],
    ['fe80::/10', 'link-local'],
    ['fec0::/10', 'site-local'],
    ['ff00::/8', 'multicast'],
  ] as const
).map(([range, name]) => [cidr(range), name]);

const globalUnicast = cidr('2000::/3');

/**
 * Where an IPv6 range carries IPv4 addresses: the shift of each of them, whether the bits are inverted, and whether
 * the outer address is nothing but a way of writing the inner one.
 */
const embeddings = (
  [
    ['::ffff:0:0/96', 0n, false, true],
    ['::/96', 0n, false, true],
    ['::ffff:0:0:0/96', 0n, false, true],
    ['64:ff9b::/96', 0n, false, true],
    ['64:ff9b:1::/48', 0n, false, false],
    ['2002::/16', 80n, false, false],
    ['2001::/32', 64n, false, false],
    ['2001::/32', 0n, true, false],
  ] as const
).map(([range, shift, inverted, transparent]) => ({ range: cidr(range), shift, inverted, transparent }));

/** The IPv4 addresses an IPv6 address stands for, with ISATAP's (interface identifier `5efe`) among them. */
function embeddedIn(address: IpAddress): { readonly inner: readonly IpAddress[]; readonly transparent: boolean } {
  if (address.family === 4 || address.value <= 1n) return { inner: [], transparent: false };
  const found = embeddings.filter((embedding) => cidrContains(embedding.range, address));
  const inner = found.map(({ shift, inverted }): IpAddress => {
    const low = (address.value >> shift) & 0xffff_ffffn;
    return { family: 4, value: inverted ? low ^ 0xffff_ffffn : low };
  });
  if (((address.value >> 32n) & 0xfcff_ffffn) === 0x5efen)
    inner.push({ family: 4, value: address.value & 0xffff_ffffn });
  return { inner, transparent: found.some((embedding) => embedding.transparent) };
}

/**
 * What keeps an address from being dialled. `metadata`: never. Else `parts` names each address, the outer or one
 * embedded in it, that lies in a range the public Internet does not reach; all of them must be allowed to dial it.
 */
export interface AddressVerdict {
  readonly metadata: boolean;
  readonly parts: readonly { readonly address: IpAddress; readonly range: string }[];
}

function reservedRange(address: IpAddress): string | undefined {
  const found = reservedRanges.find(([range]) => cidrContains(range, address));
  if (found !== undefined) return found[1];
  return address.family === 6 && !cidrContains(globalUnicast, address) ? 'reserved' : undefined;
}

export function classifyAddress(address: IpAddress): AddressVerdict {
  const { inner, transparent } = embeddedIn(address);
  const all = transparent ? inner : [address, ...inner];
  return {
    metadata: [address, ...inner].some((part) => metadataRanges.some((range) => cidrContains(range, part))),
    parts: all.flatMap((part) => {
      const range = reservedRange(part);
      return range === undefined ? [] : [{ address: part, range }];
    }),
  };
}

/** True when every address of the range is one that no allow-list opens. */
export function isMetadataRange(range: Cidr): boolean {
  return metadataRanges.some((metadata) => cidrCovers(metadata, range));
}
