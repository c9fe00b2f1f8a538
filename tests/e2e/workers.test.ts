/** One node program with several workers that share its port, before a real control plane. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '@sallyport/cli';
import { randomSecret } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { Client } from 'undici';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { toolCall } from '../bench/tool-call.ts';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { Program } from '../kit/program.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-workers-'));
const nodeDirectory = join(directory, 'node');
const deadlineMs = 60_000;
let upstream: EchoUpstream;
let harness: Harness;
let administrator: Administrator;
let program: Program;
let sql: postgres.Sql;
let operationsUrl: string;
let endpoint: { readonly url: string; readonly key: string };
let grantId: string;
/** Calls that were answered, and so must be on record. */
let answered = 0;

async function makeProgram(workers: string): Promise<Program> {
  const operationsPort = await freePort();
  operationsUrl = `http://127.0.0.1:${operationsPort}`;
  const environment = {
    DATABASE_URL: harness.databaseUrl,
    SALLYPORT_CONTROL_PLANE_URL: harness.controlPlane.syncUrl ?? '',
    SALLYPORT_JOIN_TOKEN: await administrator.createJoinToken(3),
    SALLYPORT_NODE_NAME: 'shared',
    SALLYPORT_NODE_SECRET: nodeSecret,
    SALLYPORT_DATA_DIRECTORY: nodeDirectory,
    SALLYPORT_WORKERS: workers,
    SALLYPORT_LISTEN_PORT: String(port),
    SALLYPORT_OPERATIONS_PORT: String(operationsPort),
    SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(upstream.url).port}`,
  };
  return new Program('data-plane/dist/main.js', environment, operationsUrl);
}

const nodeSecret = randomSecret('node_');
let port: number;

beforeAll(async () => {
  upstream = await startEchoUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 1 });
  // The harness's own node, and two workers.
  administrator = new Administrator(harness.administrator.api, 3);
  sql = postgres(harness.databaseUrl, { max: 2, onnotice: () => undefined });
  port = await freePort();
  program = await makeProgram('2');
  await program.start();
  const { id } = await administrator.registerServer('echo', upstream.url);
  const { key } = await administrator.createClient('caller');
  grantId = await administrator.grant({ serverId: id, tools: ['echo'] });
  await administrator.converged();
  endpoint = { url: `http://127.0.0.1:${port}/mcp/echo`, key };
}, 120_000);
afterAll(async () => {
  await program?.end('SIGKILL');
  await sql?.end();
  await harness?.stop();
  await upstream?.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** Over a connection of its own, which the system gives to one of the workers. */
async function mayCall(): Promise<boolean> {
  const { url, headers, body } = toolCall(new URL(endpoint.url), endpoint.key, 'echo', {});
  const client = new Client(url.origin);
  const response = await client.request({ path: url.pathname, method: 'POST', headers, body });
  const text = await response.body.text();
  await client.close();
  answered++;
  return text.includes('"result"');
}

const metrics = async (): Promise<string> => (await fetch(`${operationsUrl}/metrics`)).text();

/** Requests that each worker served, by its number. */
async function served(): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const line of (await metrics()).split('\n')) {
    const found = /^sallyport_exchanges_total\{.*worker="(\d+)".*\} (\d+)/.exec(line);
    if (found !== null) counts.set(found[1] ?? '', (counts.get(found[1] ?? '') ?? 0) + Number(found[2]));
  }
  return counts;
}

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);

const nodeNames = async (): Promise<string[]> => {
  const nodes = z.object({ nodes: z.object({ edges: z.array(z.object({ node: z.object({ name: z.string() }) })) }) });
  const answer = await administrator.api.ask('{ nodes(first: 20) { edges { node { name } } } }', {}, nodes);
  return answer.nodes.edges.map(({ node }) => node.name);
};

test('each worker is a node to the control plane, and both serve what comes to their port', async () => {
  expect(await nodeNames()).toEqual(expect.arrayContaining(['shared/1', 'shared/2']));
  await waitFor(
    'both have served',
    async () => {
      expect(await mayCall()).toBe(true);
      return (await served()).size === 2;
    },
    { deadlineMs },
  );
});

test('with one worker killed the other serves on, it comes back, and no record is lost', async () => {
  const [first = 0] = childrenOf(program.pid ?? 0);
  process.kill(first, 'SIGKILL');
  await waitFor('the killed one is missed', async () => !(await fetch(`${operationsUrl}/readyz`)).ok);
  // The port knows the dead one no more: every new connection reaches the other.
  for (let n = 0; n < 20; n++) expect(await mayCall()).toBe(true);
  await waitFor('it is back', async () => (await fetch(`${operationsUrl}/readyz`)).ok, { deadlineMs });
  expect(await metrics()).toMatch(/sallyport_worker_restarts\{worker="1"\} 1/);
  const recorded = async (): Promise<number> =>
    Number(
      (await sql`select count(*) from audit_events where server_slug = 'echo' and kind = 'exchange'`)[0]?.['count'],
    );
  await waitFor('every answered call is on record', async () => (await recorded()) >= answered, { deadlineMs });
});

test('a revocation reaches every worker', async () => {
  await waitFor('all are live', () => administrator.converged(), { deadlineMs });
  await administrator.mutate('deleteGrant', { id: grantId }, 'id', z.object({ id: z.string() }));
  await waitFor('all are live', () => administrator.converged(), { deadlineMs });
  const before = await served();
  await waitFor(
    'both have refused',
    async () => {
      expect(await mayCall()).toBe(false);
      const now = await served();
      return [...now].filter(([worker, count]) => count > (before.get(worker) ?? 0)).length === 2;
    },
    { deadlineMs },
  );
});

test('all are drained though each is asked twice, and what fewer workers find of one that is gone is brought home', async () => {
  const { url, headers, body } = toolCall(new URL(endpoint.url), endpoint.key, 'echo', {});
  const call = connect(port, '127.0.0.1');
  let answer = '';
  call.setEncoding('utf8').on('data', (text: string) => (answer += text));
  const lines = Object.entries({ host: url.host, 'content-length': body.length, expect: '100-continue', ...headers });
  call.write(`POST ${url.pathname} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`);
  await waitFor('the call is under way', () => answer === 'HTTP/1.1 100 Continue\r\n\r\n');
  const readiness = async (): Promise<string> => (await fetch(`${operationsUrl}/readyz`)).text();
  // As where a service is stopped with all of its processes.
  for (const worker of childrenOf(program.pid ?? 0)) process.kill(worker, 'SIGTERM');
  await waitFor('the worker with the call drains', async () => /worker \d: draining/.test(await readiness()));
  const ended = program.end('SIGTERM');
  await waitFor('the program drains', async () => /(?<!: )draining/.test(await readiness()));
  call.write(body);
  await waitFor('the call is answered', () => /Continue\r\n\r\nHTTP[^]*"id":1/.test(answer));
  await ended;
  expect(program.exitCode).toBe(0);
  const left = join(nodeDirectory, 'worker-2');
  expect(existsSync(left)).toBe(true);
  program = await makeProgram('1');
  await program.start();
  await waitFor('the worker that is gone is forgotten', () => !existsSync(left), { deadlineMs });
  await program.end('SIGTERM');
  expect(program.exitCode).toBe(0);
});
