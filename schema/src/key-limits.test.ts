import { expect, test } from 'vitest';
import { isInNetworks, keyOpensServer, networksCover, parseNetworks } from './key-limits.ts';

test('a key opens the servers it names, those with its labels, or every one', () => {
  const server = { id: 's1', labels: { team: 'crm', tier: 'one' } };
  expect(keyOpensServer(undefined, server)).toBe(true);
  expect(keyOpensServer({ ids: ['s2', 's1'] }, server)).toBe(true);
  expect(keyOpensServer({ ids: ['s2'] }, server)).toBe(false);
  expect(keyOpensServer({ labels: { team: 'crm' } }, server)).toBe(true);
  expect(keyOpensServer({ labels: { team: 'crm', tier: 'two' } }, server)).toBe(false);
});

test('an address is in a network or it is not; one that is unknown is in none', () => {
  const networks = parseNetworks(['10.0.0.0/8', '2001:db8::/32']);
  for (const address of ['10.1.2.3', '10.255.255.255', '2001:db8::1'])
    expect(isInNetworks(networks, address)).toBe(true);
  for (const address of ['11.0.0.1', '2001:db9::1', '::ffff:10.1.2.3', '10.1.2', '', null]) {
    expect(isInNetworks(networks, address)).toBe(false);
  }
});

test('networks cover others only where every address is in one of them', () => {
  const office = parseNetworks(['10.0.0.0/8']);
  expect(networksCover(office, parseNetworks(['10.1.0.0/16', '10.2.3.4/32']))).toBe(true);
  expect(networksCover(office, parseNetworks(['10.1.0.0/16', '11.0.0.0/8']))).toBe(false);
  expect(networksCover(office, parseNetworks(['0.0.0.0/0']))).toBe(false);
});

test('what is no network is refused', () => {
  expect(() => parseNetworks(['10.0.0.0'])).toThrow('no CIDR');
});
