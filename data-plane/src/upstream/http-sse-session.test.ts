import { expect, test } from 'vitest';
import { AppError } from '@sallyport/schema';
import { SseParser } from '../mcp/sse.ts';
import type { UpstreamRequest, UpstreamResponse } from './connections.ts';
import { HttpSseSession, unreadLengthMax } from './http-sse-session.ts';
import { TranslatedResponse } from './translated-response.ts';

const request: UpstreamRequest = {
  transport: 'httpSse',
  credential: null,
  principalId: 'p',
  url: new URL('http://127.0.0.1/sse'),
  method: 'POST',
  headers: [],
  body: null,
  firstByteTimeoutMs: 1_000,
  totalTimeoutMs: 1_000,
  beforeWrite: () => undefined,
};

test('a stream that breaks before a POST is answered fails that call, and nothing else', async () => {
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown): void => void rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  const posted = Promise.withResolvers<UpstreamResponse>();
  const stream = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => undefined });
  const session = new HttpSseSession({
    id: 'session',
    response: stream,
    parser: new SseParser(1_000),
    events: [],
    endpoint: request.url,
    opener: request,
    connections: { send: () => posted.promise },
    onClose: () => undefined,
  });
  const answer = session.post(request, { jsonrpc: '2.0', id: 1, method: 'tools/call' }, null);
  stream.fail(new AppError('UPSTREAM_UNREACHABLE'));
  await new Promise((resolve) => setTimeout(resolve, 20));
  posted.resolve(TranslatedResponse.bare(202));
  await expect(answer).rejects.toMatchObject({ code: 'UPSTREAM_UNREACHABLE' });
  process.off('unhandledRejection', onRejection);
  expect(rejections).toEqual([]);
});

test('several messages in one event are as many messages', async () => {
  const stream = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => undefined });
  const session = new HttpSseSession({
    id: 'session',
    response: stream,
    parser: new SseParser(1_000),
    events: [],
    endpoint: request.url,
    opener: request,
    connections: { send: () => Promise.resolve(TranslatedResponse.bare(202)) },
    onClose: () => undefined,
  });
  const answers = [1, 2].map((id) => session.post(request, { jsonrpc: '2.0', id, method: 'tools/list' }, null));
  await stream.writeText('[{"jsonrpc":"2.0","id":2,"result":{"n":1.0}}, {"jsonrpc":"2.0","id":1,"result":{}}]');
  const limits = { bytesMax: 1_000, idleTimeoutMs: 1_000 };
  const bodies = await Promise.all(answers.map(async (answer) => (await (await answer).collect(limits)).toString()));
  expect(bodies).toEqual(['{"jsonrpc":"2.0","id":1,"result":{}}', '{"jsonrpc":"2.0","id":2,"result":{"n":1.0}}']);
});

test('what nobody listens to is kept within bounds, the newest of it', async () => {
  const stream = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => undefined });
  const session = new HttpSseSession({
    id: 'session',
    response: stream,
    parser: new SseParser(unreadLengthMax),
    events: [],
    endpoint: request.url,
    opener: request,
    connections: { send: () => Promise.resolve(TranslatedResponse.bare(202)) },
    onClose: () => undefined,
  });
  const data = 'x'.repeat(unreadLengthMax / 4);
  for (let at = 0; at < 16; at++) {
    await stream.writeText(`{"jsonrpc":"2.0","method":"notifications/message","params":{"at":${at},"data":"${data}"}}`);
  }
  const answer = session.post(request, { jsonrpc: '2.0', id: 1, method: 'ping' }, null);
  await stream.writeText('{"jsonrpc":"2.0","id":1,"result":{}}');
  await answer;
  const listening = session.listen(null);
  let text = '';
  for (let chunk = await listening.next(); chunk !== undefined; chunk = await listening.next()) {
    text += chunk.toString();
    if (text.includes('"at":15')) break;
  }
  expect([...text.matchAll(/"at":(\d+)/g)].map(([, at]) => at)).toEqual(['13', '14', '15']);
});
