/** The key-encryption key is rotated while nodes capture and auditors read. */
import { readFileSync, writeFileSync } from 'node:fs';
import { createKeyProvider, CredentialVault, openDatabase, RewrapService } from '@sallyport/control-plane/credentials';
import { payloadIdentity } from '@sallyport/schema';
import { createLog, LendingKey, newPrivateKey, sealPayload, systemClock, uuidv7 } from '@sallyport/schema/platform';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { keyFile, keyLine } from '../credentials/credential-kit.ts';
import { modern, send } from '../data-plane/requests.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type Actor, actorWith, capturing, eventsWith, readPayload } from './capture-kit.ts';

/** Keys of earlier months, each with a payload that is sealed to it. */
const retired = 24;
/** Calls, and reads, while it is rotated. */
const roundsMax = 40;
const log = createLog({ name: 'rewrap', level: 'silent' });
const file = keyFile();
let upstream: FakeUpstream;
let harness: Harness;
let auditor: Actor;
let serverId: string;
let authorization: string;
let database: ReturnType<typeof openDatabase>;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({
    upstreams: [upstream.url],
    nodes: 1,
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: file },
  });
  database = openDatabase({ url: harness.databaseUrl, connectionsMax: 4 });
  const { administrator } = harness;
  serverId = (await administrator.registerServer('kept', upstream.url)).id;
  authorization = `Bearer ${(await administrator.createClient('client')).key}`;
  await administrator.grant({ serverId, tools: ['*'] });
  auditor = await actorWith(harness, 'AUDITOR');
  await capturing(harness, { match: { serverIds: [serverId] } });
});
afterAll(async () => {
  await database.close();
  await harness.stop();
  await upstream.stop();
});

const vaultOver = (path: string): CredentialVault =>
  new CredentialVault(createKeyProvider({ file: path }, systemClock));

/** A payload of a month ago, under a key that was retired since. @returns id of its event */
async function payloadUnderOldKey(vault: CredentialVault, at: number): Promise<string> {
  const now = systemClock.now();
  const [id, eventId] = [uuidv7(now), uuidv7(now)];
  const privateKey = newPrivateKey();
  const { publicKey } = new LendingKey(privateKey);
  const { sealed, wrappedKey, keyId } = await vault.seal(['payload_keys', id, publicKey], privateKey);
  await database.raw`insert into payload_keys (id, public_key, sealed, wrapped_key, key_id, created_at, retired_at)
    values (${id}, ${publicKey}, ${sealed}, ${wrappedKey}, ${keyId}, now(), now())`;
  const time = Math.floor(now);
  const whose = { eventId, time, direction: 'request', policyId: 'p', serverId: 's', principalId: 'c' } as const;
  const content = JSON.stringify({ messages: [`message ${at}`] });
  const payload = sealPayload(publicKey, payloadIdentity('node', whose, id), content);
  await database.raw`insert into audit_events (time, id, kind, node_id, epoch, outcome)
    values (${new Date(time)}, ${eventId}, 'exchange', 'node', 'epoch', 'success')`;
  await database.raw`insert into payloads (event_id, direction, node_id, time, policy_id, server_id, principal_id, state,
      messages, messages_omitted, bytes, redactions, payload_key_id, wrapped_key, content, expires_at)
    values (${eventId}, 'request', 'node', ${new Date(time)}, 'p', 's', 'c', 'stored', 1, 0, 9, 0, ${id},
      ${payload.wrappedKey}, ${payload.content}, now() + interval '1 day')`;
  return eventId;
}

const messageOf = async (id: string): Promise<string | undefined> =>
  (await readPayload(auditor.api, id, 'REQUEST')).messages[0];

async function call(id: string): Promise<string> {
  const { body, headers } = modern('tools/call', { name: 'count', arguments: { id } });
  await send(`${harness.entryOrigin}/mcp/kept`, { body, headers: { ...headers, authorization } });
  return body;
}

test('payloads are captured and read all the while the key-encryption key is rotated, and then without the old one', async () => {
  const before = await call('before');
  const ids = await Promise.all(Array.from({ length: retired }, (_, at) => payloadUnderOldKey(vaultOver(file), at)));
  const sealedNow = () => database.raw`select event_id, direction, wrapped_key, content from payloads
    where event_id = any (${ids}) order by event_id`;
  const sealedBefore = await sealedNow();

  writeFileSync(file, `${keyLine('second')}${readFileSync(file, 'utf8')}`);
  let isDone = false;
  const sent: string[] = [];
  const loads = [
    async (round: number) => void sent.push(await call(`during ${round}`)),
    async (round: number) => expect(await messageOf(ids[round % retired] ?? '')).toBe(`message ${round % retired}`),
  ].map(async (work) => {
    let round = 0;
    do await work(round++);
    while (!isDone && round < roundsMax);
    return round;
  });
  // Two processes of the control plane find it due at once.
  const runs = [0, 1].map(() => new RewrapService({ database, vault: vaultOver(file), log }).run());
  const counts = await Promise.all(runs).finally(() => (isDone = true));
  expect(counts.reduce((sum, count) => sum + count, 0)).toBeGreaterThan(0);
  for (const rounds of await Promise.all(loads)) expect(rounds).toBeGreaterThan(0);

  // What was sealed by nodes is as it was: the keys of payloads alone were wrapped anew.
  expect(await sealedNow()).toEqual(sealedBefore);
  const left = await database.raw`select key_id, count(*)::int as keys from payload_keys group by key_id`;
  expect(left.map((row) => ({ ...row }))).toEqual([{ key_id: 'file:second', keys: retired + 1 }]);

  writeFileSync(file, `${readFileSync(file, 'utf8').split('\n')[0]}\n`);
  for (const [at, id] of ids.entries()) expect(await messageOf(id)).toBe(`message ${at}`);
  const events = await eventsWith(auditor.api, { count: sent.length + 1, states: ['STORED'], serverId });
  const read = await Promise.all(events.map(({ id }) => messageOf(id)));
  expect(new Set(read)).toEqual(new Set([before, ...sent]));
  expect(await call('after')).toContain('after');
}, 120_000);
