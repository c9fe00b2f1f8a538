import { AppError } from '@sallyport/schema';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { parseMessage } from '../mcp/envelope.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import type { Authorized, Exchange } from './exchange.ts';
import { keepAliveIntervalMs, SseRelay } from './sse-relay.ts';

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

/** An upstream whose chunks the test gives. */
function source() {
  let waiting: { resolve: (chunk: Buffer | undefined) => void; reject: (error: unknown) => void } | undefined;
  const aborted: AppError[] = [];
  const response: UpstreamResponse = {
    status: 200,
    header: () => undefined,
    next: () =>
      new Promise((resolve, reject) => {
        waiting = { resolve, reject };
      }),
    collect: () => Promise.reject(new Error('not collected')),
    abort: (error) => {
      aborted.push(error);
      waiting?.reject(error);
    },
  };
  return {
    response,
    aborted,
    give: (text: string | undefined) => waiting?.resolve(text === undefined ? undefined : Buffer.from(text)),
  };
}

function relayOf(response: UpstreamResponse, era: 'modern' | 'legacy') {
  const message = parseMessage(Buffer.from('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}'));
  const exchange = { outcome: null, errorCode: null, rpcErrorCode: null } as unknown as Exchange;
  const received = { exchange, era, kind: 'message', message };
  const server = { document: { id: 'server', extensions: [] } };
  const authorized = { routed: { received, server }, rule: null, isAllowed: () => true } as unknown as Authorized;
  const said = { isError: false, rpcErrorCode: null, negotiated: null, withheld: [], listsChanged: false };
  const answered = {
    ...said,
    unapprovedView: undefined,
    isAcknowledgement: false,
    callId: null,
    answerId: 1,
    asks: [],
  };
  const relay = new SseRelay({
    response,
    authorized,
    eventBytesMax: 1000,
    screen: { screen: (bytes) => ({ ...answered, bytes, isAnswer: true, refusal: null, refusedId: null }) },
    refuse: null,
    onEnd: () => undefined,
  });
  return { relay, exchange };
}

const answer = 'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n';

test('a quiet stream gets a comment in time, again and again, and none between its own events [P13]', async () => {
  const { response, give } = source();
  const { relay } = relayOf(response, 'modern');
  for (let round = 0; round < 3; round++) {
    const quiet = relay.next();
    await vi.advanceTimersByTimeAsync(keepAliveIntervalMs);
    expect(String(await quiet)).toBe(':\n\n');
  }
  const spoken = relay.next();
  await vi.advanceTimersByTimeAsync(keepAliveIntervalMs - 1);
  give(answer);
  expect(String(await spoken)).toBe(answer);
  expect(keepAliveIntervalMs).toBeLessThanOrEqual(15_000);
});

test('what has come already is given at once, up to the end', async () => {
  const chunks = ['data: {"n":1}\n\nda', `ta: {"n":2}\n\n`, answer, undefined];
  const { response } = source();
  const next = () => {
    const chunk = chunks.shift();
    return chunk === undefined ? undefined : Buffer.from(chunk);
  };
  const { relay, exchange } = relayOf({ ...response, next }, 'modern');
  const given = [relay.next(), relay.next(), relay.next()];
  expect(given.map(String)).toEqual(['data: {"n":1}\n\n', 'data: {"n":2}\n\n', answer]);
  expect(relay.next()).toBeUndefined();
  expect(exchange.outcome).toBe('success');
  await relay.cancel();
});

test('an event that was begun is never cut by a comment', async () => {
  const { response, give } = source();
  const { relay } = relayOf(response, 'modern');
  const first = relay.next();
  give(answer.slice(0, 20));
  await vi.advanceTimersByTimeAsync(keepAliveIntervalMs);
  expect(String(await first)).toBe(':\n\n');
  const second = relay.next();
  await vi.advanceTimersByTimeAsync(0);
  give(answer.slice(20));
  expect(String(await second)).toBe(answer);
});

test('a modern call whose client is gone is ended; a legacy one is read to its end [P17]', async () => {
  const modern = source();
  const one = relayOf(modern.response, 'modern');
  const waiting = one.relay.next();
  await one.relay.cancel();
  expect(await waiting).toBeUndefined();
  expect(modern.aborted).toHaveLength(1);
  expect(one.exchange.outcome).toBe('aborted');

  const legacy = source();
  const other = relayOf(legacy.response, 'legacy');
  const reading = other.relay.next();
  const done = other.relay.cancel();
  expect(await reading).toBeUndefined();
  legacy.give(answer);
  await vi.advanceTimersByTimeAsync(0);
  legacy.give(undefined);
  await done;
  expect(legacy.aborted).toEqual([]);
  expect(other.exchange.outcome).toBe('success');
});

test('ending it from outside tells the waiting request why, once', async () => {
  const { response, aborted } = source();
  const { relay, exchange } = relayOf(response, 'modern');
  const waiting = relay.next();
  relay.end(new AppError('NOT_FOUND'));
  relay.end(new AppError('UNAUTHENTICATED'));
  expect(String(await waiting)).toContain('"code":1003');
  expect(await relay.next()).toBeUndefined();
  expect(aborted).toHaveLength(1);
  expect(exchange).toMatchObject({ outcome: 'refused', errorCode: 'NOT_FOUND' });
});
