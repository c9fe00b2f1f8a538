import { defaultLimits } from '@sallyport/schema';
import { expect, test } from 'vitest';
import type { UpstreamRequest, UpstreamResponse } from './connections.ts';
import { HttpSseUpstreams, sessionsPerPrincipalMax } from './http-sse-upstreams.ts';
import { TranslatedResponse } from './translated-response.ts';

/** An upstream whose streams answer `initialize` and nothing else. */
function connections() {
  const streams: TranslatedResponse[] = [];
  const send = async (request: UpstreamRequest): Promise<UpstreamResponse> => {
    if (request.method === 'GET') {
      const stream = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => undefined });
      streams.push(stream);
      const next = stream.next.bind(stream);
      let isFirst = true;
      stream.next = () => {
        if (!isFirst) return next();
        isFirst = false;
        return Promise.resolve(Buffer.from('event: endpoint\ndata: /message\n\n'));
      };
      return stream;
    }
    const { id, method } = JSON.parse(request.body?.toString() ?? '{}') as { id: number; method: string };
    if (method === 'initialize') await streams.at(-1)?.write({ jsonrpc: '2.0', id, result: {} });
    return TranslatedResponse.bare(202);
  };
  return { send };
}

function requestOf(principalId: string, message: object, sessionId?: string): UpstreamRequest {
  return {
    transport: 'httpSse',
    credential: null,
    principalId,
    url: new URL('http://127.0.0.1/sse'),
    method: 'POST',
    headers: sessionId === undefined ? [] : ['mcp-session-id', sessionId],
    body: Buffer.from(JSON.stringify(message)),
    firstByteTimeoutMs: 1_000,
    totalTimeoutMs: 60_000,
    beforeWrite: () => undefined,
  };
}

test('a principal has no more sessions than his share: an unused one makes room, and one in use does not', async () => {
  const limits = () => defaultLimits;
  const clock = { monotonic: () => 0 };
  const upstreams = new HttpSseUpstreams({ connections: connections(), nodeId: 'node', limits, clock });
  const open = async (principalId: string): Promise<string> => {
    const initialize = { jsonrpc: '2.0', id: 0, method: 'initialize' };
    const response = await upstreams.send(requestOf(principalId, initialize), null);
    return response.header('mcp-session-id') ?? '';
  };
  const modest = await open('modest');
  const sessions: string[] = [];
  for (let at = 0; at <= sessionsPerPrincipalMax; at++) sessions.push(await open('greedy'));
  expect(upstreams.size).toBe(sessionsPerPrincipalMax + 1);
  const use = (principalId: string, id: string) =>
    upstreams.send(requestOf(principalId, { jsonrpc: '2.0', method: 'notifications/x' }, id), null);
  expect((await use('greedy', sessions[0] ?? '')).status).toBe(404);
  expect((await use('modest', modest)).status).toBe(202);
  const calls = sessions
    .slice(1)
    .map((id) => upstreams.send(requestOf('greedy', { id: 1, method: 'tools/call' }, id), null));
  await expect(open('greedy')).rejects.toMatchObject({ code: 'RATE_LIMITED' });
  expect(await open('another')).not.toBe('');
  upstreams.close();
  expect((await Promise.allSettled(calls)).every(({ status }) => status === 'rejected')).toBe(true);
});
