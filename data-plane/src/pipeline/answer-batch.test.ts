import { expect, test } from 'vitest';
import { AppError } from '@sallyport/schema';
import { answerBatch } from './answer-batch.ts';
import type { ByteStream, ProxyRequest, ProxyResponse } from './exchange.ts';

const request: ProxyRequest = {
  method: 'POST',
  path: '/mcp/strict',
  query: '',
  headers: new Map(),
  repeatedHeaders: [],
  remoteAddress: null,
  signal: new AbortController().signal,
  readBody: () => Promise.resolve(Buffer.alloc(0)),
};

/** As of a server with strict audit whose record of the end does not get to the disk. */
const failing: ByteStream = {
  next: () => Promise.reject(new AppError('AUDIT_UNAVAILABLE')),
  cancel: () => Promise.resolve(),
};

test('a member whose stream fails fails the stream of the batch, and nothing else', async () => {
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown): void => void rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  let ended = 0;
  const response: ProxyResponse = {
    status: 200,
    headers: [],
    body: failing,
    follower: { ended: () => void ended++ },
  };
  const member = { body: Buffer.from('{}'), isRequest: true };
  const { body, follower } = await answerBatch([member, member], request, () => Promise.resolve(response));
  if (body === null || Buffer.isBuffer(body)) throw new Error('not a stream');
  await expect(body.next()).rejects.toThrow(AppError);
  follower?.ended(false, 0, null);
  await new Promise((resolve) => setTimeout(resolve, 20));
  process.off('unhandledRejection', onRejection);
  expect(ended).toBe(2);
  expect(rejections).toEqual([]);
});
