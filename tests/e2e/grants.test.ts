import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import type { ClientAccount } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern, openLegacySession } from '../kit/raw-mcp.ts';

const identified = z.object({ id: z.string() });
let upstream: FakeUpstream;
let harness: Harness;
let serverId: string;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['pay', 'wipe', 'look'] });
  harness = await startHarness({ upstreams: [upstream.url] });
  const { administrator } = harness;
  serverId = (await administrator.registerServer('bank', upstream.url)).id;
  const labels = [{ key: 'team', value: 'money' }];
  await administrator.mutate('updateServer', { id: serverId, labels }, 'id', identified);
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

async function grant(to: ClientAccount, more: Record<string, unknown>): Promise<string> {
  const subject = { kind: 'SERVICE_ACCOUNT', id: to.principalId };
  const aimed = 'serverLabels' in more ? {} : { serverId };
  const input = { name: 'test', subject, effect: 'ALLOW', ...aimed, ...more };
  return (await harness.administrator.mutate('createGrant', input, 'id', identified)).id;
}

/** An account that holds these grants, once both nodes know of them. */
async function holding(...grants: readonly Record<string, unknown>[]): Promise<ClientAccount> {
  const account = await harness.administrator.createClient('holder');
  for (const more of grants) await grant(account, more);
  await harness.administrator.converged();
  return account;
}

async function listed(account: ClientAccount): Promise<string[]> {
  const answer = await askModern(harness.endpoint('bank', account.key), { method: 'tools/list' });
  const body = z.object({ result: z.object({ tools: z.array(z.object({ name: z.string() })) }) });
  return body
    .parse(JSON.parse(answer.body))
    .result.tools.map(({ name }) => name)
    .sort();
}

/** What a call came to: `ok`, or the code of the error. */
async function called(account: ClientAccount, name: string, values: Record<string, unknown> = {}): Promise<unknown> {
  const request = { method: 'tools/call', params: { name, arguments: values } };
  const answer = await askModern(harness.endpoint('bank', account.key), request);
  const body = z.object({ error: z.object({ code: z.number() }).optional() }).parse(JSON.parse(answer.body));
  return body.error?.code ?? 'ok';
}

const unknownTool = -32602;
const approvalNeeded = 1022;

describe('a grant', () => {
  test('on labels opens every server that carries them, and closes with the label', async () => {
    const account = await holding({ serverLabels: [{ key: 'team', value: 'money' }], tools: ['look'] });
    expect(await listed(account)).toEqual(['look']);
    const relabel = async (value: string): Promise<void> => {
      const labels = [{ key: 'team', value }];
      await harness.administrator.mutate('updateServer', { id: serverId, labels }, 'id', identified);
      await harness.administrator.converged();
    };
    await relabel('other');
    const closed = await askModern(harness.endpoint('bank', account.key), { method: 'tools/list' });
    await relabel('money');
    expect(closed.status).toBe(404);
    expect(await called(account, 'look')).toBe('ok');
  });

  test('with `when` opens lists and calls to those alone who meet it', async () => {
    const account = await holding(
      { tools: ['look'], when: 'client.address.inNetwork("127.0.0.0/8") && principal.kind == "serviceAccount"' },
      { tools: ['pay'], when: 'principal.id == "another"' },
    );
    expect(await listed(account)).toEqual(['look']);
    expect([await called(account, 'look'), await called(account, 'pay')]).toEqual(['ok', unknownTool]);
  });

  test('that asks for the name of the principal is refused, and one of an older release opens nothing and is named', async () => {
    const when = 'principal.name == "holder"';
    await expect(holding({ tools: ['pay'], when })).rejects.toThrow(/principal\.name is not available/);
    const account = await holding({ tools: ['look'] }, { tools: ['pay'] });
    const sql = postgres(harness.databaseUrl);
    const [old] = await sql`update grants set when_condition = ${when}
      where subject_principal_id = ${account.principalId} and 'pay' = any (tools) returning id`;
    await sql.end();
    await harness.administrator.mutate('updateServer', { id: serverId, description: when }, 'id', identified);
    await harness.administrator.converged();
    expect(await listed(account)).toEqual(['look']);
    const problems = z.object({
      configStatus: z.object({ problems: z.array(z.object({ objectId: z.string(), message: z.string() })) }),
    });
    const query = '{ configStatus { problems { objectId message } } }';
    const { configStatus } = await harness.administrator.api.ask(query, {}, problems);
    expect(configStatus.problems.find(({ objectId }) => objectId === old?.['id'])?.message).toContain('principal.id');
    await harness.administrator.mutate('deleteGrant', { id: old?.['id'] }, 'id', identified);
  });

  test('sees the name and version that a client gives, in a session too', async () => {
    const account = await holding({ tools: ['look'], when: 'client.name == "raw" && client.version.startsWith("1.")' });
    expect(await called(account, 'look')).toBe('ok');
    const ask = await openLegacySession(harness.endpoint('bank', account.key));
    expect((await ask({ method: 'tools/call', params: { name: 'look', arguments: {} } })).body).not.toContain('error');
  });

  test('with `whenArguments` is listed, and opens the calls whose arguments meet it', async () => {
    const account = await holding({ tools: ['pay'], whenArguments: 'arguments.amount <= 100' });
    expect(await listed(account)).toEqual(['pay']);
    const amounts = [100, 101, '100', undefined];
    const outcomes = await Promise.all(amounts.map((amount) => called(account, 'pay', { amount })));
    expect(outcomes).toEqual(['ok', unknownTool, unknownTool, unknownTool]);
  });

  test('that denies some arguments leaves the others', async () => {
    const account = await holding(
      { tools: ['*'] },
      { tools: ['pay'], effect: 'DENY', whenArguments: 'arguments.to == "mallory"' },
    );
    expect(await listed(account)).toContain('pay');
    expect(await called(account, 'pay', { to: 'mallory' })).toBe(unknownTool);
    expect(await called(account, 'pay', { to: 'bob' })).toBe('ok');
    // What cannot be looked at is denied.
    expect(await called(account, 'pay', {})).toBe(unknownTool);
  });

  test('that asks for an approval is listed, and refuses each call with an error that says so', async () => {
    const account = await holding({ tools: ['wipe'], effect: 'REQUIRE_APPROVAL' });
    expect(await listed(account)).toEqual(['wipe']);
    expect(await called(account, 'wipe')).toBe(approvalNeeded);
  });

  test('limited by labels opens the tools that an administrator labelled so', async () => {
    const account = await holding({ tools: ['*'], limits: { riskMax: 'MEDIUM', readOnly: true } });
    const rows = z.object({
      server: z.object({
        definitions: z.object({ edges: z.array(z.object({ node: z.object({ id: z.string(), name: z.string() }) })) }),
      }),
    });
    const { administrator } = harness;
    const found = await administrator.api.ask(
      'query ($id: ID!) { server(id: $id) { definitions(first: 50) { edges { node { id name } } } } }',
      { id: serverId },
      rows,
    );
    const idOf = (name: string) => found.server.definitions.edges.find(({ node }) => node.name === name)?.node.id;
    const label = async (name: string, labels: Record<string, unknown>): Promise<void> => {
      const input = { id: serverId, definitionIds: [idOf(name)], labels };
      await administrator.mutate('labelDefinitions', input, 'id labels { risk readOnly }', z.array(identified));
    };
    expect((await askModern(harness.endpoint('bank', account.key), { method: 'tools/list' })).status).toBe(200);
    expect(await listed(account)).toEqual([]);
    await label('look', { risk: 'LOW', readOnly: true });
    await label('wipe', { risk: 'CRITICAL', readOnly: false });
    await label('pay', { risk: 'LOW' });
    await administrator.converged();
    expect(await listed(account)).toEqual(['look']);
    expect([await called(account, 'look'), await called(account, 'wipe')]).toEqual(['ok', unknownTool]);
    await label('look', { readOnly: null });
    await administrator.converged();
    expect(await listed(account)).toEqual([]);
  });

  test('in shadow mode changes nothing, and the audit tells what it would have done', async () => {
    const account = await holding({ tools: ['look'] });
    const shadowId = await grant(account, { tools: ['look'], effect: 'DENY', mode: 'SHADOW' });
    await harness.administrator.converged();
    expect(await called(account, 'look')).toBe('ok');
    const decision = z.object({
      effect: z.string(),
      shadow: z.object({ effect: z.string(), grantIds: z.array(z.string()) }).nullable(),
    });
    const events = z.object({
      auditEvents: z.object({ edges: z.array(z.object({ node: z.object({ decision: decision.nullable() }) })) }),
    });
    const recorded = await waitFor('the call is in the audit', async () => {
      const { auditEvents } = await harness.administrator.api.ask(
        'query ($id: ID!) { auditEvents(first: 5, principalId: $id, method: "tools/call") { edges { node { decision { effect shadow { effect grantIds } } } } } }',
        { id: account.principalId },
        events,
      );
      return auditEvents.edges[0]?.node.decision;
    });
    expect(recorded).toEqual({ effect: 'ALLOW', shadow: { effect: 'DENY', grantIds: [shadowId] } });
  });
});

test('what is wrong with the conditions of a grant is told where it is written, with its position', async () => {
  const input = {
    name: 'wrong',
    subject: { kind: 'EVERYONE' },
    serverId,
    effect: 'ALLOW',
    tools: ['*'],
    resources: ['*'],
    when: 'principal.nam == "x"',
    whenArguments: 'arguments.n >',
    limits: { readOnly: true },
  };
  const refused = harness.administrator.mutate('createGrant', input, 'id', identified);
  await expect(refused).rejects.toThrow(/input\.when.*line 1, column 11/s);
  await expect(refused).rejects.toThrow(/input\.whenArguments.*line 1/s);
  await expect(refused).rejects.toThrow(/input\.limits/);
});

test('of several grants made in one call, all are made or none, and the one that is wrong is named', async () => {
  const good = { name: 'bulk', subject: { kind: 'EVERYONE' }, serverId, effect: 'ALLOW', tools: ['none'] };
  const count = z.object({ grants: z.object({ edges: z.array(z.object({ node: identified })) }) });
  const made = async (): Promise<string[]> => {
    const document = 'query { grants(first: 50, search: "bulk") { edges { node { id } } } }';
    const { grants } = await harness.administrator.api.ask(document, {}, count);
    return grants.edges.map(({ node }) => node.id);
  };
  const { administrator } = harness;
  const create = (items: readonly unknown[], idempotencyKey?: string) =>
    administrator.mutate('createGrants', { items, idempotencyKey }, 'id', z.array(identified));
  await expect(create([good, { ...good, when: '1' }, good])).rejects.toThrow(/input\.items\[1\]\.when/);
  expect(await made()).toEqual([]);
  const rows = await create([good, { ...good, name: 'bulk too' }], 'a key');
  expect(await create([good, { ...good, name: 'bulk too' }], 'a key')).toEqual(rows);
  await expect(create([good], 'a key')).rejects.toThrow(/used before/);
  expect((await made()).sort()).toEqual(rows.map(({ id }) => id).sort());
  const missing = { id: '01890000-0000-7000-8000-000000000000' };
  const remove = (items: readonly unknown[]) =>
    administrator.mutate('deleteGrants', { items }, 'id', z.array(identified));
  await expect(remove([...rows, missing])).rejects.toThrow(/input\.items\[2\]\.id/);
  const change = (items: readonly unknown[]) =>
    administrator.mutate('updateGrants', { items }, 'id', z.array(identified));
  await expect(change(rows.map(({ id }) => ({ id, tools: [] })))).rejects.toThrow(/input\.items\[1\]\.tools/);
  await change(rows.map(({ id }) => ({ id, mode: 'SHADOW' })));
  await remove(rows);
  expect(await made()).toEqual([]);
});
