import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import {
  createKeyProvider,
  CredentialVault,
  openDatabase,
  RewrapService,
  type SecretIdentity,
} from '@sallyport/control-plane/credentials';
import { AppError } from '@sallyport/schema';
import { createLog, systemClock, uuidv7 } from '@sallyport/schema/platform';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { keyFile, keyLine, temporaryFile } from './credential-kit.ts';
import { type FakeTransit, startFakeTransit } from './fake-transit.ts';

const log = createLog({ name: 'vault', level: 'silent' });
const token = 'hvs.a-token-of-the-transit-engine';
let transit: FakeTransit;
let database: ReturnType<typeof openDatabase>;

beforeAll(async () => {
  transit = await startFakeTransit(token, 'org');
  database = openDatabase({ url: (await createMigratedDatabase()).url, connectionsMax: 4 });
});
afterAll(async () => {
  await database.close();
  await transit.stop();
});

function transitVault(clock = systemClock): CredentialVault {
  const tokenFile = temporaryFile('token', `${token}\n`);
  const settings = { url: transit.url, mount: 'team/transit', keyName: 'sallyport', namespace: 'org', tokenFile };
  return new CredentialVault(createKeyProvider(settings, clock));
}
function fileVault(file: string): CredentialVault {
  return new CredentialVault(createKeyProvider({ file }, systemClock));
}
const vaults: readonly (readonly [string, () => CredentialVault])[] = [
  ['a file', () => fileVault(keyFile())],
  ['Vault Transit', () => transitVault()],
];

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'opened',
    (error: unknown) => (error instanceof AppError ? error.code : String(error)),
  );
}

describe.each(vaults)('with a key from %s', (_name, make) => {
  test('a secret opens for the row that it was sealed for, and for no other', async () => {
    const vault = make();
    const part = fc.option(fc.string({ maxLength: 12 }));
    const identity = fc.tuple(fc.constantFrom('server_credentials', 'connections'), fc.uuid(), part, part, part);
    const cases = fc.asyncProperty(fc.string(), identity, identity, async (secret, of, other) => {
      const row = await vault.seal(of, secret);
      expect(await vault.open(of, row)).toBe(secret);
      if (JSON.stringify(of) === JSON.stringify(other)) return;
      expect(await codeOf(vault.open(other, row))).toBe('CREDENTIAL_UNAVAILABLE');
    });
    await fc.assert(cases, { numRuns: 30 });
  });

  test('no part of two sealed rows can be exchanged so that anything opens', async () => {
    const vault = make();
    const ids: readonly SecretIdentity[] = [
      ['server_credentials', uuidv7(1), 'a'],
      ['server_credentials', uuidv7(2), 'b'],
    ];
    const [one, two] = await Promise.all(ids.map((of, at) => vault.seal(of, `secret ${at}`)));
    if (one === undefined || two === undefined || ids[0] === undefined) throw new Error('nothing was sealed');
    const swapped = [two, { ...one, sealed: two.sealed }, { ...one, wrappedKey: two.wrappedKey }];
    for (const row of swapped) expect(await codeOf(vault.open(ids[0], row))).toBe('CREDENTIAL_UNAVAILABLE');
    const changed = `${one.sealed.slice(0, -6)}${one.sealed.endsWith('AAAAAA') ? 'BBBBBB' : 'AAAAAA'}`;
    expect(await codeOf(vault.open(ids[0], { ...one, sealed: changed }))).toBe('CREDENTIAL_UNAVAILABLE');
  });
});

test('without a key nothing is stored, and the error names the settings', async () => {
  const vault = new CredentialVault(undefined);
  const error = await vault.seal(['server_credentials', uuidv7(1)], 'x').catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'CREDENTIAL_KEY_MISSING' });
  expect(String((error as AppError).publicMessage)).toMatch(/SALLYPORT_CREDENTIAL_KEY_FILE.*SALLYPORT_TRANSIT_URL/);
});

test('a sealed Transit, a token that is refused and a key that was retired fail as unavailable', async () => {
  const clock = { ...systemClock, monotonic: () => 0 };
  const of: SecretIdentity = ['server_credentials', uuidv7(1)];
  const vault = transitVault(clock);
  const row = await vault.seal(of, 'kept');
  transit.seal(true);
  expect(await codeOf(vault.open(of, row))).toBe('CREDENTIAL_UNAVAILABLE');
  transit.seal(false);
  expect(await vault.open(of, row)).toBe('kept');
  expect(transit.asked.every((line) => /^org (encrypt|decrypt|rewrap)$/.test(line))).toBe(true);
  const tokenFile = temporaryFile('token', 'another');
  const settings = { url: transit.url, mount: 'team/transit', keyName: 'sallyport', namespace: 'org', tokenFile };
  const other = new CredentialVault(createKeyProvider(settings, systemClock));
  expect(await codeOf(other.open(of, row))).toBe('CREDENTIAL_UNAVAILABLE');
});

test('a secret that an older version bound to less is sealed anew, and none is taken for older than it is', async () => {
  await database.raw`delete from server_credentials`;
  const vault = fileVault(keyFile());
  const earlier = (id: string): SecretIdentity => ['server_credentials', id, id, 'clientCredentials', 'https://a'];
  const now = (id: string): SecretIdentity => [...earlier(id), 'https://as.example', 'gateway'] as const;
  const settings = { mode: 'clientCredentials', issuer: 'https://as.example', clientId: 'gateway' };
  const [old, forged] = [uuidv7(systemClock.now()), uuidv7(systemClock.now())];
  for (const [id, identity] of [
    [old, earlier(old)],
    [forged, now(forged)],
  ] as const) {
    const row = await vault.seal(identity, `secret of ${id}`);
    await database.raw`insert into servers (id, slug, slug_key, title, url) values (${id}, ${id}, ${id}, 't', 'https://a')`;
    await database.raw`insert into server_credentials
      (id, server_id, mode, settings, origin, sealed, wrapped_key, key_id, created_at, rotated_at)
      values (${id}, ${id}, 'clientCredentials', ${database.raw.json(settings)}, 'https://a', ${row.sealed}, ${row.wrappedKey}, ${row.keyId}, now(), now())`;
  }
  expect(await new RewrapService({ database, vault, log }).run()).toBe(1);
  const rows = await database.raw<{ sealed: string; wrappedKey: string; keyId: string; sealedWith: number }[]>`
    select sealed, wrapped_key as "wrappedKey", key_id as "keyId", sealed_with as "sealedWith"
    from server_credentials order by id = ${old} desc`;
  expect(rows.map(({ sealedWith }) => sealedWith)).toEqual([2, 1]);
  const [row] = rows;
  if (row === undefined) throw new Error('the row is gone');
  expect(await vault.open(now(old), row)).toBe(`secret of ${old}`);
  expect(await codeOf(vault.open(earlier(old), row))).toBe('CREDENTIAL_UNAVAILABLE');
});

describe('after a rotation of the key', () => {
  const count = 60;
  const identityOf = (id: string): SecretIdentity => ['server_credentials', id, 'rotated'];

  async function store(vault: CredentialVault): Promise<string[]> {
    await database.raw`delete from server_credentials`;
    const ids: string[] = [];
    for (let at = 0; at < count; at++) {
      const id = uuidv7(systemClock.now());
      await database.raw`insert into servers (id, slug, slug_key, title, url) values (${id}, ${id}, ${id}, 't', 'https://a')`;
      const row = await vault.seal(identityOf(id), `secret of ${id}`);
      await database.raw`insert into server_credentials
        (id, server_id, mode, settings, origin, sealed, wrapped_key, key_id, sealed_with, created_at, rotated_at)
        values (${id}, ${id}, 'staticHeaders', '{}', 'https://a', ${row.sealed}, ${row.wrappedKey}, ${row.keyId}, 2, now(), now())`;
      ids.push(id);
    }
    return ids;
  }
  async function readAll(vault: CredentialVault, ids: readonly string[]): Promise<void> {
    for (const id of ids) {
      const [row] = await database.raw`
        select sealed, wrapped_key as "wrappedKey", key_id as "keyId" from server_credentials where id = ${id}`;
      const stored = row as { sealed: string; wrappedKey: string; keyId: string };
      expect(await vault.open(identityOf(id), stored)).toBe(`secret of ${id}`);
    }
  }
  async function underOldKeys(current: string | undefined): Promise<number> {
    const rows = await database.raw`select 1 from server_credentials where key_id <> ${current ?? ''}`;
    return rows.length;
  }

  test.each(['file', 'transit'])(
    'every secret is read all the while, and then without the old key (%s)',
    async (kind) => {
      const file = keyFile();
      const vault = kind === 'file' ? fileVault(file) : transitVault();
      const ids = await store(vault);
      if (kind === 'file') writeFileSync(file, `${keyLine('second')}${readFileSync(file, 'utf8')}`);
      else transit.rotate();
      let done = false;
      const reading = (async () => {
        let rounds = 0;
        for (; !done || rounds === 0; rounds++) await readAll(vault, ids);
        return rounds;
      })();
      expect(await new RewrapService({ database, vault, log }).run()).toBe(count);
      done = true;
      expect(await reading).toBeGreaterThan(0);
      expect(await underOldKeys(await vault.keys?.currentKeyId())).toBe(0);
      if (kind === 'file') writeFileSync(file, `${readFileSync(file, 'utf8').split('\n')[0]}\n`);
      else transit.retireBefore(2);
      await readAll(kind === 'file' ? fileVault(file) : transitVault(), ids);
      expect(await new RewrapService({ database, vault, log }).run()).toBe(0);
    },
  );

  test('a run that was stopped half way is taken up where it was', async () => {
    const file = keyFile();
    const vault = fileVault(file);
    const ids = await store(vault);
    writeFileSync(file, `${keyLine('second')}${readFileSync(file, 'utf8')}`);
    let left = 20;
    const { keys } = vault;
    if (keys === undefined) throw new Error('no keys');
    const failing = Object.create(keys, {
      rewrap: {
        value: (wrapped: string) =>
          left-- > 0 ? keys.rewrap(wrapped) : Promise.reject(new AppError('CREDENTIAL_UNAVAILABLE')),
      },
      currentKeyId: { value: () => keys.currentKeyId() },
    }) as typeof keys;
    expect(await new RewrapService({ database, vault: new CredentialVault(failing), log }).run()).toBe(20);
    await readAll(vault, ids);
    expect(await new RewrapService({ database, vault, log }).run()).toBe(count - 20);
    expect(await underOldKeys('file:second')).toBe(0);
  });
});

test('a key file with a line that is none is refused as a whole, without repeating it', async () => {
  const file = keyFile();
  const vault = fileVault(file);
  appendFileSync(file, 'no-key-at-all\n');
  const error = await vault.seal(['server_credentials', uuidv7(1)], 'x').catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'CREDENTIAL_UNAVAILABLE' });
  expect(String((error as AppError).internal)).not.toContain('no-key-at-all');
});
