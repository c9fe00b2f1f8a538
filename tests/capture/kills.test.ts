/** A node that is killed between a call and the shipping of what it captured of it. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createGraphqlClient, freePort } from '@sallyport/cli';
import { prepareQueueDatabase, randomSecret } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { keyFile } from '../credentials/credential-kit.ts';
import { modern } from '../data-plane/requests.ts';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { Program } from '../kit/program.ts';
import { type Actor, actorWith, capturing, eventsWith, readPayload } from './capture-kit.ts';

const deadline = { deadlineMs: 60_000 };
const directory = mkdtempSync(join(tmpdir(), 'sallyport-payload-kills-'));
let upstream: FakeUpstream;
let plane: TestControlPlane;
let sql: postgres.Sql;
let queueRole: string;
let node: Program;
let nodeUrl: string;
let auditor: Actor;
let serverId: string;
let key: string;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  const egress = { SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(upstream.url).port}` };
  plane = await startTestControlPlane({ environment: { ...egress, SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() } });
  sql = postgres(plane.databaseUrl, { max: 1, onnotice: () => undefined });
  queueRole = `queue_${randomSecret('k').slice(1, 9).toLowerCase()}`;
  const queue = await prepareQueueDatabase(plane.databaseUrl, { role: queueRole, password: randomSecret('q_') });
  const administrator = new Administrator(createGraphqlClient(plane.graphqlUrl, plane.ownerKey), 1);
  const [port, operationsPort] = [await freePort(), await freePort()];
  nodeUrl = `http://127.0.0.1:${port}/mcp/kept`;
  const environment = {
    ...egress,
    DATABASE_URL: queue,
    SALLYPORT_CONTROL_PLANE_URL: plane.syncUrl,
    SALLYPORT_JOIN_TOKEN: await administrator.createJoinToken(1),
    SALLYPORT_NODE_NAME: 'node-1',
    SALLYPORT_NODE_SECRET: randomSecret('node_'),
    SALLYPORT_DATA_DIRECTORY: directory,
    SALLYPORT_LISTEN_PORT: String(port),
    SALLYPORT_OPERATIONS_PORT: String(operationsPort),
  };
  node = new Program('data-plane/dist/main.js', environment, `http://127.0.0.1:${operationsPort}`);
  await node.start();
  serverId = (await administrator.registerServer('kept', upstream.url)).id;
  const client = await administrator.createClient('client');
  ({ key } = client);
  await administrator.grant({ serverId, tools: ['*'] });
  const harness = { administrator, controlPlane: plane.controlPlane };
  auditor = await actorWith(harness, 'AUDITOR');
  await capturing(harness, { match: { serverIds: [serverId] } });
}, 120_000);
afterAll(async () => {
  await node.end('SIGKILL');
  await sql.end();
  await plane.stop();
  await upstream.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** Sends a call and resolves with its answer as soon as its headers are there. */
function call(values: object, name = 'count'): Promise<Response> {
  const { body, headers: mirrored } = modern('tools/call', { name, arguments: values });
  const accept = 'application/json, text/event-stream';
  const headers = { ...mirrored, 'content-type': 'application/json', accept, authorization: `Bearer ${key}` };
  return fetch(nodeUrl, { method: 'POST', body, headers });
}
const sentBy = (values: object, name = 'count'): string => modern('tools/call', { name, arguments: values }).body;

/** From now on the node reaches no queue, so that it ships nothing. */
async function cutQueue(): Promise<void> {
  await sql.unsafe(`alter role "${queueRole}" nologin`);
  await sql`select pg_terminate_backend(pid) from pg_stat_activity where usename = ${queueRole}`;
}
const mendQueue = () => sql.unsafe(`alter role "${queueRole}" login`);

/** Payloads that the spool of the node has on its disk, by direction. */
function spooled(): readonly string[] {
  return readdirSync(join(directory, 'payloads'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.jsonl'))
    .flatMap((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8').match(/"direction":"\w+"/g) ?? []);
}

/** Kills the node and starts it again; resolves when all that it had left behind has come. */
async function killed(): Promise<void> {
  await node.end('SIGKILL');
  await mendQueue();
  await node.start();
  await waitFor(
    'the spools of the killed process have come to their ends',
    async () => {
      const [open] = await sql`select
        (select count(*)::int from audit_epochs where node_id <> 'control-plane' and ended_at is null) as audit,
        (select count(*)::int from payload_epochs where ended_at is null) as payloads`;
      return open?.['audit'] === 1 && open['payloads'] === 1 ? true : undefined;
    },
    deadline,
  );
}

const settled = { states: ['STORED', 'LOST', 'OMITTED'] };

test('what was captured of a call that was answered is stored after a kill, though nothing of it had been shipped', async () => {
  await cutQueue();
  const values = { id: 'a', note: 'kept over a kill' };
  const answer = await (await call(values)).text();
  await waitFor('both payloads are in the spool', () => spooled().length >= 2 || undefined, deadline);
  expect(await sql`select 1 from payloads`).toHaveLength(0);
  await killed();
  const [event] = await eventsWith(auditor.api, { count: 1, states: ['STORED'], serverId });
  expect((await readPayload(auditor.api, event?.id ?? '', 'REQUEST')).messages).toEqual([sentBy(values)]);
  const { messages } = await readPayload(auditor.api, event?.id ?? '', 'RESPONSE');
  expect(answer).toContain(JSON.parse(messages[0] ?? '{}').result.content[0].text);
}, 120_000);

test('of a stream that a kill cuts off the request is stored, and what was held of the answer is told to be lost', async () => {
  await cutQueue();
  const before = spooled().length;
  const values = { id: 'b', events: 100_000, delayMs: 20 };
  const reader = (await call(values, 'stream')).body?.getReader();
  expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toContain('notifications/progress');
  await waitFor('the request is in the spool', () => spooled().length > before || undefined, deadline);
  await killed();
  await reader?.cancel().catch(() => undefined);
  const [event] = await eventsWith(auditor.api, { count: 2, ...settled, serverId });
  expect(event?.payloads.map(({ direction, state }) => [direction, state])).toEqual([
    ['REQUEST', 'STORED'],
    ['RESPONSE', 'LOST'],
  ]);
  expect((await readPayload(auditor.api, event?.id ?? '', 'REQUEST')).messages).toEqual([sentBy(values, 'stream')]);
}, 120_000);

test('whenever a node is killed, each payload is stored as it was sent or told to be lost, and none stays pending', async () => {
  const calls = 12;
  const work = Array.from({ length: calls }, async (_, at) => {
    const answer = await call({ id: `c${at}`, note: 'n'.repeat(at * 4_000) });
    await answer.text();
  });
  const ended = Promise.allSettled(work);
  // The first is answered; the others are wherever they are.
  await work[0];
  await killed();
  await ended;
  const events = await eventsWith(auditor.api, { count: 3, ...settled, serverId });
  // But for the two of before.
  const mine = events.slice(0, -2);
  expect(mine.length).toBeLessThanOrEqual(calls);
  for (const { id, payloads } of mine) {
    const [request] = payloads;
    if (request?.state !== 'STORED') continue;
    const [message = ''] = (await readPayload(auditor.api, id, 'REQUEST')).messages;
    const { arguments: values } = (JSON.parse(message) as { params: { arguments: { id: string } } }).params;
    expect(message).toBe(sentBy({ id: values.id, note: 'n'.repeat(Number(values.id.slice(1)) * 4_000) }));
  }
}, 120_000);
