import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { loneNode, type PeerLink, type PeerNotice } from './peer-link.ts';
import { SessionNews } from './session-news.ts';

const session = { sessionId: 's', principalId: 'p' };

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** Two nodes; what one tells reaches the other while they can reach each other. */
function pair() {
  const wire = { isUp: true, told: 0 };
  const nodes: SessionNews[] = [];
  const link = (self: number): PeerLink => ({
    ...loneNode(`node-${self}`),
    tell: (notice: PeerNotice) => {
      const other = nodes[1 - self];
      if (!wire.isUp || other === undefined) return Promise.resolve([`node-${1 - self}`]);
      wire.told += 1;
      if (notice.kind === 'session') other.heard(notice, notice.told, notice.isWhole);
      return Promise.resolve([]);
    },
    askSession: (name) => {
      if (!wire.isUp) return Promise.resolve({ known: [], unreached: 1 });
      const known = nodes[1 - self]?.states.whole(name);
      return Promise.resolve({ known: known === undefined ? [] : [known], unreached: 0 });
    },
  });
  const one = new SessionNews(link(0), () => Date.now());
  const other = new SessionNews(link(1), () => Date.now());
  nodes.push(one, other);
  return { wire, one, other };
}

test('a node that was not reached is told again until it is, and no more then', async () => {
  const { wire, one, other } = pair();
  one.begin(session);
  wire.isUp = false;
  await one.change(session, { kind: 'logLevel', level: 'error' });
  await one.change(session, { kind: 'subscribe', uri: 'file://a' });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(other.states.get('s').logLevel).toBeNull();
  wire.isUp = true;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(other.states.get('s')).toMatchObject({ logLevel: 'error', subscriptions: ['file://a'] });
  const { told } = wire;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(wire.told).toBe(told);
  one.close();
});

test('a node that reaches nobody knows that it does not know, and asks again later', async () => {
  const { wire, one, other } = pair();
  wire.isUp = false;
  one.begin(session);
  await one.change(session, { kind: 'logLevel', level: 'error' });
  expect((await other.of(session)).knowledge).toBe('unsure');
  wire.isUp = true;
  vi.setSystemTime(Date.now() + 6_000);
  expect(await other.of(session)).toMatchObject({ knowledge: 'whole', state: { logLevel: 'error' } });
  one.close();
});

test('a session that nobody knows is lost, and nobody else can take it for his own', async () => {
  const { one, other } = pair();
  expect((await other.of(session)).knowledge).toBe('lost');
  one.begin(session);
  expect((await other.of({ ...session, principalId: 'another' })).knowledge).toBe('lost');
  expect((await other.of(session)).knowledge).toBe('whole');
});
