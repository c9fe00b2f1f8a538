import type { CredentialNeed, LentCredential, PrincipalRecord } from '@sallyport/schema';
import { afterEach, expect, test, vi } from 'vitest';
import type { ServerRuntime } from '../runtime/runtime.ts';
import { type CredentialSource, type UpstreamCredential, UpstreamCredentials } from './credentials.ts';

const server = {
  document: { id: 'server', credential: { mode: 'userOAuth', revision: 1 } },
  upstream: new URL('https://mcp.example/mcp'),
} as ServerRuntime;
const ada = { id: 'ada', epoch: 1 } as PrincipalRecord;
const lifeMs = 3_600_000;
const lent: LentCredential = {
  id: 'account',
  serverId: 'server',
  principalId: 'ada',
  issuer: 'https://login.example',
  resource: 'https://mcp.example/mcp',
  revision: 1,
  origin: 'https://mcp.example',
  headers: [['authorization', 'Bearer one']],
  expiresAt: lifeMs,
  renewable: true,
};
const notAccepted = { status: 401, challenge: null } as const;

type Lent = Awaited<ReturnType<CredentialSource['lend']>>;
const tokenNamed = (name: string, expiresAt = lifeMs): Lent => ({
  ok: true,
  credential: { ...lent, headers: [['authorization', `Bearer ${name}`]], expiresAt },
});

afterEach(() => void vi.useRealTimers());

test('a token that lacks scopes for one request goes on being that of the others of its user', async () => {
  const needs: CredentialNeed[] = [];
  const credentials = new UpstreamCredentials({
    lend: (need) => {
      needs.push(need);
      return Promise.resolve(
        need.refused === null
          ? ({ ok: true, credential: lent } as const)
          : ({ ok: false, problem: 'CONNECTION_NEEDED', connectUrl: null } as const),
      );
    },
    now: () => 0,
    runtime: () => undefined,
  });
  const sent = await credentials.forCall(server, ada);
  const challenge = 'Bearer error="insufficient_scope", scope="more"';
  const refused = credentials.refused(server, ada, sent, { status: 403, challenge });
  expect(credentials.forCall(server, ada)).toBe(sent);
  await expect(refused).rejects.toMatchObject({ code: 'CONNECTION_NEEDED' });
  expect(credentials.forCall(server, ada)).toBe(sent);
  expect(needs).toHaveLength(2);
  // One that is not accepted at all is nobody's any longer.
  const gone = credentials.refused(server, ada, sent, { status: 401, challenge: null });
  await expect(gone).rejects.toMatchObject({ code: 'CONNECTION_NEEDED' });
  expect(credentials.size).toBe(0);
  credentials.close();
});

test('a token refused while it is renewed ahead of its end is replaced, whatever that renewal brings', async () => {
  let now = 0;
  const waiting: { readonly need: CredentialNeed; readonly answer: (lent: Lent) => void }[] = [];
  const credentials = new UpstreamCredentials({
    lend: (need) => new Promise((answer) => waiting.push({ need, answer })),
    now: () => now,
    runtime: () => undefined,
  });
  const first = credentials.forCall(server, ada);
  waiting.shift()?.answer(tokenNamed('one'));
  const sent = await first;
  now = lifeMs - 30_000;
  expect(await credentials.forCall(server, ada)).toBe(sent);
  const [ahead] = waiting;
  expect(ahead?.need.refused).toBeNull();
  // Two calls under way hear that it is not good any more; what was asked for before did not say so.
  const refusals = [1, 2].map(() => credentials.refused(server, ada, sent, notAccepted));
  waiting.shift()?.answer(tokenNamed('one'));
  await vi.waitFor(() => expect(waiting).toHaveLength(1));
  expect(waiting[0]?.need.refused).toMatchObject({ status: 401, expiresAt: lifeMs });
  waiting.shift()?.answer(tokenNamed('two', 2 * lifeMs));
  for (const other of await Promise.all(refusals)) expect(other?.headers).toEqual(['authorization', 'Bearer two']);
  expect(waiting).toHaveLength(0);
  credentials.close();
});

test('whoever lacks scopes keeps nobody from the token that others wait for', async () => {
  const needs: CredentialNeed[] = [];
  let isEnded = false;
  const credentials = new UpstreamCredentials({
    lend: async (need) => {
      needs.push(need);
      await Promise.resolve();
      return need.refused === null
        ? tokenNamed(`${needs.length}`)
        : { ok: false, problem: 'CONNECTION_NEEDED', connectUrl: null };
    },
    now: () => (isEnded ? lifeMs : 0),
    runtime: () => undefined,
  });
  const sent = await credentials.forCall(server, ada);
  isEnded = true;
  const challenge = 'Bearer error="insufficient_scope", scope="more"';
  const stepUp = credentials.refused(server, ada, sent, { status: 403, challenge });
  const other = credentials.forCall(server, ada);
  await expect(stepUp).rejects.toMatchObject({ code: 'CONNECTION_NEEDED' });
  expect((await other).headers).toEqual(['authorization', 'Bearer 3']);
  credentials.close();
});

test('an upstream that refuses every token costs a few requests for one, then one in ever longer times', async () => {
  let now = 0;
  let asked = 0;
  const credentials = new UpstreamCredentials({
    lend: () => Promise.resolve(tokenNamed(`${++asked}`, lifeMs + asked)),
    now: () => now,
    runtime: () => undefined,
  });
  /** A call of which the upstream refuses whatever it is sent. */
  const refusedCall = async (): Promise<UpstreamCredential | undefined> =>
    credentials.refused(server, ada, await credentials.forCall(server, ada), notAccepted);
  const ofSeconds = async (seconds: number): Promise<number> => {
    const before = asked;
    for (const end = now + seconds * 1_000; now < end; now += 100) await refusedCall();
    return asked - before;
  };
  for (let call = 0; call < 20; call++) await refusedCall();
  // The one that it began with, and three in its place.
  expect(asked).toBe(4);
  expect(await refusedCall()).toBeUndefined();
  // After 1, 2, 4, 8, 16 and 32 seconds more.
  expect(await ofSeconds(64)).toBe(6);
  expect(await ofSeconds(1_200)).toBeLessThan(8);
  // The upstream came to itself; that a token is taken back a day later is no matter.
  now += 24 * lifeMs;
  const before = asked;
  expect(await refusedCall()).toMatchObject({ headers: ['authorization', `Bearer ${asked}`] });
  expect(asked).toBe(before + 2);
  credentials.close();
});

test('a token is out of the memory of a node within five seconds of its end', async () => {
  vi.useFakeTimers({ toFake: ['setInterval'] });
  let now = 0;
  const credentials = new UpstreamCredentials({
    lend: ({ principalId }) => {
      const lives = principalId === 'ada' ? lifeMs : 2 * lifeMs;
      return Promise.resolve({ ok: true, credential: { ...lent, principalId, expiresAt: lives } });
    },
    now: () => now,
    runtime: () => undefined,
  });
  await credentials.forCall(server, ada);
  await credentials.forCall(server, { id: 'bob', epoch: 1 } as PrincipalRecord);
  now = lifeMs - 1;
  vi.advanceTimersByTime(5_000);
  expect(credentials.size).toBe(2);
  // Nobody calls any more.
  now = lifeMs;
  vi.advanceTimersByTime(5_000);
  expect(credentials.size).toBe(1);
  now = 2 * lifeMs;
  vi.advanceTimersByTime(5_000);
  expect(credentials.size).toBe(0);
  credentials.close();
});
