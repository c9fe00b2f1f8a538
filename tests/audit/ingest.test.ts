import { PartitionService } from '@sallyport/control-plane/audit';
import { type AuditBatch, batchSigningText, chainLine, sha256 } from '@sallyport/schema';
import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import {
  Chain,
  closedRecord,
  eventId,
  log,
  nodeSigner,
  openedRecord,
  refusedRecord,
  startStore,
  type Store,
} from './audit-kit.ts';

let store: Store;
beforeAll(async () => {
  store = await startStore();
});
afterAll(() => store.stop());

const opening = () => ({ type: 'epochOpened' as const, time: systemClock.now(), build: 'test' });
const newChain = (): Chain => {
  const signer = nodeSigner();
  return new Chain(signer).add({ ...opening(), time: Math.floor(systemClock.now()), nodeId: signer.nodeId });
};

async function rowsOf(chain: Chain) {
  return store.database.raw<Record<string, unknown>[]>`
    select * from audit_events where node_id = ${chain.signer.nodeId} order by time, id`;
}
async function watermarkOf(chain: Chain): Promise<number> {
  const watermarks = await store.epochs.watermarksOf(chain.signer.nodeId);
  return watermarks.find(({ epoch }) => epoch === chain.epoch)?.sequence ?? 0;
}
const quarantineOf = async (chain: Chain) =>
  (
    await store.database.raw<{ reason: string; sequence: string }[]>`
      select reason, sequence from audit_quarantine where node_id = ${chain.signer.nodeId} order by sequence`
  ).map(({ reason, sequence }) => [Number(sequence), reason]);
const alarmsOf = (chain: Chain) =>
  store.alarms.filter(({ nodeId }) => nodeId === chain.signer.nodeId).map(({ code }) => code);

describe('an exchange is one row', () => {
  test('when it is opened and closed in one batch', async () => {
    const opened = openedRecord();
    const chain = newChain().add(opened, closedRecord(opened));
    await store.ingest.ingest(chain.batch());
    expect(await rowsOf(chain)).toMatchObject([{ id: opened.eventId, outcome: 'success', target_name: 'count' }]);
  });

  test('when it was no valid HTTP: then it has no method', async () => {
    const chain = newChain().add(refusedRecord({ httpMethod: '', method: null, target: null, server: null }));
    await store.ingest.ingest(chain.batch());
    expect(await rowsOf(chain)).toMatchObject([{ outcome: 'refused', http_method: null, method: null }]);
  });

  test('when its close comes in a later batch, and every batch comes twice', async () => {
    const opened = openedRecord();
    const chain = newChain().add(
      opened,
      refusedRecord({ time: opened.time + 1 }),
      closedRecord(opened, { outcome: 'error' }),
    );
    const [first, second] = [chain.batch(1, 3), chain.batch(4, 4)];
    await store.ingest.ingest(first);
    expect(await rowsOf(chain)).toMatchObject([{ outcome: null, grant_ids: ['grant'] }, { outcome: 'refused' }]);
    await store.ingest.ingest(second);
    await store.ingest.ingest(first);
    await store.ingest.ingest(second);
    const rows = await rowsOf(chain);
    expect(rows).toMatchObject([{ outcome: 'error', status: 200, method: 'tools/call' }, { outcome: 'refused' }]);
    expect(await store.database.raw`select 1 from audit_lines where node_id = ${chain.signer.nodeId}`).toHaveLength(4);
  });

  test('when its close stands before its opening in the chain', async () => {
    const opened = openedRecord();
    const chain = newChain().add(closedRecord(opened), opened);
    await store.ingest.ingest(chain.batch(1, 2));
    expect(await rowsOf(chain)).toMatchObject([{ outcome: 'success', method: null }]);
    await store.ingest.ingest(chain.batch(3, 3));
    expect(await rowsOf(chain)).toMatchObject([{ outcome: 'success', method: 'tools/call', principal_name: 'caller' }]);
  });

  test('when its epoch ends before it closed: then its outcome is unknown', async () => {
    const chain = newChain().add(openedRecord());
    await store.ingest.ingest(chain.batch(1, 2, { epochEnded: true }));
    expect(await rowsOf(chain)).toMatchObject([{ outcome: 'unknown' }]);
    expect((await store.epochs.watermarksOf(chain.signer.nodeId))[0]).toMatchObject({ sequence: 2, ended: true });
  });

  test('when a node reports that the spool of its epoch is gone', async () => {
    const chain = newChain().add(openedRecord());
    await store.ingest.ingest(chain.batch());
    await store.epochs.spoolEpochsReported(chain.signer.nodeId, ['another']);
    expect(await rowsOf(chain)).toMatchObject([{ outcome: 'unknown' }]);
    expect(alarmsOf(chain)).toEqual(['AUDIT_EPOCH_LOST']);
  });
});

describe('the watermark', () => {
  test('does not pass a batch that is missing', async () => {
    const chain = newChain().add(refusedRecord(), refusedRecord(), refusedRecord());
    await store.ingest.ingest(chain.batch(1, 2));
    await expect(store.ingest.ingest(chain.batch(4, 4))).rejects.toThrow(/before this one is missing/);
    expect(await watermarkOf(chain)).toBe(2);
    await Promise.all([store.ingest.ingest(chain.batch(4, 4)), store.ingest.ingest(chain.batch(3, 3))]);
    expect(await watermarkOf(chain)).toBe(4);
  });

  test('follows the chain whatever order its batches come in at once, each of them twice', async () => {
    const chain = newChain();
    while (chain.lines.length < 40) {
      const opened = openedRecord();
      chain.add(opened, closedRecord(opened));
    }
    const batches = Array.from({ length: 13 }, (_, at) => chain.batch(at * 3 + 1, at * 3 + 3));
    const shuffled = [...batches, ...batches].map((batch, at) => ({ batch, at: (at * 11) % 26 }));
    shuffled.sort((a, b) => a.at - b.at);
    await Promise.all(shuffled.map(({ batch }) => store.ingest.ingest(batch)));
    expect(await watermarkOf(chain)).toBe(39);
    expect((await rowsOf(chain)).map((row) => row['outcome'])).toEqual(Array.from({ length: 19 }, () => 'success'));
    const lines = await store.database.raw`select line from audit_lines where epoch = ${chain.epoch} order by sequence`;
    expect(lines.map((row) => row['line'])).toEqual(chain.lines.slice(0, 39));
    expect(await quarantineOf(chain)).toEqual([]);
  });

  test('moves on by what an overlapping batch adds', async () => {
    const chain = newChain().add(refusedRecord(), refusedRecord(), refusedRecord());
    await store.ingest.ingest(chain.batch(1, 3));
    await store.ingest.ingest(chain.batch(2, 4));
    expect(await watermarkOf(chain)).toBe(4);
    expect(await rowsOf(chain)).toHaveLength(3);
  });

  test('passes records that the node no longer has, and says so', async () => {
    const chain = newChain().add(refusedRecord(), refusedRecord(), refusedRecord());
    await store.ingest.ingest(chain.batch(3, 4, { undeliverableFrom: 1 }));
    expect(await watermarkOf(chain)).toBe(4);
    expect(await rowsOf(chain)).toHaveLength(2);
    expect(alarmsOf(chain)).toEqual(['AUDIT_GAP']);
    const [epoch] = await store.database.raw`select gaps from audit_epochs where epoch = ${chain.epoch}`;
    expect(epoch?.['gaps']).toEqual([{ first: 1, last: 2 }]);
  });
});

describe('text that PostgreSQL cannot hold', () => {
  const nasty = `a\0b\ud800c\udfffd`;
  test('is stored escaped, and its line exactly', async () => {
    const target = { kind: 'tool', name: nasty } as const;
    const chain = newChain().add(refusedRecord({ target, client: { address: null, userAgent: nasty, info: nasty } }));
    await store.ingest.ingest(JSON.parse(JSON.stringify(chain.batch())));
    const shown = 'a\\u0000b\\ud800c\\udfffd';
    expect(await rowsOf(chain)).toMatchObject([{ target_name: shown, client_user_agent: shown }]);
    const [line] = await store.database.raw<{ line: string }[]>`
      select line from audit_lines where epoch = ${chain.epoch} and sequence = 2`;
    expect(line?.line).toBe(chain.lines[1]);
    expect(await quarantineOf(chain)).toEqual([]);
  });

  test.each(['\\N', '\\.', 'a\tb\nc\rd\\e', '{"a",NULL}', `'"{},\\"`, ''])(
    'is told apart from what COPY means by it: %j',
    async (name) => {
      const opened = openedRecord(eventId(), {
        target: { kind: 'tool', name },
        decision: {
          effect: 'allow',
          reason: 'GRANTED',
          grantIds: [name, 'NULL'],
          shadow: { effect: 'deny', grantIds: [name] },
        },
      });
      const chain = newChain().add(opened, closedRecord(opened, { upstreamRequests: [name, name] }));
      await store.ingest.ingest(chain.batch());
      expect(await rowsOf(chain)).toMatchObject([
        {
          target_name: name,
          grant_ids: [name, 'NULL'],
          upstream_requests: [name, name],
          shadow: { effect: 'deny', grantIds: [name] },
          error_code: null,
        },
      ]);
      const lines = await store.database
        .raw`select line from audit_lines where epoch = ${chain.epoch} order by sequence`;
      expect(lines.map((row) => row['line'])).toEqual(chain.lines);
    },
  );

  test('goes to quarantine where it is the line itself, and counts as stored', async () => {
    const chain = newChain();
    const raw = chainLine(2, 'x', refusedRecord()).line;
    chain.lines.push(raw.replace('tools/call', 'a\0b'), raw.replace('tools/call', '\ud800'), '{}', 'no json');
    await store.ingest.ingest(chain.batch());
    expect(await quarantineOf(chain)).toEqual([
      [2, 'notStorable'],
      [3, 'notStorable'],
      [4, 'notARecord'],
      [5, 'notARecord'],
    ]);
    expect(await watermarkOf(chain)).toBe(5);
    expect(alarmsOf(chain)).toEqual(['AUDIT_LINES_QUARANTINED']);
  });

  test('a number that fits no column puts that record alone into quarantine', async () => {
    const chain = newChain().add(refusedRecord(), refusedRecord({ status: 2 ** 40 }), refusedRecord());
    await store.ingest.ingest(chain.batch());
    expect(await rowsOf(chain)).toHaveLength(2);
    expect(await quarantineOf(chain)).toEqual([[3, 'notStorable']]);
  });

  test('a record of the year 9000 is stored', async () => {
    const time = Date.UTC(9000, 1, 1);
    const chain = newChain().add(refusedRecord({ time }), refusedRecord({ time: 1 }));
    await store.ingest.ingest(chain.batch());
    expect((await rowsOf(chain)).map((row) => row['time'])).toEqual([new Date(1), new Date(time)]);
  });
});

describe('a chain that was tampered with is stored and alarmed:', () => {
  const cases: [string, (lines: string[]) => void, [number, string][]][] = [
    [
      'a line was changed',
      (lines) => lines.splice(1, 1, (lines[1] ?? '').replace('caller', 'nobody')),
      [[3, 'chainBroken']],
    ],
    [
      'a line was removed',
      (lines) => lines.splice(1, 1),
      [
        [2, 'chainBroken'],
        [3, 'chainBroken'],
      ],
    ],
    [
      'two lines were exchanged',
      (lines) => lines.splice(1, 2, ...lines.slice(1, 3).reverse()),
      [
        [2, 'chainBroken'],
        [3, 'chainBroken'],
        [4, 'chainBroken'],
      ],
    ],
  ];
  test.each(cases)('%s', async (_what, tamper, expected) => {
    const chain = newChain().add(refusedRecord(), refusedRecord(), refusedRecord());
    tamper(chain.lines);
    await store.ingest.ingest(chain.batch());
    expect(await quarantineOf(chain)).toEqual(expected);
    expect(await rowsOf(chain)).toHaveLength(chain.lines.length - 1);
    expect(alarmsOf(chain)).toContain('AUDIT_LINES_QUARANTINED');
  });

  test('a second history of the same epoch', async () => {
    const signer = nodeSigner();
    const chain = new Chain(signer).add(refusedRecord(), refusedRecord());
    await store.ingest.ingest(chain.batch(1, 2));
    const other: AuditBatch = { ...chain.batch(), ...forged(chain) };
    await store.ingest.ingest({ ...other, signature: signer.sign(batchSigningText(other)) });
    expect(await quarantineOf(chain)).toEqual([[3, 'forked']]);
  });

  function forged(chain: Chain): Pick<AuditBatch, 'lines' | 'first' | 'last'> {
    const lines = [chain.lines[0] ?? '', (chain.lines[1] ?? '').replace('caller', 'nobody')];
    lines.push(chainLine(3, sha256(lines[1] ?? ''), refusedRecord()).line);
    return { lines, first: 1, last: 3 };
  }
});

describe('a batch is refused and moves no watermark', () => {
  test.each<[string, (batch: AuditBatch) => unknown]>([
    ['when it is none', () => ({ nodeId: 'x' })],
    ['when a line was added after it was signed', (batch) => ({ ...batch, lines: ['{}', ...batch.lines.slice(1)] })],
    ['when its range does not fit its lines', (batch) => ({ ...batch, last: 9 })],
    ['when its end was put on by another', (batch) => ({ ...batch, epochEnded: true })],
    ['when it is signed by another key', (batch) => ({ ...batch, publicKey: nodeSigner().publicKey })],
  ])('%s', async (_what, change) => {
    const chain = newChain().add(refusedRecord());
    await store.ingest.ingest(change(chain.batch()));
    expect(await watermarkOf(chain)).toBe(0);
    expect(store.alarms.at(-1)?.code).toBe('AUDIT_BATCH_REFUSED');
  });

  test('when its key is not registered', async () => {
    const chain = newChain().add(refusedRecord());
    store.keys.add('another');
    await store.ingest.ingest(chain.batch());
    store.keys.clear();
    expect(await watermarkOf(chain)).toBe(0);
  });

  test('when another node ships an epoch that its own is shipping', async () => {
    const chain = newChain().add(refusedRecord(), refusedRecord());
    await store.ingest.ingest(chain.batch(1, 2));
    const thief = nodeSigner();
    const { signature: _, ...unsigned } = chain.batch(3, 3, { signedBy: thief.nodeId, publicKey: thief.publicKey });
    const batch = { ...unsigned, signature: thief.sign(batchSigningText(unsigned)) };
    await store.ingest.ingest(batch);
    expect(await watermarkOf(chain)).toBe(2);
    // Long silent, it is taken for the same machine under a new identity.
    await store.database
      .raw`update audit_epochs set updated_at = now() - interval '1 hour' where epoch = ${chain.epoch}`;
    await store.ingest.ingest(batch);
    expect((await store.epochs.watermarksOf(thief.nodeId))[0]).toMatchObject({ epoch: chain.epoch, sequence: 3 });
  });
});

test.each([
  ['in an epoch of its own making', 1],
  ['in an epoch that has long been silent', 2],
])('a node cannot write under the name of another that is there, %s', async (_where, first) => {
  const chain = newChain().add(refusedRecord());
  if (first > 1) await store.ingest.ingest(chain.batch(1, 1));
  await store.database.raw`update audit_epochs set updated_at = now() - interval '1 hour' where epoch = ${chain.epoch}`;
  const thief = nodeSigner();
  store.contemporaries.add(thief.nodeId);
  const { signature: _, ...unsigned } = chain.batch(first, 2, { signedBy: thief.nodeId, publicKey: thief.publicKey });
  await store.ingest.ingest({ ...unsigned, signature: thief.sign(batchSigningText(unsigned)) });
  expect(await rowsOf(chain)).toEqual([]);
  expect(await store.epochs.watermarksOf(thief.nodeId)).toEqual([]);
  expect(store.alarms.at(-1)).toMatchObject({ code: 'AUDIT_BATCH_REFUSED', nodeId: thief.nodeId });
});

test('a node cannot overwrite what another recorded', async () => {
  const opened = openedRecord(eventId());
  const victim = newChain().add(opened, closedRecord(opened));
  await store.ingest.ingest(victim.batch());
  const thief = newChain().add(
    openedRecord(opened.eventId, { time: opened.time, target: { kind: 'tool', name: 'x' } }),
  );
  await store.ingest.ingest(thief.batch());
  expect(await rowsOf(victim)).toMatchObject([{ target_name: 'count' }]);
  expect(await quarantineOf(thief)).toEqual([[2, 'idTaken']]);
});

test('batches are stored while partitions are made: neither side waits for the other in turn', async () => {
  const chain = newChain().add(refusedRecord());
  const partitions = new PartitionService({ database: store.database, clock: systemClock, log });
  let maintained: Promise<void> | undefined;
  // A batch that has written its lines and not yet its events.
  await store.database.raw.begin(async (sql) => {
    await sql`insert into audit_lines (node_id, epoch, sequence, hash, line) values ('n', 'e', 1, '', '')`;
    maintained = partitions.maintain();
    await waitFor('the partitions wait for it', async () => {
      const waiting = await store.database
        .raw`select 1 from pg_locks where not granted and relation = 'audit_lines'::regclass`;
      return waiting.length > 0;
    });
    await sql`insert into audit_events (time, id, kind) values (now(), 'x', 'exchange')`;
  });
  await Promise.all([maintained, store.ingest.ingest(chain.batch())]);
  expect(await watermarkOf(chain)).toBe(2);
  expect(await rowsOf(chain)).toHaveLength(1);
});

test('records that were shed raise an alarm', async () => {
  const chain = newChain().add({ type: 'shed', time: 1, count: 12 });
  await store.ingest.ingest(chain.batch());
  expect(alarmsOf(chain)).toEqual(['AUDIT_RECORDS_SHED']);
});
