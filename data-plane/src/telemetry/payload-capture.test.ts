import { payloadContentSchema, payloadIdentity, type PayloadRecord } from '@sallyport/schema';
import { LendingKey, openPayload } from '@sallyport/schema/platform';
import { afterAll, expect, test } from 'vitest';
import { SealerPool } from '../inspection/sealer-pool.ts';
import type { SpooledRecord } from './audit-spool.ts';
import { PayloadCapture } from './payload-capture.ts';

/** What one message may take of the time in which all exchanges of a node go on, of its thread's own CPU. */
const loopMsMax = 50;
const key = new LendingKey();
const sealer = new SealerPool();
afterAll(() => sealer.close());

const spooled: PayloadRecord[] = [];
const captures = new PayloadCapture({
  nodeId: 'node-1',
  spool: {
    append: (record: SpooledRecord) => Promise.resolve(void spooled.push(record as PayloadRecord)),
    hasRoomFor: () => true,
  },
  seal: (job) => sealer.seal(job),
  heldBytesMax: 16 * 1_048_576,
  metrics: { captured: () => undefined },
  log: { warn: () => undefined },
});

/** @returns milliseconds of CPU that the event loop was held for */
async function capture(message: string): Promise<number> {
  const captured = captures.begin({
    direction: 'response',
    policyId: 'p',
    bytesMax: 2 * 1_048_576,
    secretMembers: [],
    key: { kind: 'payloadKey', id: 'k', publicKey: key.publicKey },
  });
  const before = process.threadCpuUsage();
  captured.add(Buffer.from(message));
  captured.done({ eventId: 'e', time: 1, serverId: 's', principalId: 'c', method: 'tools/call', target: null });
  await captures.settled(60_000);
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1_000;
}

function opened({ sealed, ...record }: PayloadRecord): readonly string[] {
  const identity = payloadIdentity('node-1', record, 'k');
  const text = sealed === null ? undefined : openPayload(key, identity, sealed);
  return payloadContentSchema.parse(JSON.parse(text ?? 'null')).messages;
}

const rows = Array.from({ length: 15_000 }, (_, id) => ({
  id,
  name: `row ${id}`,
  note: 'of many words',
  password: 'x',
}));
const structured = JSON.stringify({ jsonrpc: '2.0', id: 1, result: { structuredContent: { rows } } });
const text = JSON.stringify({
  jsonrpc: '2.0',
  id: 1,
  result: { content: [{ type: 'text', text: 'a word '.repeat(149_000) }] },
});

test.each([
  ['of many members', structured, 15_000],
  ['of one long text', text, 0],
])('a message of a mebibyte %s is walked and sealed beside the event loop', async (_name, message, redactions) => {
  expect(message.length).toBeGreaterThan(1_000_000);
  // The thread is started by what comes before.
  await capture('{"jsonrpc":"2.0","id":1,"result":{}}');
  const heldMs = await capture(message);
  const record = spooled.at(-1);
  expect(record).toMatchObject({ omission: null, messages: 1, redactions });
  expect(record === undefined ? [] : opened(record)).toEqual([message.replaceAll('"x"', '"[redacted secret member]"')]);
  expect(heldMs).toBeLessThan(loopMsMax);
});
