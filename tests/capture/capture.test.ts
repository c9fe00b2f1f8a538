import { GraphqlError } from '@sallyport/cli';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { keyFile } from '../credentials/credential-kit.ts';
import { legacy, modern, send } from '../data-plane/requests.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { dump } from '../kit/postgres.ts';
import { type Actor, actorWith, capturing, eventsWith, identified, readPayload } from './capture-kit.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const canaries = Array.from({ length: 12 }, (_, at) => `canary-${at}-${'payload'.repeat(3)}`);

let upstream: FakeUpstream;
let harness: Harness;
let auditor: Actor;
let serverId: string;
let authorization: string;
let callerId: string;
let sql: postgres.Sql;

beforeAll(async () => {
  upstream = await startFakeUpstream({
    tools: ['sign'],
    properties: { sign: { seal: { type: 'string', writeOnly: true } } },
  });
  const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
  harness = await startHarness({ upstreams: [upstream.url], nodes: 2, environment });
  sql = postgres(harness.databaseUrl, { max: 1 });
  const { administrator } = harness;
  serverId = (await administrator.registerServer('kept', upstream.url)).id;
  const client = await administrator.createClient('client');
  callerId = client.principalId;
  await administrator.grant({ serverId, tools: ['*'] });
  authorization = `Bearer ${client.key}`;
  auditor = await actorWith(harness, 'AUDITOR');
});
afterAll(async () => {
  await sql.end();
  await harness.stop();
  await upstream.stop();
});

function call(values: object, form: typeof modern | typeof legacy = modern, name = 'count') {
  const { body, headers } = form('tools/call', { name, arguments: values });
  return send(`${harness.entryOrigin}/mcp/kept`, { body, headers: { ...headers, authorization } });
}

function filesUnder(directory: string): string {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'latin1'))
    .join('\n');
}

/** What the API says no with. */
const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'answered',
    (error: unknown) => (error instanceof GraphqlError ? `${error.codes.join()} ${error.message}` : String(error)),
  );

async function accesses(): Promise<readonly { actorId: string; objectId: string; after: unknown }[]> {
  const rows = await sql`select principal_id, object_id, after_json from audit_events
    where action = 'payload.read' order by time, id`;
  return rows.map((row) => ({
    actorId: String(row['principal_id']),
    objectId: String(row['object_id']),
    after: JSON.parse(String(row['after_json'])),
  }));
}

test('nothing is captured until a policy says so, and then an auditor reads what the client sent and got', async () => {
  await call({ id: 'before' });
  const policyId = await capturing(harness, { match: { serverIds: [serverId] } });
  const values = { id: 'a', note: canaries[0] };
  const answers = [await call(values), await call(values, legacy)];
  const events = await eventsWith(auditor.api, { count: 2, states: ['STORED'], serverId });
  expect(events).toHaveLength(2);
  for (const { payloads } of events) {
    expect(payloads.map((one) => ({ ...one, expiresAt: null }))).toEqual(
      ['REQUEST', 'RESPONSE'].map((direction) => ({
        direction,
        policyId,
        state: 'STORED',
        omission: null,
        messages: 1,
        redactions: 0,
        expiresAt: null,
      })),
    );
  }
  const [second, first] = events;
  for (const [event, form, answer] of [
    [first, modern, answers[0]],
    [second, legacy, answers[1]],
  ] as const) {
    const sent = await readPayload(auditor.api, event?.id ?? '', 'REQUEST');
    expect(sent).toMatchObject({
      messages: [form('tools/call', { name: 'count', arguments: values }).body],
      hasNextPage: false,
    });
    const { messages } = await readPayload(auditor.api, event?.id ?? '', 'RESPONSE');
    expect(JSON.parse(messages[0] ?? '')).toEqual(
      answer?.json ?? JSON.parse(answer?.text.match(/data: (.*)/)?.[1] ?? ''),
    );
  }
});

test('each read is an event that names who, which event, which direction and why; two reads are two', async () => {
  const [event] = await eventsWith(auditor.api, { count: 1, states: ['STORED'], serverId });
  const before = (await accesses()).length;
  await readPayload(auditor.api, event?.id ?? '', 'REQUEST', { purpose: 'case 8' });
  await readPayload(auditor.api, event?.id ?? '', 'REQUEST', { purpose: 'case 9' });
  const read = (await accesses()).slice(before);
  expect(read.map(({ after }) => (after as { purpose: string }).purpose)).toEqual(['case 8', 'case 9']);
  expect(read[0]).toMatchObject({ actorId: auditor.principalId, objectId: event?.id, after: { direction: 'request' } });
  expect(await codeOf(readPayload(auditor.api, event?.id ?? '', 'REQUEST', { purpose: ' ' }))).toContain('purpose');
  expect(await accesses()).toHaveLength(before + 2);
});

test.each(['OWNER', 'ADMIN', 'EDITOR', 'VIEWER', 'MEMBER'])(
  'a payload looks as if it did not exist to the role %s',
  async (role) => {
    const [event] = await eventsWith(auditor.api, { count: 1, states: ['STORED'], serverId });
    const before = (await accesses()).length;
    const { api } = role === 'OWNER' ? harness.administrator : await actorWith(harness, role);
    expect(await codeOf(readPayload(api, event?.id ?? '', 'REQUEST'))).toContain('NOT_FOUND');
    const list = api.ask('{ payloads { edges { node { eventId } } } }', {}, z.unknown());
    expect(await codeOf(list)).toContain('FORBIDDEN');
    expect(await accesses()).toHaveLength(before);
  },
);

test('an owner makes an auditor and disables one, but makes no key that reads payloads', async () => {
  const { administrator } = harness;
  const { principalId } = await actorWith(harness, 'AUDITOR');
  const input = { principalId, name: 'k', scopes: ['API'], expiresAt: new Date(Date.now() + 3_600_000).toISOString() };
  const key = (more: object) => administrator.mutate('createApiKey', { ...input, ...more }, 'secret', z.unknown());
  expect(await codeOf(key({}))).toContain('FORBIDDEN');
  expect(await codeOf(key({ permissions: ['payload:read'] }))).toContain('FORBIDDEN');
  expect(await codeOf(key({ permissions: ['audit:read'] }))).toBe('answered');
  const disabled = administrator.mutate(
    'updateServiceAccount',
    { id: principalId, status: 'DISABLED' },
    'id',
    identified,
  );
  expect(await codeOf(disabled)).toBe('answered');
});

test('secrets of a payload are gone before it is stored, also those that the schema of the tool names', async () => {
  await call({ note: `my ${token}`, password: canaries[1], seal: canaries[2] }, modern, 'sign');
  const events = await eventsWith(auditor.api, { count: 3, states: ['STORED'], serverId });
  const { messages } = await readPayload(auditor.api, events[0]?.id ?? '', 'REQUEST');
  expect(JSON.parse(messages[0] ?? '').params.arguments).toEqual({
    note: 'my [redacted githubToken]',
    password: '[redacted secret member]',
    seal: '[redacted secret member]',
  });
});

test('no dump of database and queue, nothing on the disks of nodes, and no audit export shows what payloads say', async () => {
  for (const [at, note] of canaries.entries()) {
    await call({ id: 'a', note }, at % 2 === 0 ? modern : legacy);
    // Between the call and the shipping too.
    expect(harness.dataDirectories.map(filesUnder).join('\n')).not.toContain(note);
  }
  const [event] = await eventsWith(auditor.api, { count: canaries.length, states: ['STORED'], serverId });
  await readPayload(auditor.api, event?.id ?? '', 'REQUEST');
  const text = [...harness.dataDirectories.map(filesUnder), await dump(harness.databaseUrl)].join('\n');
  const shown = canaries.filter(
    (canary) => text.includes(canary) || text.includes(Buffer.from(canary).toString('base64').slice(0, 24)),
  );
  expect(shown).toEqual([]);
});

test('a payload that is moved to another row, or whose row says that it is of another, does not open', async () => {
  const [one, other] = await eventsWith(auditor.api, { count: 2, states: ['STORED'], serverId });
  const read = () => codeOf(readPayload(auditor.api, one?.id ?? '', 'REQUEST'));
  const before = (await accesses()).length;
  await sql`update payloads a set content = b.content, wrapped_key = b.wrapped_key from payloads b
    where a.event_id = ${one?.id ?? ''} and b.event_id = ${other?.id ?? ''} and a.direction = 'request' and b.direction = 'request'`;
  expect(await read()).toContain('PAYLOAD_UNAVAILABLE');
  await sql`update payloads set policy_id = 'another' where event_id = ${other?.id ?? ''}`;
  expect(await codeOf(readPayload(auditor.api, other?.id ?? '', 'REQUEST'))).toContain('PAYLOAD_UNAVAILABLE');
  expect(await accesses()).toHaveLength(before);
  await sql`update audit_events set capture = null where id in (${one?.id ?? ''}, ${other?.id ?? ''})`;
});

test('payloads are listed in pages, the newest first, and narrowed; a payload is read in pages', async () => {
  const page = z.object({
    payloads: z.object({
      edges: z.array(z.object({ node: z.object({ eventId: z.string(), direction: z.string(), time: z.string() }) })),
      pageInfo: z.object({ hasNextPage: z.boolean(), endCursor: z.string().nullable() }),
    }),
  });
  const document = `query ($after: String, $principalId: ID) { payloads(first: 7, after: $after, principalId: $principalId) {
    edges { node { eventId direction time } } pageInfo { hasNextPage endCursor } } }`;
  const seen: string[] = [];
  let after: string | null = null;
  do {
    const { payloads } = (await auditor.api.ask(document, { after, principalId: callerId }, page)) as z.infer<
      typeof page
    >;
    seen.push(...payloads.edges.map(({ node }) => `${node.time} ${node.eventId} ${node.direction}`));
    after = payloads.pageInfo.hasNextPage ? payloads.pageInfo.endCursor : null;
  } while (after !== null);
  expect(seen).toEqual([...new Set(seen)].sort().reverse());
  const [count] = await sql`select count(*)::int as n from payloads where principal_id = ${callerId}`;
  expect(seen).toHaveLength(Number(count?.['n']));
  const { payloads: none } = await auditor.api.ask(document, { principalId: auditor.principalId }, page);
  expect(none.edges).toEqual([]);
});

describe('erasure', () => {
  const erase = (input: object) =>
    harness.administrator.mutate(
      'erasePayloads',
      { reason: 'asked for', ...input },
      'id count',
      z.object({ id: z.string(), count: z.number() }),
    );

  test('must say whose payloads, and in a dry run erases nothing', async () => {
    expect(await codeOf(erase({}))).toContain('must say whose payloads');
    const [event] = await eventsWith(auditor.api, { count: 1, states: ['STORED'], serverId });
    expect(await erase({ eventIds: [event?.id], dryRun: true })).toMatchObject({ count: 2 });
    expect((await readPayload(auditor.api, event?.id ?? '', 'REQUEST')).messages).toHaveLength(1);
  });

  test('destroys what is kept of an event, tells that it did, and lets nothing of it come back', async () => {
    const [event] = await eventsWith(auditor.api, { count: 1, states: ['STORED'], serverId });
    const [row] = await sql`select * from payloads where event_id = ${event?.id ?? ''} and direction = 'request'`;
    const { id, count } = await erase({ eventIds: [event?.id] });
    expect(count).toBe(2);
    const before = (await accesses()).length;
    expect(await readPayload(auditor.api, event?.id ?? '', 'REQUEST')).toMatchObject({ messages: [] });
    // Each read, also one of nothing.
    expect(await accesses()).toHaveLength(before + 1);
    const [left] = await sql`select state, content, wrapped_key from payloads where event_id = ${event?.id ?? ''}`;
    expect(left).toEqual({ state: 'erased', content: null, wrapped_key: null });
    const isLeft = (await dump(harness.databaseUrl)).includes(String(row?.['content']).slice(0, 60));
    expect({ row: row?.['state'], isLeft }).toEqual({ row: 'stored', isLeft: false });
    const [recorded] = await sql`select action, after_json from audit_events where object_id = ${id}`;
    expect(recorded).toMatchObject({ action: 'payload.erase', after_json: expect.stringContaining('asked for') });
  });

  test('of a principal counts for what is being stored meanwhile and for what comes late, too', async () => {
    const holder = postgres(harness.databaseUrl, { max: 1, onnotice: () => undefined });
    await holder.unsafe(`
      create function hold_back() returns trigger language plpgsql as $$
        begin perform pg_advisory_xact_lock(4711); return new; end $$;
      create trigger hold_back before update on payload_epochs for each row execute function hold_back();
      select pg_advisory_lock(4711);`);
    const waiting = (type: string) => async (): Promise<true | undefined> => {
      const rows = await sql`select 1 from pg_locks where locktype = ${type} and not granted`;
      return rows.length > 0 || undefined;
    };
    await call({ id: 'slipping' });
    await waitFor('its payload is about to be stored', waiting('advisory'));
    const erasing = erase({ principalId: callerId });
    await Promise.race([erasing, waitFor('the erasure waits for it', waiting('relation'))]);
    await holder`select pg_advisory_unlock(4711)`;
    expect((await erasing).count).toBeGreaterThan(4);
    const [event] = await eventsWith(auditor.api, { count: 1, states: ['ERASED', 'STORED'], serverId });
    expect(event?.payloads.map(({ state }) => state)).toEqual(['ERASED', 'ERASED']);
    await holder`drop function hold_back cascade`;
    await holder.end();
    const [left] = await sql`select count(*)::int as n from payloads where content is not null`;
    expect(left).toEqual({ n: 0 });
  });

  test.each(['AUDITOR', 'VIEWER'])('is not for the role %s', async (role) => {
    const { api } = await actorWith(harness, role);
    const document = 'mutation { erasePayloads(input: { eventIds: ["x"], reason: "r" }) { count } }';
    expect(await codeOf(api.ask(document, {}, z.unknown()))).toContain('FORBIDDEN');
  });
});

test('without payload keys of its own no other key opens anything: the key-encryption key is asked at each read', async () => {
  await call({ id: 'last' });
  const events = await waitFor('the stored payload', async () => {
    const found = await sql`select event_id from payloads p join audit_events e on e.id = p.event_id
      where state = 'stored' and direction = 'request'`;
    return found.length > 0 ? found : undefined;
  });
  const id = String(events[0]?.['event_id']);
  expect((await readPayload(auditor.api, id, 'REQUEST')).messages).toHaveLength(1);
  await sql`update payload_keys set sealed = 'v1.' || sealed`;
  expect(await codeOf(readPayload(auditor.api, id, 'REQUEST'))).toContain('PAYLOAD_UNAVAILABLE');
});
