import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AuditRecord, epochSeed, sha256 } from '@sallyport/schema';
import { createLog, systemClock } from '@sallyport/schema/platform';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { AuditSpool } from './audit-spool.ts';
import type { SpoolEpoch } from './spool-epoch.ts';

let directory: string;
let alarms: string[];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sallyport-spool-'));
  alarms = [];
  log = silent;
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const silent = createLog({ name: 'test', level: 'silent' });
let log = silent;
const open = (auditSpoolBytesMax = 8 * 1024 * 1024): AuditSpool =>
  AuditSpool.open({
    directory,
    nodeId: 'node',
    build: 'test',
    auditSpoolBytesMax,
    clock: systemClock,
    now: () => systemClock.now(),
    log,
    onAlarm: (code) => alarms.push(code),
  });
const record = (n: number): AuditRecord => ({
  type: 'closed',
  eventId: `event-${n}`,
  time: n,
  outcome: 'success',
  status: 200,
  rpcErrorCode: null,
  errorCode: null,
  responseBytes: 1,
  durationMs: 1,
  firstByteMs: null,
  upstreamMs: null,
  upstreamRequests: null,
  verdicts: null,
});
const refusal = (n: number): AuditRecord => ({ type: 'epochOpened', time: n, nodeId: 'node', build: 'x'.repeat(900) });

async function linesOf(epoch: SpoolEpoch | undefined): Promise<readonly string[]> {
  const lines: string[] = [];
  for (let next = epoch?.first ?? 1; epoch !== undefined; ) {
    const piece = await epoch.take(next, 1024 * 1024);
    if (piece === undefined) break;
    const { range, content } = piece;
    // What is shipped again is what was shipped.
    expect((await epoch.read(range)).equals(content)).toBe(true);
    lines.push(...content.toString().split('\n'));
    next = range.last + 1;
  }
  return lines;
}
function expectChain(lines: readonly string[], epoch: string): void {
  let previous = epochSeed('node', epoch);
  for (const [index, line] of lines.entries()) {
    expect(JSON.parse(line)).toMatchObject({ sequence: index + 1, previous });
    previous = sha256(line);
  }
}
const segmentOf = (epoch: string): string => {
  const files = readdirSync(join(directory, epoch))
    .filter((name) => name.endsWith('.jsonl'))
    .sort();
  return join(directory, epoch, files.at(-1) ?? '');
};

test('what was appended is found by the next process, chained, and the old epoch is ended', async () => {
  const first = open();
  for (let n = 0; n < 1199; n++) void first.append(record(n));
  await first.append(record(1199));
  const second = open();
  const [old] = second.epochs;
  expect(old).toMatchObject({ epoch: first.epoch, ended: true, last: 1201 });
  const lines = await linesOf(old);
  expect(lines).toHaveLength(1201);
  expectChain(lines, first.epoch);
  await first.close();
  await second.close();
});

test('a durable record may be shipped as soon as it is resolved; a buffered one after the next fsync', async () => {
  const spool = open();
  const [live] = spool.epochs;
  await spool.append(record(1));
  expect(live?.synced).toBe(0);
  await Promise.all([spool.appendDurable(record(2)), spool.appendDurable(record(3))]);
  expect(live?.synced).toBe(4);
  await spool.close();
});

test('a process that is killed while it writes loses nothing that was resolved', async () => {
  const script = `
    import { AuditSpool } from ${JSON.stringify(join(import.meta.dirname, 'audit-spool.ts'))};
    import { createLog, systemClock } from '@sallyport/schema/platform';
    const spool = AuditSpool.open({ directory: ${JSON.stringify(directory)}, nodeId: 'node', build: 'test',
      auditSpoolBytesMax: 1e8, clock: systemClock, now: () => systemClock.now(),
      log: createLog({ name: 'x', level: 'silent' }), onAlarm: () => {} });
    for (let n = 0; ; n++) {
      const written = spool.append(${JSON.stringify(record(0))});
      if (n % 100 === 0) await written;
      if (n % 100 === 0) await new Promise((resolve) => process.stdout.write(n + 2 + '\\n', resolve));
    }`;
  const arguments_ = ['--conditions=@sallyport/source', '--input-type=module', '--eval', script];
  const child = spawn(process.execPath, arguments_, { cwd: import.meta.dirname, stdio: ['ignore', 'pipe', 'inherit'] });
  let written = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    for (const line of chunk.toString().trim().split('\n')) written = Math.max(written, Number(line));
    if (written > 2000) child.kill('SIGKILL');
  });
  await once(child, 'close');
  const spool = open();
  const [old] = spool.epochs;
  expect(old?.last).toBeGreaterThanOrEqual(written);
  const lines = await linesOf(old);
  expect(lines).toHaveLength(old?.last ?? 0);
  expectChain(lines, old?.epoch ?? '');
  await spool.close();
});

describe('an end that was torn by a crash is cut:', () => {
  test.each([
    ['half a line', '{"sequence":4,"previous":"'],
    ['bytes that were never written', '\0\0\0\0\0\0\0\n\0\0'],
  ])('%s', async (_what, torn) => {
    const first = open();
    void first.append(record(1));
    await first.append(record(2));
    appendFileSync(segmentOf(first.epoch), torn);
    const second = open();
    const lines = await linesOf(second.epochs[0]);
    expect(lines).toHaveLength(3);
    expectChain(lines, first.epoch);
    await first.close();
    await second.close();
  });

  test('but a broken line before whole ones is kept as evidence', async () => {
    const first = open();
    for (let n = 0; n < 3; n++) await first.append(record(n));
    const file = segmentOf(first.epoch);
    writeFileSync(file, readFileSync(file, 'utf8').replace('event-1', 'event-\n'));
    const second = open();
    expect(await linesOf(second.epochs[0])).toHaveLength(5);
    await first.close();
    await second.close();
  });
});

test('records of one turn are one write, and stand in the order of the calls, durable ones among them', async () => {
  const spool = open();
  const sizes = new Set<number>();
  const size = (): number => readFileSync(segmentOf(spool.epoch)).length;
  const before = size();
  const written = [record(1), record(2), record(3)].map((each) => spool.append(each));
  sizes.add(size());
  await Promise.race(written);
  sizes.add(size());
  await Promise.all(written);
  sizes.add(size());
  expect(sizes.size).toBe(2);
  expect(sizes).toContain(before);
  void spool.append(record(4));
  await spool.appendDurable(record(5));
  const ids = (await linesOf(spool.epochs[0])).map((line) => /event-\d/.exec(line)?.[0]);
  expect(ids).toEqual([undefined, 'event-1', 'event-2', 'event-3', 'event-4', 'event-5']);
  await spool.close();
});

test('an emptied directory only begins a new epoch', async () => {
  const first = open();
  await first.close();
  rmSync(directory, { recursive: true });
  const second = open();
  expect(second.epochs).toHaveLength(1);
  expect(second.epoch).not.toBe(first.epoch);
  await second.close();
});

test('a directory that is no epoch is set aside and told', async () => {
  const first = open();
  writeFileSync(join(directory, first.epoch, 'epoch.json'), '{');
  const second = open();
  expect(second.epochs).toHaveLength(1);
  expect(alarms).toEqual(['SPOOL_EPOCH_UNREADABLE']);
  expect(readdirSync(directory)).toContain(`unreadable-${first.epoch}`);
  await first.close();
  await second.close();
});

describe('a full spool', () => {
  const full = async (): Promise<AuditSpool> => {
    const spool = open(64 * 1024);
    for (let n = 0; spool.shedCount === 0; n++) await spool.append(refusal(n));
    return spool;
  };

  test('refuses durable records and sheds buffered ones, with an alarm', async () => {
    const spool = await full();
    await expect(spool.appendDurable(refusal(1))).rejects.toMatchObject({ code: 'AUDIT_UNAVAILABLE' });
    await spool.append(refusal(2));
    expect(spool.shedCount).toBe(2);
    expect(alarms).toEqual(['AUDIT_SPOOL_SHEDDING']);
    await spool.close();
  });

  test('does not fill the log as well: not a line a record', async () => {
    const lines: string[] = [];
    log = createLog({ name: 'test', level: 'error' }, { write: (line) => void lines.push(line) });
    const spool = await full();
    for (let n = 0; n < 1_000; n++) void spool.append(refusal(n));
    await expect(spool.appendDurable(refusal(1))).rejects.toMatchObject({ code: 'AUDIT_UNAVAILABLE' });
    expect(spool.shedCount).toBe(1_001);
    expect(lines.length).toBeLessThanOrEqual(2);
    await spool.close();
  });

  test('still takes the close of what was opened', async () => {
    const spool = await full();
    await spool.appendDurable(record(1));
    expect(spool.shedCount).toBe(0);
    await spool.close();
  });

  test('remembers over a kill how many were shed, and the next process records it', async () => {
    const first = await full();
    await first.append(refusal(1));
    expect(first.shedCount).toBe(2);
    const second = open();
    void second.append(record(1));
    await second.appendDurable(record(2));
    const records = (await linesOf(second.epochs[1])).map(
      (line) => (JSON.parse(line) as { record: AuditRecord }).record,
    );
    expect(records.map(({ type }) => type)).toEqual(['epochOpened', 'shed', 'closed', 'closed']);
    expect(records[1]).toMatchObject({ count: 2 });
    await first.close();
    await second.close();
  });
});

test('lines of any length are taken whole and in order, also where a long one comes first', async () => {
  const spool = open(64 * 1024 * 1024);
  const texts = Array.from({ length: 900 }, (_, n) => 'é'.repeat(n % 100 === 1 ? 15_000 : n % 7));
  for (const build of texts) void spool.append({ type: 'epochOpened', time: 1, nodeId: 'node', build });
  await spool.appendDurable(record(1));
  const lines = await linesOf(spool.epochs[0]);
  expectChain(lines, spool.epoch);
  expect(lines).toHaveLength(texts.length + 2);
  expect(lines.slice(1, -1).map((line) => JSON.parse(line).record.build)).toEqual(texts);
  await spool.close();
});

test('segments are removed when all their lines are confirmed, and the one being written stays', async () => {
  const spool = open(64 * 1024 * 1024);
  const [live] = spool.epochs;
  for (let n = 0; n < 12_000; n++) void spool.append(refusal(n));
  await spool.appendDurable(record(1));
  const segments = live?.segments.length ?? 0;
  expect(segments).toBeGreaterThan(2);
  await live?.trim((live.segments[1]?.first ?? 0) - 1);
  expect(live?.segments).toHaveLength(segments - 1);
  expect((await live?.take(1, 1e6))?.range).toMatchObject({ first: live?.first, undeliverableFrom: 1 });
  await live?.trim(live.last);
  expect(live?.segments).toHaveLength(1);
  await spool.close();
});

test('a record too long for a line has its strings cut, and nothing else', async () => {
  const spool = open();
  await spool.appendDurable({ type: 'epochOpened', time: 1, nodeId: 'node', build: 'x'.repeat(1_000_000) });
  const line = (await linesOf(spool.epochs[0])).at(-1) ?? '';
  expect(line.length).toBeLessThan(2_000);
  expect(JSON.parse(line)).toMatchObject({ record: { type: 'epochOpened', time: 1 } });
  await spool.close();
});
