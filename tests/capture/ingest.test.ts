import { openDatabase, PayloadIngestService, PayloadStore } from '@sallyport/control-plane/capture';
import { type AuditBatch, batchSigningText, payloadEpoch, type PayloadRecord } from '@sallyport/schema';
import { systemClock } from '@sallyport/schema/platform';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Chain, eventId, log, nodeSigner } from '../audit/audit-kit.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';

let database: ReturnType<typeof openDatabase>;
let ingest: PayloadIngestService;
let store: PayloadStore;
let drop: () => Promise<unknown>;
const alarms: { readonly code: string; readonly nodeId: string; readonly message: string }[] = [];
/** Keys that count as registered; all while empty. */
const registered = new Set<string>();
/** Nodes that are there beside all others, and so are nobody's successor. */
const contemporaries = new Set<string>();

beforeAll(async () => {
  const made = await createMigratedDatabase();
  drop = made.drop;
  database = openDatabase({ url: made.url, connectionsMax: 6 });
  const options = {
    database,
    clock: systemClock,
    now: () => systemClock.now(),
    log,
    keys: {
      accepts: (_nodeId: string, key: string) => Promise.resolve(registered.size === 0 || registered.has(key)),
      maySucceed: (nodeId: string) => Promise.resolve(!contemporaries.has(nodeId)),
    },
    onAlarm: (code: string, nodeId: string, message: string) => void alarms.push({ code, nodeId, message }),
  };
  ingest = new PayloadIngestService(options);
  store = new PayloadStore(options);
});
afterAll(async () => {
  await database.close();
  await drop();
});

function payload(more: Partial<PayloadRecord> = {}): PayloadRecord {
  return {
    type: 'payload',
    eventId: eventId(),
    time: Math.floor(systemClock.now()),
    direction: 'request',
    policyId: 'policy',
    serverId: 'server',
    principalId: 'principal',
    method: 'tools/call',
    target: { kind: 'tool', name: 'count' },
    messages: 1,
    messagesOmitted: 0,
    bytes: 90,
    redactions: 0,
    omission: null,
    sealed: { keyId: 'key', wrappedKey: 'wrapped', content: `v1.${eventId()}` },
    ...more,
  };
}

/** The payload spool of one start of a node, with so many payloads behind its opening. */
function spoolOf(count: number, signer = nodeSigner()): Chain {
  const opening = { type: 'epochOpened' as const, time: 1, build: 'test', nodeId: signer.nodeId };
  const payloads = Array.from({ length: count }, () => payload());
  return new Chain(signer, 'payloadBatch').add(opening, ...payloads);
}

const contentsOf = (chain: Chain): string[] =>
  chain.lines.flatMap((line) => /"content":"([^"]+)"/.exec(line)?.[1] ?? []);
async function stored(chain: Chain): Promise<string[]> {
  const rows = await database.raw<{ content: string }[]>`
    select content from payloads where node_id = ${chain.signer.nodeId} order by content`;
  return rows.map(({ content }) => content);
}
const all = (chain: Chain): string[] => contentsOf(chain).sort();
async function watermarkOf(chain: Chain): Promise<number> {
  const watermarks = await store.watermarksOf(chain.signer.nodeId);
  return watermarks.find(({ epoch }) => epoch === chain.epoch)?.sequence ?? 0;
}
const alarmsOf = (chain: Chain): string[] =>
  alarms.filter(({ nodeId }) => nodeId === chain.signer.nodeId).map(({ code }) => code);

describe('each payload is stored once', () => {
  test('however often its batch comes, one after the other and at once', async () => {
    const chain = spoolOf(4);
    const batch = chain.batch();
    await Promise.all(Array.from({ length: 6 }, () => ingest.ingest(batch)));
    await ingest.ingest(batch);
    expect(await stored(chain)).toEqual(all(chain));
    expect(await watermarkOf(chain)).toBe(5);
    expect(alarmsOf(chain)).toEqual([]);
  });

  test('in whatever order batches come, overlapping and repeated: none is lost, and none passes one that is missing', async () => {
    const range = fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 0, max: 4 }));
    const property = fc.asyncProperty(fc.array(range, { minLength: 1, maxLength: 12 }), async (ranges) => {
      const chain = spoolOf(8);
      let until = 0;
      const arriving = ranges.map(([first, more]) => ({ first, last: Math.min(9, first + more) }));
      // What its node would send again, until all of it is confirmed.
      for (const { first, last } of [...arriving, { first: 1, last: 3 }, { first: 2, last: 9 }]) {
        const outcome = await ingest.ingest(chain.batch(first, last)).then(
          () => 'stored',
          (error: Error) => error.message,
        );
        expect(outcome).toBe(first > until + 1 ? 'a batch before this one is missing' : 'stored');
        if (first <= until + 1) until = Math.max(until, last);
        expect(await watermarkOf(chain)).toBe(until);
        expect(await stored(chain)).toHaveLength(Math.max(0, until - 1));
      }
      expect(await stored(chain)).toEqual(all(chain));
    });
    await fc.assert(property, { numRuns: 6 });
  });

  test('where a node says twice what it captured, or another says that it did: what came first of a node stays', async () => {
    const first = payload();
    const signer = nodeSigner();
    const again = { ...first, sealed: { keyId: 'key', wrappedKey: 'w', content: 'v1.again' } };
    const chains = [first, again].map((record) => new Chain(signer, 'payloadBatch').add(record));
    const foreign = new Chain(nodeSigner(), 'payloadBatch').add(again);
    for (const chain of [...chains, foreign]) await ingest.ingest(chain.batch());
    const rows = await database.raw`select node_id, content from payloads where event_id = ${first.eventId}`;
    expect(rows.length).toBe(2);
    expect(rows.find(({ node_id }) => node_id === signer.nodeId)?.['content']).toBe(first.sealed?.content);
  });
});

describe('of a batch that is not its node’s own word nothing is stored, it is told, and not tried again:', () => {
  const forged: [string, (chain: Chain) => AuditBatch][] = [
    ['another signature', (chain) => ({ ...chain.batch(), signature: spoolOf(1).batch().signature })],
    ['no signature', (chain) => ({ ...chain.batch(), signature: '' })],
    [
      'a line that was changed',
      (chain) => {
        const batch = chain.batch();
        return { ...batch, lines: batch.lines.map((line) => line.replace('principal', 'principle')) };
      },
    ],
    ['a line that was taken out', (chain) => ({ ...chain.batch(), lines: chain.batch().lines.slice(1) })],
    ['two lines that were exchanged', (chain) => ({ ...chain.batch(), lines: chain.batch().lines.toReversed() })],
    ['another range', (chain) => ({ ...chain.batch(), first: 2, last: 4 })],
    ['an end that nobody said', (chain) => ({ ...chain.batch(), epochEnded: true })],
    ['another epoch', (chain) => ({ ...chain.batch(), epoch: payloadEpoch('another') })],
    [
      'a signature for the audit trail',
      (chain) => {
        const batch = chain.batch();
        return { ...batch, signature: chain.signer.sign(batchSigningText(batch)) };
      },
    ],
  ];
  test.each(forged)('%s', async (_what, forge) => {
    const chain = spoolOf(2);
    await ingest.ingest(forge(chain));
    expect([await stored(chain), await watermarkOf(chain)]).toEqual([[], 0]);
    expect(alarmsOf(chain)).toEqual(['PAYLOAD_BATCH_REFUSED']);
    // The true one is stored as if nothing had been.
    await ingest.ingest(chain.batch());
    expect(await stored(chain)).toEqual(all(chain));
  });

  test('a key that is not registered, and the spool of a node that is there at the same time', async () => {
    const chain = spoolOf(1);
    registered.add('none');
    await ingest.ingest(chain.batch());
    registered.clear();
    const other = nodeSigner();
    contemporaries.add(other.nodeId);
    const { nodeId } = chain.signer;
    const stolen = new Chain(other, 'payloadBatch').add(payload()).batch(1, 1, { nodeId });
    await ingest.ingest(stolen);
    expect([await stored(chain), await watermarkOf(chain)]).toEqual([[], 0]);
    expect(alarmsOf(chain)).toEqual(['PAYLOAD_BATCH_REFUSED']);
    expect(alarms.at(-1)).toMatchObject({ code: 'PAYLOAD_BATCH_REFUSED', nodeId: other.nodeId });
  });
});

test('a line that cannot be read is left out and told, and keeps none back behind it', async () => {
  const chain = spoolOf(1);
  chain.lines.push('no json', '{"sequence":4,"record":{"type":"payload"}}');
  chain.add(payload());
  await ingest.ingest(chain.batch());
  expect(await stored(chain)).toEqual(all(chain));
  expect(await watermarkOf(chain)).toBe(5);
  expect(alarmsOf(chain)).toEqual(['PAYLOADS_UNREADABLE', 'PAYLOADS_UNREADABLE']);
});

test('payloads that a node no longer has are passed over, and told to be lost', async () => {
  const chain = spoolOf(4);
  await ingest.ingest(chain.batch(4, 5, { undeliverableFrom: 1 }));
  expect(await stored(chain)).toEqual(contentsOf(chain).slice(2).sort());
  expect(await watermarkOf(chain)).toBe(5);
  expect(alarmsOf(chain)).toEqual(['PAYLOADS_LOST']);
});
