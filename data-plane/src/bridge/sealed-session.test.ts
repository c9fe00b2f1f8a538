import { AppError } from '@sallyport/schema';
import { describe, expect, test } from 'vitest';
import { type OpenedSession, openSession, sealSession, sessionTokenBytesMax } from './sealed-session.ts';

const key = (id: string, fill: number) => ({ id, secret: Buffer.alloc(32, fill) });
const keyring = (seal: ReturnType<typeof key>, ...others: ReturnType<typeof key>[]) => ({
  sealing: { seal, open: new Map([seal, ...others].map((entry) => [entry.id, entry])) },
});
const first = key('k1', 1);
const second = key('k2', 2);
const session: OpenedSession = {
  upstreamSessionId: '5f0c-upstream',
  principalId: 'alice',
  principalEpoch: 3,
  serverId: 'server-1',
  protocolRevision: '2025-11-25',
  clientInfo: 'ide/1.0',
  expiresAt: 10_000,
  client: null,
};
const expected = { principalId: 'alice', principalEpoch: 3, serverId: 'server-1', nowMs: 5_000 };

function codeOf(token: string, change: Partial<typeof expected> = {}, runtime = keyring(first)): string {
  try {
    openSession(runtime, token, { ...expected, ...change });
    return 'opened';
  } catch (error) {
    return error instanceof AppError ? error.code : 'thrown';
  }
}

describe('a sealed session', () => {
  const token = sealSession(keyring(first), session);

  test('opens to what was sealed, and is visible ASCII within its limit', () => {
    expect(openSession(keyring(first), token, expected)).toEqual(session);
    expect(token).toMatch(/^[\x21-\x7e]+$/);
    expect(token).not.toContain('upstream');
    expect(token.length).toBeLessThan(sessionTokenBytesMax);
  });

  test.each([
    ['another principal', { principalId: 'bob' }],
    ['a principal whose epoch was raised', { principalEpoch: 4 }],
    ['another server', { serverId: 'server-2' }],
    ['a time after its expiry', { nowMs: 10_000 }],
  ])('does not open for %s', (_who, change) => {
    expect(codeOf(token, change)).toBe('SESSION_NOT_FOUND');
  });

  test('does not open when any one character is changed, cut or added [P25]', () => {
    // Not the last character of Base64: it may carry bits that decode to nothing.
    for (let at = 0; at < token.length - 1; at++) {
      const other = token[at] === 'A' ? 'B' : 'A';
      expect(codeOf(`${token.slice(0, at)}${other}${token.slice(at + 1)}`)).toBe('SESSION_NOT_FOUND');
    }
    for (const text of ['', '.', 'k1.', 'k1', `${token}AAAA`, token.slice(0, -4), 'x'.repeat(10_000), '\0', 'é']) {
      expect(codeOf(text)).toBe('SESSION_NOT_FOUND');
    }
  });

  test('opens with any published key, before and after that key seals, and not once it is withdrawn', () => {
    expect(codeOf(token, {}, keyring(first, second))).toBe('opened');
    expect(codeOf(token, {}, keyring(second, first))).toBe('opened');
    expect(codeOf(token, {}, keyring(second))).toBe('SESSION_NOT_FOUND');
  });

  test.each(['', 'a b', 'tab\t', 'é', 'x'.repeat(3_000)])('is not made of the upstream id %j', (upstreamSessionId) => {
    expect(() => sealSession(keyring(first), { ...session, upstreamSessionId })).toThrow(AppError);
  });
});
