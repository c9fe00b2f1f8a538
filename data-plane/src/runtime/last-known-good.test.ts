import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConfigDocument, defaultLimits, encodeDocument } from '@sallyport/schema';
import { sealingKeyFromSecret } from '@sallyport/schema/platform';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { buildFromDocuments, type BuiltConfiguration } from './build-runtime.ts';
import { LastKnownGood } from './last-known-good.ts';
import { SealedFiles } from './sealed-files.ts';

const contact = { controlPlaneTimeMs: 5, ageMs: 6, localTimeMs: 7, bootTime: { bootId: 'b', elapsedMs: 8 } };
const key = sealingKeyFromSecret('a secret that is long enough, at least 32');
const secret = Buffer.alloc(32, 9).toString('base64');
const keys: ConfigDocument = { kind: 'keys', sealing: [{ id: 'k', secret, use: 'seal' }] };
let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sallyport-lkg-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

function open(sealingKey = key): LastKnownGood {
  return new LastKnownGood(new SealedFiles(directory, sealingKey));
}
function configuration(...documents: ConfigDocument[]): { built: BuiltConfiguration; bodies: Map<string, string> } {
  const all = [...documents, keys];
  return {
    built: buildFromDocuments(all),
    bodies: new Map(all.map(encodeDocument).map(({ hash, body }) => [hash, body])),
  };
}
function documentFiles(): string[] {
  return readdirSync(directory).filter((name) => name !== 'manifest' && name !== 'contact');
}
/** Each with some thousands of characters, so that a pack holds a few dozen. */
function servers(count: number, revisionOf: (n: number) => number): ConfigDocument[] {
  return Array.from({ length: count }, (_, n) => ({
    kind: 'server',
    id: `s-${n}`,
    slug: `s-${n}`,
    lifecycle: 'approved',
    url: 'https://mcp.example.com/mcp',
    protocolRevisions: ['2026-07-28'],
    transport: 'streamableHttp',
    extensions: [],
    labels: { revision: String(revisionOf(n)), note: `line end \u2028 and é${'x'.repeat(5_000)}` },
    definitions: [],
    auditMode: 'buffered',
    configStalenessMaxMs: null,
  }));
}
function bytesOnDisk(): number {
  return documentFiles().reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
}

test('what was saved is loaded, with what was known of time', async () => {
  expect(open().load()).toEqual({ state: 'absent' });
  const { built, bodies } = configuration(defaultLimits);
  await open().save(built.manifest, bodies, contact);
  const loaded = open().load();
  expect(loaded).toMatchObject({ state: 'loaded', contact, built: { manifest: built.manifest } });
});

test('nothing on disk can be read or forged without the secret', async () => {
  const { built, bodies } = configuration(defaultLimits);
  await open().save(built.manifest, bodies, contact);
  for (const name of readdirSync(directory)) {
    const content = readFileSync(join(directory, name), 'utf8');
    expect(content.includes(secret) || content.includes('sealing')).toBe(false);
  }
  expect(open(sealingKeyFromSecret('another secret, just as long as the first')).load().state).toBe('unusable');
  // One file under the name of another.
  const [pack = ''] = documentFiles();
  renameSync(join(directory, pack), join(directory, `pack-${'0'.repeat(64)}`));
  expect(open().load().state).toBe('unusable');
});

test('a file that was cut makes the whole unusable, never a part of it', async () => {
  const { built, bodies } = configuration(defaultLimits);
  await open().save(built.manifest, bodies, contact);
  truncateSync(join(directory, documentFiles()[0] ?? ''), 20);
  expect(open().load().state).toBe('unusable');
});

test('a file that the disk does not give makes the whole unusable, and does not end the process', async () => {
  const { built, bodies } = configuration(defaultLimits);
  await open().save(built.manifest, bodies, contact);
  const file = join(directory, documentFiles()[0] ?? '');
  rmSync(file);
  mkdirSync(file);
  expect(open().load()).toMatchObject({ state: 'unusable', problem: expect.stringContaining('EISDIR') });
});

test('only what changed is written, and what is no longer used goes', async () => {
  const store = open();
  const first = configuration(...servers(120, () => 1), defaultLimits);
  await store.save(first.built.manifest, first.bodies, contact);
  const before = documentFiles();
  expect(before.length).toBeLessThan(15);
  const second = configuration(...servers(120, (n) => (n === 7 ? 2 : 1)), defaultLimits);
  const changed = new Map([...second.bodies].filter(([hash]) => !first.bodies.has(hash)));
  expect(changed.size).toBe(1);
  await store.save(second.built.manifest, changed, contact);
  expect(documentFiles().filter((name) => !before.includes(name))).toHaveLength(1);
  expect(open().load()).toMatchObject({ state: 'loaded', built: { manifest: second.built.manifest } });
  const third = configuration(defaultLimits);
  await store.save(third.built.manifest, third.bodies, contact);
  expect(documentFiles()).toHaveLength(1);
  expect(open().load()).toMatchObject({ state: 'loaded', built: { manifest: third.built.manifest } });
});

test('however much changes in whatever order, the disk holds no more than about twice what is wanted', async () => {
  let store = open();
  const revisions = new Array<number>(120).fill(0);
  let known = new Map<string, string>();
  for (let step = 0; step < 30; step++) {
    for (let n = (step * 7) % 11; n < revisions.length; n += 11) revisions[n] = step;
    const { built, bodies } = configuration(...servers(120, (n) => revisions[n] ?? 0), defaultLimits);
    await store.save(built.manifest, new Map([...bodies].filter(([hash]) => !known.has(hash))), contact);
    known = bodies;
    const wanted = [...bodies.values()].reduce((sum, body) => sum + body.length, 0);
    // Sealed text is a third longer.
    expect(bytesOnDisk()).toBeLessThan(2 * wanted * (4 / 3) * 1.1);
    if (step % 10 !== 9) continue;
    // Another process goes on with what is there.
    store = open();
    expect(store.load()).toMatchObject({ state: 'loaded', built: { manifest: built.manifest } });
  }
});

test('what an earlier build wrote, a document a file, is loaded, and replaced as it changes', async () => {
  const first = configuration(...servers(3, () => 1), defaultLimits);
  await open().save(first.built.manifest, first.bodies, contact);
  for (const name of documentFiles()) rmSync(join(directory, name));
  const files = new SealedFiles(directory, key);
  for (const [hash, body] of first.bodies) await files.write(hash, body);
  const store = open();
  expect(store.load()).toMatchObject({ state: 'loaded', built: { manifest: first.built.manifest } });
  const second = configuration(...servers(3, (n) => (n === 0 ? 2 : 1)), defaultLimits);
  const changed = new Map([...second.bodies].filter(([hash]) => !first.bodies.has(hash)));
  await store.save(second.built.manifest, changed, contact);
  expect(documentFiles()).toHaveLength(first.bodies.size);
  expect(open().load()).toMatchObject({ state: 'loaded', built: { manifest: second.built.manifest } });
});

test('what a process that died left is removed by the next one', async () => {
  const first = configuration(defaultLimits);
  await open().save(first.built.manifest, first.bodies, contact);
  const files = new SealedFiles(directory, key);
  await files.write('a'.repeat(64), 'a document');
  await files.write(`pack-${'b'.repeat(64)}`, '[["c",1]]\nx');
  const store = open();
  expect(store.load().state).toBe('loaded');
  await store.save(first.built.manifest, new Map(), contact);
  expect(documentFiles()).toHaveLength(1);
});

test('a manifest is never written before every document it names', async () => {
  const { built } = configuration(defaultLimits);
  await expect(open().save(built.manifest, new Map(), contact)).rejects.toThrow('is not on disk');
  expect(readdirSync(directory)).toEqual([]);
});

test('a crash in the middle of a save leaves what was good before', async () => {
  const first = configuration(defaultLimits);
  await open().save(first.built.manifest, first.bodies, contact);
  writeFileSync(join(directory, 'manifest.tmp'), 'half a manif');
  writeFileSync(join(directory, `${'a'.repeat(64)}.tmp`), 'half a document');
  expect(open().load()).toMatchObject({ state: 'loaded', built: { manifest: first.built.manifest } });
  expect(readdirSync(directory).filter((name) => name.endsWith('.tmp'))).toEqual([]);
});
