import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { keyFile } from '../credentials/credential-kit.ts';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

const create =
  'mutation ($input: CreatePolicyInput!) { createPolicy(input: $input) { id capture { bytesMax retentionDays } } }';
const capture = { directions: ['REQUEST'], retentionDays: 10 };
const policy = { name: 'keeps', rules: [], mode: 'ENFORCE', capture };
const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };

let plane: TestControlPlane;
let sql: postgres.Sql;
let policyId: string;

beforeAll(async () => {
  plane = await startTestControlPlane({ environment });
  sql = postgres(plane.databaseUrl, { max: 1 });
  policyId = (await plane.ask(create, { input: policy })).data.createPolicy.id;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

async function payload(eventId: string, daysAgo: number, expiresInDays: number): Promise<void> {
  await sql`insert into payloads (event_id, direction, node_id, time, policy_id, server_id, principal_id, state, messages,
      messages_omitted, bytes, redactions, payload_key_id, wrapped_key, content, expires_at)
    values (${eventId}, 'request', 'node', now() - make_interval(days => ${daysAgo}), ${policyId}, 's', 'p', 'stored', 1, 0, 9, 0,
      'k', 'w', 'c', now() + make_interval(days => ${expiresInDays}))`;
}

test('without a key to seal with no policy captures, and the answer names the mend', async () => {
  const without = await startTestControlPlane();
  const { errors } = await without.ask(create, { input: { ...policy, name: '' } });
  const violations = errors[0]?.extensions.violations ?? [];
  // With all else that is wrong.
  expect(violations.map(({ path }) => path)).toEqual(['input.capture', 'input.name']);
  expect(violations[0]?.message).toContain('SALLYPORT_CREDENTIAL_KEY_FILE');
  expect(
    (
      await without.ask(create, {
        input: { ...policy, capture: null, rules: [{ detector: 'SECRET', action: 'BLOCK' }] },
      })
    ).errors,
  ).toEqual([]);
  await without.stop();
});

test('a capture out of its bounds, or of a direction that the policy is not about, is refused with all violations', async () => {
  const wrong = { directions: ['RESPONSE'], bytesMax: 1, retentionDays: 367 };
  const input = { ...policy, match: { directions: ['REQUEST'] }, capture: wrong };
  const { errors } = await plane.ask(create, { input });
  expect(errors[0]?.extensions.violations?.map(({ path }) => path)).toEqual([
    'input.capture.directions',
    'input.capture.bytesMax',
    'input.capture.retentionDays',
  ]);
});

test('payloads are deleted when their retention is over, as the policy says now', async () => {
  await payload('over', 11, 20);
  await payload('kept', 9, -1);
  // The worker looks when it starts, and every ten minutes.
  const worker = await startTestControlPlane({ databaseUrl: plane.databaseUrl, environment, bootstrap: false });
  const left = await waitFor('what is over is deleted', async () => {
    const rows = await sql`select event_id, expires_at > now() as lasts from payloads`;
    return rows.length === 1 ? rows[0] : undefined;
  });
  expect(left).toEqual({ event_id: 'kept', lasts: true });
  await worker.stop();
});

test('an erasure is remembered by ids as payloads have them, so that it counts for what comes late however they were said', async () => {
  const erase = 'mutation ($input: ErasePayloadsInput!) { erasePayloads(input: $input) { id } }';
  const input = { principalId: plane.ownerId.toUpperCase(), policyId: policyId.toUpperCase(), reason: 'asked for' };
  const { data, errors } = await plane.ask(erase, { input });
  expect(errors).toEqual([]);
  const kept =
    await sql`select principal_id, policy_id, server_id from payload_erasures where id = ${data.erasePayloads.id}`;
  expect([...kept]).toEqual([{ principal_id: plane.ownerId, policy_id: policyId, server_id: null }]);
});

test('a payload that does not come is pending while its node runs, and lost once the process has ended', async () => {
  const shown = async (): Promise<unknown> => {
    const document =
      '{ auditEvents(first: 5, nodeId: "node") { edges { node { payloads { direction state policyId } } } } }';
    return (await plane.ask(document)).data.auditEvents.edges[0].node.payloads;
  };
  await sql`insert into audit_events (time, id, kind, node_id, epoch, outcome, capture)
    values (now(), 'event', 'exchange', 'node', 'epoch', 'success', ${sql.json({ request: policyId, response: null })})`;
  await sql`insert into audit_epochs (node_id, epoch, shipped_by, head) values ('node', 'epoch', 'node', '')`;
  expect(await shown()).toEqual([{ direction: 'REQUEST', state: 'PENDING', policyId }]);
  await sql`update audit_epochs set ended_at = now(), ended_reason = 'lost'`;
  expect(await shown()).toEqual([{ direction: 'REQUEST', state: 'PENDING', policyId }]);
  await sql`insert into payload_epochs (node_id, epoch, shipped_by, ended_at) values ('node', 'payloads-epoch', 'node', now())`;
  expect(await shown()).toEqual([{ direction: 'REQUEST', state: 'LOST', policyId }]);
  await sql`update audit_events set time = now() - interval '11 days' where id = 'event'`;
  expect(await shown()).toEqual([{ direction: 'REQUEST', state: 'EXPIRED', policyId }]);
});
