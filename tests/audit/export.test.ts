import { generateKeyPairSync, sign } from 'node:crypto';
import { CheckpointService, ExportService, recordMutation } from '@sallyport/control-plane/audit';
import { describeVerification, verifyAuditExport } from '@sallyport/cli';
import { AppError, permissions } from '@sallyport/schema';
import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  Chain,
  closedRecord,
  log,
  nodeSigner,
  openedRecord,
  refusedRecord,
  startStore,
  type Store,
} from './audit-kit.ts';

const pair = generateKeyPairSync('ed25519');
const signer = {
  publicKey: pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
  signAudit: (text: string) => sign(null, Buffer.from(text), pair.privateKey).toString('base64'),
};
const actor = {
  principalId: '01890000-0000-7000-8000-000000000001',
  name: 'auditor',
  kind: 'user' as const,
  keyId: null,
  permissions: new Set(permissions),
  limited: [],
  groupIds: new Set<string>(),
};
const ctx = {
  actor,
  authorize: (permission: (typeof permissions)[number]) => {
    if (!actor.permissions.has(permission)) throw new AppError('FORBIDDEN');
  },
  serverScope: () => 'all' as const,
  clock: systemClock,
  log,
};

let store: Store;
let checkpoints: CheckpointService;
let whole: string;
const chains: Chain[] = [];
const hourMs = 3_600_000;
const now = Math.floor(systemClock.now());
const range = { from: new Date(now - 2 * hourMs), to: new Date(now + hourMs) };

async function exported(from = range.from, to = range.to): Promise<string> {
  let text = '';
  for await (const chunk of await new ExportService(store.database, checkpoints).export(ctx, { from, to }))
    text += chunk;
  return text;
}
async function* chunksOf(text: string, size = 1000): AsyncGenerator<Buffer> {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  await Promise.resolve();
}
const check = (text: string, key = signer.publicKey) => verifyAuditExport(chunksOf(text), key);
const entries = (text: string): string[] => text.split('\n').filter((line) => line !== '');
const joined = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join('');
const isLine = (chain: Chain, sequence: number) => (line: string) =>
  line.includes(`"epoch":"${chain.epoch}","sequence":${sequence},`) && line.startsWith('{"type":"line"');

beforeAll(async () => {
  store = await startStore();
  checkpoints = new CheckpointService(store.database, signer, systemClock);
  const target = { kind: 'tool', name: 'line\u2028separator\0\ud800' } as const;
  for (const _ of [1, 2]) {
    const chain = new Chain(nodeSigner());
    chains.push(chain);
    for (let n = 0; n < 5; n++) {
      const opened = openedRecord(undefined, { target, time: now - hourMs + n });
      chain.add(opened, closedRecord(opened));
    }
    await store.ingest.ingest(chain.batch(1, 4));
    await checkpoints.checkpoint();
    await store.ingest.ingest(chain.batch(5, 10));
  }
  await store.database.db.transaction((tx) =>
    recordMutation(tx, ctx, {
      action: 'grant.create',
      object: { kind: 'grant', id: 'g' },
      after: { secret: 'x', name: 'y' },
    }),
  );
  whole = await exported();
});
afterAll(() => store.stop());

describe('an export', () => {
  test('holds every record, those of the control plane and of the export itself too, and verifies', async () => {
    const result = await check(whole);
    expect(result).toMatchObject({ ok: true, lines: 22, epochs: 3, findings: [] });
    expect(describeVerification(result)).toContain('complete and unchanged: 22 records of 3 chains');
    expect(whole).toContain('grant.create');
    expect(whole).toContain('audit.export');
    expect(whole).not.toContain('\\"secret\\"');
  });

  test('of a later range begins at a signed head and verifies by itself', async () => {
    const chain = new Chain(nodeSigner());
    const time = now + 2 * hourMs;
    for (let n = 0; n < 3; n++) chain.add(refusedRecord({ time: time + n }));
    await store.ingest.ingest(chain.batch(1, 3));
    const text = await exported(new Date(time), new Date(time + hourMs));
    expect(await check(text)).toMatchObject({ ok: true });
    expect(
      entries(text).filter((line) => line.includes(chain.epoch) && line.startsWith('{"type":"line"')),
    ).toHaveLength(3);
    expect(text).not.toContain('grant.create');
  });

  test('of a range in which nothing happened verifies', async () => {
    const text = await exported(new Date(0), new Date(1));
    expect(await check(text)).toMatchObject({ ok: true, lines: 0 });
  });

  test('is refused without the permission, and for a range that is none', async () => {
    const service = new ExportService(store.database, checkpoints);
    const stranger = {
      ...ctx,
      authorize: () => {
        throw new AppError('FORBIDDEN');
      },
    };
    await expect(service.export(stranger, range)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(service.export(ctx, { from: range.to, to: range.from })).rejects.toMatchObject({
      code: 'INVALID_INPUT',
    });
  });
});

describe('the verifier finds', () => {
  const [one, other] = [() => chains[0] as Chain, () => chains[1] as Chain];
  const without = (matches: (line: string) => boolean): string =>
    joined(entries(whole).filter((line) => !matches(line)));

  test.each<[string, () => string, string, () => object | undefined]>([
    [
      'a record that was removed',
      () => without(isLine(one(), 3)),
      'LINES_MISSING',
      () => ({ epoch: one().epoch, sequence: 3 }),
    ],
    [
      'a record that was changed',
      () => joined(entries(whole).map((line) => (isLine(one(), 3)(line) ? line.replace('caller', 'nobody') : line))),
      'CHAIN_BROKEN',
      () => ({ nodeId: one().signer.nodeId, epoch: one().epoch, sequence: 4 }),
    ],
    [
      'a record that was put in',
      () => joined(entries(whole).flatMap((line) => (isLine(one(), 3)(line) ? [line, line] : [line]))),
      'LINE_OUT_OF_ORDER',
      () => ({ sequence: 3 }),
    ],
    [
      'records in another order',
      () => {
        const all = entries(whole);
        const at = all.findIndex(isLine(one(), 3));
        all.splice(at, 2, ...all.slice(at, at + 2).reverse());
        return joined(all);
      },
      'LINES_MISSING',
      () => ({ sequence: 3 }),
    ],
    [
      'the last record of a chain cut off',
      () => without(isLine(other(), 10)),
      'LINES_MISSING',
      () => ({ epoch: other().epoch, sequence: 10 }),
    ],
    [
      'the first record of a chain cut off',
      () => without(isLine(other(), 1)),
      'LINES_MISSING',
      () => ({ epoch: other().epoch, sequence: 1 }),
    ],
    [
      'a whole chain left out',
      () => without((line) => line.startsWith('{"type":"line"') && line.includes(one().epoch)),
      'LINES_MISSING',
      () => ({ epoch: one().epoch, sequence: 1 }),
    ],
    [
      'a checkpoint left out',
      () => without((line) => line.startsWith('{"type":"checkpoint"') && line.includes('\\"number\\":2')),
      'CHECKPOINT_MISSING',
      () => undefined,
    ],
    [
      'a checkpoint that was changed',
      () => whole.replace('\\"sequence\\":4', '\\"sequence\\":5'),
      'SIGNATURE_WRONG',
      () => undefined,
    ],
    ['an export that was cut', () => joined(entries(whole).slice(0, -1)), 'EXPORT_CUT', () => undefined],
    [
      'an export with something behind its end',
      () => `${whole}${entries(whole)[1]}\n`,
      'EXPORT_CHANGED',
      () => undefined,
    ],
    ['another fleet', () => whole, 'SIGNATURE_WRONG', () => undefined],
    ['what is no export', () => 'hello\n', 'NOT_AN_EXPORT', () => undefined],
  ])('%s', async (what, tamper, code, place) => {
    const key = what === 'another fleet' ? nodeSigner().publicKey : signer.publicKey;
    const result = await check(tamper(), key);
    expect(result.ok).toBe(false);
    const expected = place();
    expect(result.findings[0]).toMatchObject({ code, ...(expected === undefined ? {} : { at: expected }) });
    expect(describeVerification(result)).toContain(code);
  });

  test('a chain that was written anew in the database, by the checkpoint that signed the old one', async () => {
    const chain = new Chain(nodeSigner()).add(refusedRecord(), refusedRecord());
    await store.ingest.ingest(chain.batch());
    await checkpoints.checkpoint();
    const [first, second] = chain.lines.map((line) => line.replace('caller', 'nobody'));
    await store.database
      .raw`update audit_lines set line = ${first ?? ''} where epoch = ${chain.epoch} and sequence = 1`;
    expect((await check(await exported())).findings[0]).toMatchObject({ code: 'CHAIN_BROKEN', at: { sequence: 2 } });
    await store.database
      .raw`update audit_lines set line = ${chain.lines[0] ?? ''} where epoch = ${chain.epoch} and sequence = 1`;
    await store.database
      .raw`update audit_lines set line = ${second ?? ''} where epoch = ${chain.epoch} and sequence = 2`;
    expect((await check(await exported())).findings[0]).toMatchObject({ code: 'HEAD_WRONG', at: { sequence: 2 } });
    await store.database.raw`delete from audit_lines where epoch = ${chain.epoch}`;
    expect((await check(await exported())).findings[0]).toMatchObject({
      code: 'LINES_MISSING',
      at: { epoch: chain.epoch },
    });
  });
});
