import { uuidv7 } from '@sallyport/schema/platform';
import { GraphqlError } from '@sallyport/cli';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { keyFile } from '../credentials/credential-kit.ts';
import { modern, send } from '../data-plane/requests.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type Actor, actorWith, capturing, eventsWith } from './capture-kit.ts';

const address = 'somebody@canary.example';
const rules = [{ detector: 'PERSONAL_DATA', action: 'BLOCK' }];

let upstream: FakeUpstream;
let harness: Harness;
let auditor: Actor;
let serverId: string;
let policyId: string;
let sql: postgres.Sql;
/** Of one call each of `count` and `sign`, the newest first. */
let ids: readonly string[];

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['sign'] });
  const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
  harness = await startHarness({ upstreams: [upstream.url], environment });
  sql = postgres(harness.databaseUrl, { max: 1 });
  const { administrator } = harness;
  serverId = (await administrator.registerServer('kept', upstream.url)).id;
  const { key } = await administrator.createClient('client');
  await administrator.grant({ serverId, tools: ['*'] });
  auditor = await actorWith(harness, 'AUDITOR');
  policyId = await capturing(harness);
  for (const [name, note] of [
    ['count', `write to ${address}`],
    ['sign', 'nothing'],
  ]) {
    const { body, headers } = modern('tools/call', { name, arguments: { id: 'a', note } });
    await send(`${harness.entryOrigin}/mcp/kept`, { body, headers: { ...headers, authorization: `Bearer ${key}` } });
  }
  ids = (await eventsWith(auditor.api, { count: 2, states: ['STORED'], serverId })).map(({ id }) => id);
});
afterAll(async () => {
  await sql.end();
  await harness.stop();
  await upstream.stop();
});

const trial = z.object({
  isBlocked: z.boolean().nullable(),
  message: z.unknown(),
  text: z.string().nullable(),
  untried: z.string().nullable(),
  verdicts: z.array(z.object({ decision: z.string(), reason: z.string() })),
  payload: z.object({ eventId: z.string(), direction: z.string(), policyId: z.string(), state: z.string() }).nullable(),
});

async function tried(
  captured: object,
  more: object = {},
  { api } = auditor,
): Promise<readonly z.infer<typeof trial>[]> {
  const document = `query ($input: TestPolicyInput!) { testPolicy(input: $input) {
    isBlocked message text untried verdicts { decision reason places { path } } payload { eventId direction policyId state } } }`;
  const input = { rules, captured: { purpose: 'case 7', ...captured }, ...more };
  return (await api.ask(document, { input }, z.object({ testPolicy: z.array(trial) }))).testPolicy;
}

const refusal = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'answered',
    (error: unknown) => (error instanceof GraphqlError ? `${error.codes.join()} ${error.message}` : String(error)),
  );

/** Which payloads reads of the audit trail name. */
async function reads(): Promise<readonly string[]> {
  const rows =
    await sql`select object_id, after_json from audit_events where action = 'payload.read' order by time, id`;
  return rows.map((row) => {
    const { direction, purpose, use } = JSON.parse(String(row['after_json']));
    return `${row['object_id']} ${direction} ${purpose} ${use}`;
  });
}

test('a draft is tried on captured payloads by the ids of their events, and the answer never shows what they say', async () => {
  const [, counted = ''] = ids;
  const trials = await tried({ eventIds: [counted] });
  expect(trials[0]).toEqual({
    isBlocked: true,
    message: null,
    text: null,
    untried: null,
    verdicts: [{ decision: 'BLOCK', reason: 'email' }],
    payload: { eventId: counted, direction: 'REQUEST', policyId, state: 'STORED' },
  });
  expect(trials[1]).toMatchObject({ message: null, text: null, payload: { direction: 'RESPONSE' } });
  expect(JSON.stringify(trials)).not.toContain(address);
});

test('each payload that a trial opens is a read in the audit trail, with its purpose; one that it does not open is none', async () => {
  const [signed = '', counted = ''] = ids;
  const before = (await reads()).length;
  await tried({ eventIds: [signed, counted], directions: ['REQUEST'], purpose: 'case 8' });
  expect((await reads()).slice(before)).toEqual([
    `${signed} request case 8 testPolicy`,
    `${counted} request case 8 testPolicy`,
  ]);
});

test('of the last exchanges a trial takes those that the match of the draft fits', async () => {
  const [signed, counted] = ids;
  const exchanges = async (match: object, last = 5): Promise<readonly string[]> => {
    const trials = await tried({ last, directions: ['REQUEST'] }, { match });
    return trials.flatMap(({ payload }) => payload?.eventId ?? []);
  };
  expect(await exchanges({ tools: ['sign'] })).toEqual([signed]);
  expect(await exchanges({ tools: ['*'] })).toEqual([signed, counted]);
  expect(await exchanges({ tools: ['*'] }, 1)).toEqual([signed]);
  expect(await exchanges({ tools: ['*'], principalIds: [auditor.principalId] })).toEqual([]);
  expect(await exchanges({ tools: ['*'], directions: ['RESPONSE'] })).toEqual([]);
  expect(await exchanges({ serverLabels: [{ key: 'team', value: 'none' }] })).toEqual([]);
  // Nobody has judged the risk of the tools, which every policy about risk is about; until somebody does.
  expect(await exchanges({ riskMin: 'HIGH' })).toEqual([signed, counted]);
  await sql`update definitions set risk = 'low' where name = 'sign' and server_id = ${serverId}`;
  expect(await exchanges({ riskMin: 'HIGH' })).toEqual([counted]);
  const { administrator } = harness;
  const made = await administrator.mutate('createGroup', { name: 'few' }, 'id', z.object({ id: z.string() }));
  expect(await exchanges({ groupIds: [made.id] })).toEqual([]);
  const [caller] = await sql`select principal_id from audit_events where id = ${signed ?? ''}`;
  await sql`insert into group_members (group_id, principal_id) values (${made.id}, ${String(caller?.['principal_id'])})`;
  expect(await exchanges({ groupIds: [made.id], tools: ['sign'] })).toEqual([signed]);
});

test('a trial on payloads is for auditors alone, and refuses what it cannot make out, all at once', async () => {
  const before = await reads();
  const owner = { principalId: '', api: harness.administrator.api };
  expect(await refusal(tried({ last: 1 }, {}, owner))).toContain('FORBIDDEN');
  const wrong = refusal(
    tried({ eventIds: [ids[0], ids[0], uuidv7(Date.now()), 'x'], last: 17, purpose: ' ' }, { samples: [] }),
  );
  const said = await wrong;
  for (const path of [
    'samples',
    'captured',
    'captured.purpose',
    'captured.last',
    'eventIds[1]',
    'eventIds[2]',
    'eventIds[3]',
  ]) {
    expect(said).toContain(path);
  }
  expect(await refusal(tried({}))).toContain('must have eventIds or last');
  expect(await reads()).toEqual(before);
});

test('what has expired, was erased or lost, is on its way or does not open is told for each sample, and not tried', async () => {
  const [signed = '', counted = ''] = ids;
  const now = Date.now();
  const missing = ['waited', 'lost'].map((node, index) => ({
    node,
    id: uuidv7(now + index),
    at: new Date(now + index),
  }));
  for (const { node, id, at } of missing) {
    await sql`insert into audit_events (time, id, kind, node_id, epoch, outcome, capture)
      values (${at}, ${id}, 'exchange', ${node}, 'epoch', 'success', ${sql.json({ request: policyId, response: null })})`;
  }
  await sql`insert into audit_epochs (node_id, epoch, shipped_by, head, ended_at, ended_reason)
    values ('lost', 'epoch', 'lost', '', now(), 'lost')`;
  await sql`insert into payload_epochs (node_id, epoch, shipped_by, ended_at) values ('lost', 'payloads-epoch', 'lost', now())`;
  const gone = { eventIds: [signed], reason: 'asked for' };
  await harness.administrator.mutate('erasePayloads', gone, 'count', z.object({ count: z.number() }));
  await sql`update payloads set expires_at = now() - interval '1 second' where event_id = ${counted} and direction = 'response'`;
  await sql`update payload_keys set sealed = 'v1.' || sealed`;
  const before = await reads();
  const told = (await tried({ last: 16 })).map(({ payload, isBlocked, untried, verdicts }) => [
    `${payload?.eventId} ${payload?.direction} ${payload?.state} ${untried} ${isBlocked}`,
    verdicts,
  ]);
  expect(told).toEqual(
    [
      `${missing[1]?.id} REQUEST LOST NOT_KEPT null`,
      `${missing[0]?.id} REQUEST PENDING NOT_KEPT null`,
      `${signed} REQUEST ERASED NOT_KEPT null`,
      `${signed} RESPONSE ERASED NOT_KEPT null`,
      `${counted} REQUEST STORED UNAVAILABLE null`,
      `${counted} RESPONSE EXPIRED NOT_KEPT null`,
    ].map((line) => [line, []]),
  );
  expect(await reads()).toEqual(before);
});
