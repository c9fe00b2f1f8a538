import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
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
  return readdirSync(directory).filter((name) => name.length === 64);
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
  const [one = '', other = ''] = documentFiles();
  renameSync(join(directory, one), join(directory, `${one}x`));
  renameSync(join(directory, other), join(directory, one));
  renameSync(join(directory, `${one}x`), join(directory, other));
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
  const first = configuration(defaultLimits);
  await store.save(first.built.manifest, first.bodies, contact);
  const before = documentFiles();
  const second = configuration({ ...defaultLimits, sessionTtlMs: 1_000 });
  const changed = encodeDocument({ ...defaultLimits, sessionTtlMs: 1_000 });
  await store.save(second.built.manifest, new Map([[changed.hash, changed.body]]), contact);
  expect(documentFiles().length).toBe(before.length);
  expect(documentFiles()).toContain(changed.hash);
  expect(open().load()).toMatchObject({ state: 'loaded', built: { manifest: second.built.manifest } });
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
