import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type ConfigDocument,
  defaultLimits,
  type EncodedDocument,
  encodeDocument,
  historySigningText,
  type Manifest,
  manifestHash,
  type NodeMessage,
} from '@sallyport/schema';
import { type Clock, createLog, sealingKeyFromSecret, systemClock } from '@sallyport/schema/platform';
import { afterAll, expect, test } from 'vitest';
import { waitFor } from '../../../tests/kit/condition.ts';
import { ManifestApplier } from './apply-manifest.ts';
import { LastKnownGood } from './last-known-good.ts';
import { NodeIdentity, NodeKey } from './node-identity.ts';
import { RuntimeStore } from './runtime-store.ts';
import { SealedFiles } from './sealed-files.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-apply-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const fleet = generateKeyPairSync('ed25519');
const fleetPublicKey = fleet.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
const unsigned = { id: 'h', startedAt: 1 };
const signature = sign(null, Buffer.from(historySigningText(unsigned)), fleet.privateKey).toString('base64');
const history = { ...unsigned, signature };

let applied = 0;
function startApplier(clock: Pick<Clock, 'monotonic'> = systemClock, untilSave = Promise.resolve()) {
  const own = join(directory, String(applied++));
  const files = new SealedFiles(own, sealingKeyFromSecret('a secret of at least 32 characters'));
  const identity = new NodeIdentity(files);
  const certificate = { issuedAt: 0, signature: '' };
  identity.register({ nodeId: 'n', key: NodeKey.generate(), certificate, keyExpiresAt: 0, fleetPublicKey, history });
  const store = new RuntimeStore({ clock: systemClock });
  store.contact(systemClock.now());
  const sent: NodeMessage[] = [];
  const lastKnownGood = new LastKnownGood(files);
  const save = lastKnownGood.save.bind(lastKnownGood);
  lastKnownGood.save = async (...saved) => {
    await untilSave;
    return await save(...saved);
  };
  const applier = new ManifestApplier({
    store,
    identity,
    clock,
    lastKnownGood,
    log: createLog({ name: 'test', level: 'silent' }),
    send: (message) => void sent.push(message),
    alarm: () => undefined,
  });
  return { applier, store, sent };
}

interface Configuration {
  readonly manifest: Manifest;
  readonly documents: readonly EncodedDocument[];
}

/** Large enough that building it takes many slices. */
function configuration(revision: number, servers = 400): Configuration {
  const secret = Buffer.alloc(32, 7).toString('base64');
  const definition = { kind: 'tool' as const, state: 'approved' as const, approvedDigests: ['d'], labels: null };
  const documents: ConfigDocument[] = Array.from({ length: servers }, (_, n) => ({
    kind: 'server',
    id: `s-${n}`,
    slug: `s-${n}`,
    lifecycle: 'approved',
    url: 'https://mcp.example.com/mcp',
    protocolRevisions: ['2026-07-28'],
    transport: 'streamableHttp',
    extensions: [],
    labels: { revision: String(revision) },
    definitions: Array.from({ length: 50 }, (__, tool) => ({ ...definition, name: `tool_${tool}` })),
    auditMode: 'buffered',
    configStalenessMaxMs: null,
  }));
  const encoded = [defaultLimits, { kind: 'keys' as const, sealing: [{ id: 'k', secret, use: 'seal' as const }] }]
    .concat(documents as never[])
    .map((document) => encodeDocument(document as ConfigDocument));
  const entries = Object.fromEntries(encoded.map(({ key, hash }) => [key, hash]));
  return { manifest: { history, revision, hash: manifestHash(entries), entries }, documents: encoded };
}

/** Everything comes in one message, so that it is never stopped. */
const source = { isPaused: false, pause: () => undefined, resume: () => undefined };

function offer(applier: ManifestApplier, nonce: string, { manifest, documents }: Configuration): void {
  applier.whole(nonce, manifest);
  applier.documents(
    { type: 'documents', nonce, documents: documents.map(({ hash, body }) => ({ hash, body })) },
    source,
  );
}

const answers = (sent: readonly NodeMessage[]) => sent.filter(({ type }) => type === 'ack' || type === 'nack');

test('the event loop turns while a large configuration is built, and nothing of it runs before it is whole', async () => {
  const { applier, store, sent } = startApplier();
  offer(applier, 'one', configuration(1));
  let turns = 0;
  while (store.current === undefined) {
    turns++;
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(turns).toBeGreaterThan(3);
  expect(store.current.serverById.size).toBe(400);
  await waitFor('it is acknowledged', () => answers(sent).length > 0);
  expect(answers(sent)).toEqual([{ type: 'ack', nonce: 'one', revision: 1 }]);
});

test('what fits into one slice is applied before the event loop turns', async () => {
  // By this clock everything does, however busy the machine is.
  const { applier, store } = startApplier({ monotonic: () => 0 });
  offer(applier, 'one', configuration(1, 1));
  await Promise.resolve();
  expect(store.current?.revision).toBe(1);
  await applier.settled();
});

test('a newer configuration replaces one that is still being built', async () => {
  const { applier, store, sent } = startApplier();
  const revisions: number[] = [];
  store.onSwap((runtime) => revisions.push(runtime.revision));
  offer(applier, 'one', configuration(1));
  offer(applier, 'two', configuration(2));
  await waitFor('the newer one is acknowledged', () => answers(sent).length > 0);
  expect(answers(sent)).toEqual([{ type: 'ack', nonce: 'two', revision: 2 }]);
  expect(revisions).toEqual([2]);
});

test('a manifest that is refused leaves alone what is being built', async () => {
  const { applier, sent } = startApplier();
  offer(applier, 'one', configuration(1));
  const { manifest } = configuration(2, 1);
  applier.whole('forged', { ...manifest, hash: '0'.repeat(64) });
  await waitFor('both are answered', () => answers(sent).length === 2);
  expect(answers(sent)).toMatchObject([
    { type: 'nack', nonce: 'forged' },
    { type: 'ack', nonce: 'one', revision: 1 },
  ]);
});

test('what is built when the connection ends is applied, and acknowledged to whoever offers it again', async () => {
  const { applier, store, sent } = startApplier();
  const one = configuration(1);
  offer(applier, 'one', one);
  applier.disconnected();
  applier.whole('again', one.manifest);
  await waitFor('it is acknowledged', () => answers(sent).length > 0);
  expect(store.current?.revision).toBe(1);
  expect(answers(sent)).toEqual([{ type: 'ack', nonce: 'again', revision: 1 }]);
});

test('what is applied while an earlier configuration is written to disk is written after it', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { applier, store, sent } = startApplier(systemClock, promise);
  for (const revision of [1, 2, 3]) {
    offer(applier, String(revision), configuration(revision, 2));
    await waitFor('it is applied', () => store.current?.revision === revision);
    if (revision < 3) applier.disconnected();
  }
  resolve();
  await waitFor('the newest is answered', () => answers(sent).length > 0);
  expect(answers(sent)).toEqual([{ type: 'ack', nonce: '3', revision: 3 }]);
});
