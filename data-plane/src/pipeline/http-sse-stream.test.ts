import { expect, test } from 'vitest';
import { AppError } from '@sallyport/schema';
import type { Authorized, ProxyResponse, Received } from './exchange.ts';
import { HttpSseStream } from './http-sse-stream.ts';

const received = {
  exchange: { outcome: null },
  request: { method: 'POST', headers: new Map<string, string>() },
  message: { kind: 'request', id: 1, method: 'tools/call' },
  body: Buffer.from('{}'),
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
