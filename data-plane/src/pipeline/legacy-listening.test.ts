import { AppError, defaultLimits } from '@sallyport/schema';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { freshSession } from '../bridge/session-state.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';
import type { BridgedExchange } from './bridge.ts';
import { openLegacyListening } from './legacy-listening.ts';
import { ListPolls } from './list-polls.ts';
import { loneNode } from './peer-link.ts';
import { SessionNews } from './session-news.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const acknowledgedMsMax = 10_000;
const session = { sessionId: 's', principalId: 'p' };
const acknowledged = { jsonrpc: '2.0', method: 'notifications/subscriptions/acknowledged', params: {} };
const changed = { jsonrpc: '2.0', method: 'notifications/tools/list_changed' };

/** A client's GET at a server whose listens a test answers, each as an open stream. */
function listening() {
  const listens: { readonly stream: TranslatedResponse; isOpen: boolean }[] = [];
  const connections = {
    send: (_request: unknown, cancelled: AbortSignal | null) => {
      const stream = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => undefined });
      const listen = { stream, isOpen: true };
      listens.push(listen);
      cancelled?.addEventListener('abort', () => {
        listen.isOpen = false;
        stream.fail(new AppError('UPSTREAM_UNREACHABLE', { internal: 'cancelled' }));
      });
      return Promise.resolve(stream);
    },
  };
  const news = new SessionNews(loneNode('node-1'), () => Date.now());
  news.begin(session);
  // What listening looks at of an exchange.
  const routed = {
    received: { exchange: { eventId: 'e', upstreamRequests: null }, request: { signal: new AbortController().signal } },
    server: { upstream: new URL('http://127.0.0.1/mcp'), document: { id: 'server' } },
    runtime: { limits: defaultLimits },
    authenticated: { principal: { id: 'p', epoch: 0 } },
  };
  const exchange = { authorized: { routed }, headers: [], beforeWrite: () => undefined, timeoutMs: 3_600_000 };
  const client = { capabilities: {}, info: null };
  const opening = openLegacyListening(
    exchange as unknown as BridgedExchange,
    { ...session, client, state: freshSession, knowledge: 'whole' },
    { connections, news, polls: new ListPolls() },
  );
  return { listens, news, opening };
}

test('a server that never acknowledges the first listen gives its client an error in time', async () => {
  const { listens, opening } = listening();
  const failure = opening.then(
    () => undefined,
    (error: unknown) => error,
  );
  await vi.advanceTimersByTimeAsync(acknowledgedMsMax - 1);
  expect(listens.map(({ isOpen }) => isOpen)).toEqual([true]);
  await vi.advanceTimersByTimeAsync(1);
  expect(await failure).toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
  expect(listens.map(({ isOpen }) => isOpen)).toEqual([false]);
});

test('a later listen that is never acknowledged is made again, and the one before tells meanwhile', async () => {
  const { listens, news, opening } = listening();
  await vi.advanceTimersByTimeAsync(0);
  await listens[0]?.stream.write(acknowledged);
  const response = await opening;
  await vi.advanceTimersByTimeAsync(1_000);
  await news.change(session, { kind: 'subscribe', uri: 'file://a' });
  await vi.advanceTimersByTimeAsync(0);
  expect(listens.map(({ isOpen }) => isOpen)).toEqual([true, true]);
  await vi.advanceTimersByTimeAsync(acknowledgedMsMax);
  expect(listens.slice(0, 2).map(({ isOpen }) => isOpen)).toEqual([true, false]);
  await listens[0]?.stream.write(changed);
  expect(String(await response.next())).toContain('notifications/tools/list_changed');
  await vi.advanceTimersByTimeAsync(1_000);
  expect(listens.map(({ isOpen }) => isOpen)).toEqual([true, false, true]);
  await listens[2]?.stream.write(acknowledged);
  await vi.advanceTimersByTimeAsync(0);
  expect(listens.map(({ isOpen }) => isOpen)).toEqual([false, false, true]);
  response.abort(new AppError('CANCELLED'));
  expect(listens.map(({ isOpen }) => isOpen)).toEqual([false, false, false]);
});
