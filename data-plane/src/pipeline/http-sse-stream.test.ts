import { expect, test } from 'vitest';
import { AppError } from '@sallyport/schema';
import type { Authorized, ProxyResponse, Received } from './exchange.ts';
import { HttpSseStream } from './http-sse-stream.ts';

const received = {
  exchange: { outcome: null },
  request: { method: 'POST', headers: new Map<string, string>() },
  message: { kind: 'request', id: 1, method: 'tools/call' },
  body: Buffer.from('{}'),
  batch: null,
} as unknown as Received;
const authorized = { routed: { received } } as unknown as Authorized;

test('an answer that fails ends the stream of its client, and nothing else', async () => {
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown): void => void rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  const endings: boolean[] = [];
  // As of a server with strict audit whose record of the end does not get to the disk.
  const response: ProxyResponse = {
    status: 200,
    headers: [],
    body: { next: () => Promise.reject(new AppError('AUDIT_UNAVAILABLE')), cancel: () => Promise.resolve() },
    follower: { ended: (complete) => void endings.push(complete) },
  };
  let isOver = false;
  const stream = new HttpSseStream({
    authorized,
    handle: () => Promise.resolve(response),
    onEnd: () => (isOver = true),
  });
  expect((await stream.post(received)).status).toBe(202);
  expect(await stream.next()).toBeUndefined();
  await new Promise((resolve) => setTimeout(resolve, 20));
  process.off('unhandledRejection', onRejection);
  expect([isOver, endings, rejections]).toEqual([true, [false], []]);
});

/** Everything on a stream up to its end. */
async function drained(stream: HttpSseStream): Promise<string> {
  let text = '';
  for (let chunk = await stream.next(); chunk !== undefined; chunk = await stream.next()) text += chunk.toString();
  return text;
}

test('the answers to a batch come as messages, each with its very bytes', async () => {
  const body = Buffer.from('[{"jsonrpc":"2.0","id":1,"result":{"n":1.0}},{"jsonrpc":"2.0","id":2,"result":{}}]');
  const stream = new HttpSseStream({
    authorized,
    handle: () => Promise.resolve({ status: 200, headers: [], body, follower: null }),
    onEnd: () => undefined,
  });
  const posted = { ...received, message: null, batch: [] } as unknown as Received;
  expect((await stream.post(posted)).status).toBe(202);
  stream.endGracefully();
  const text = await drained(stream);
  expect(text.split('\n').filter((line) => line.startsWith('data:'))).toEqual([
    'data: {"jsonrpc":"2.0","id":1,"result":{"n":1.0}}',
    'data: {"jsonrpc":"2.0","id":2,"result":{}}',
  ]);
});

test('a stream lives no longer than streams may, and answers first what is under way', async () => {
  const answer = Promise.withResolvers<ProxyResponse>();
  const runtime = { limits: { streamAgeMsMax: 30 } };
  const stream = new HttpSseStream({
    authorized: { routed: { received, runtime } } as unknown as Authorized,
    handle: () => answer.promise,
    onEnd: () => undefined,
  });
  stream.begin(Buffer.from('event: endpoint\n\n'));
  const posting = stream.post(received);
  const whole = drained(stream);
  await new Promise((resolve) => setTimeout(resolve, 60));
  await expect(stream.post(received)).rejects.toMatchObject({ code: 'SESSION_NOT_FOUND' });
  answer.resolve({
    status: 200,
    headers: [],
    body: Buffer.from('{"jsonrpc":"2.0","id":1,"result":{}}'),
    follower: null,
  });
  expect((await posting).status).toBe(202);
  expect(await whole).toContain('"result":{}');
});
