/** The programs as production runs them: each role a process of its own, everything that may leave the machine over TLS. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { createGraphqlClient, freePort } from '@sallyport/cli';
import { prepareQueueDatabase, randomSecret, systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator, type RegisteredServer } from '../kit/administrator.ts';
import { makeCertificate, type TestCertificate } from '../kit/certificate.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { createEmptyDatabase } from '../kit/postgres.ts';
import { Program } from '../kit/program.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { modern } from '../data-plane/requests.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-split-'));
const nodeDirectory = join(directory, 'node');
const drainTimeoutMs = 15_000;
const programs: Program[] = [];

let certificate: TestCertificate;
let upstream: FakeUpstream;
let sql: postgres.Sql;
let api: Program;
let worker: Program;
let node: Program;
let apiPort: number;
let endpoint: { readonly url: string; readonly key: string };
let administrator: Administrator;
let server: RegisteredServer;

async function program(script: string, environment: Readonly<Record<string, string>>): Promise<Program> {
  const port = await freePort();
  const all = {
    ...environment,
    SALLYPORT_OPERATIONS_PORT: String(port),
    SALLYPORT_DRAIN_TIMEOUT_MS: String(drainTimeoutMs),
  };
  const made = new Program(script, all, `http://127.0.0.1:${port}`);
  programs.push(made);
  return made;
}

/** Both roles at once over a database that is still empty. */
async function startControlPlane(databaseUrl: string, tls: Readonly<Record<string, string>>): Promise<void> {
  apiPort = await freePort();
  const plane = {
    DATABASE_URL: databaseUrl,
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(upstream.url).port}`,
  };
  api = await program('control-plane/dist/main.js', {
    ...plane,
    ...tls,
    SALLYPORT_ROLES: 'api',
    SALLYPORT_LISTEN_PORT: String(apiPort),
  });
  worker = await program('control-plane/dist/main.js', { ...plane, SALLYPORT_ROLES: 'worker' });
  await Promise.all([api.start(), worker.start()]);
}

async function startNode(queueUrl: string, tls: Readonly<Record<string, string>>): Promise<string> {
  const port = await freePort();
  node = await program('data-plane/dist/main.js', {
    ...tls,
    NODE_EXTRA_CA_CERTS: certificate.certFile,
    DATABASE_URL: queueUrl,
    SALLYPORT_CONTROL_PLANE_URL: `https://127.0.0.1:${apiPort}`,
    SALLYPORT_JOIN_TOKEN: await administrator.createJoinToken(1),
    SALLYPORT_NODE_SECRET: randomSecret('node_'),
    SALLYPORT_DATA_DIRECTORY: nodeDirectory,
    SALLYPORT_LISTEN_PORT: String(port),
    SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(upstream.url).port}`,
  });
  await node.start();
  return `https://127.0.0.1:${port}/mcp/counter`;
}

beforeAll(async () => {
  certificate = makeCertificate(directory, systemClock.now());
  setDefaultCACertificates([...getCACertificates('default'), certificate.certificate]);
  const tls = { SALLYPORT_TLS_CERT_FILE: certificate.certFile, SALLYPORT_TLS_KEY_FILE: certificate.keyFile };
  const database = await createEmptyDatabase();
  sql = postgres(database.url, { max: 2, onnotice: () => undefined });
  const role = { role: `queue_${database.name}`, password: randomSecret('q_') };
  const queueUrl = await prepareQueueDatabase(database.url, role);
  upstream = await startFakeUpstream();
  await startControlPlane(database.url, tls);
  const token = (await waitFor('the token is printed', () => /spb_[\w-]+/.exec(api.output)))[0];
  const graphqlUrl = `https://127.0.0.1:${apiPort}/graphql`;
  const { bootstrap } = await createGraphqlClient(graphqlUrl, undefined).ask(
    'mutation ($token: String!) { bootstrap(input: { token: $token }) { secret } }',
    { token },
    z.object({ bootstrap: z.object({ secret: z.string() }) }),
  );
  administrator = new Administrator(createGraphqlClient(graphqlUrl, bootstrap.secret), 1);
  const url = await startNode(queueUrl, tls);
  server = await administrator.registerServer('counter', upstream.url);
  const { key } = await administrator.createClient('caller');
  await administrator.grant({ serverId: server.id, tools: ['count'] });
  await administrator.converged();
  endpoint = { url, key };
});
afterAll(async () => {
  await Promise.all(programs.map((one) => one.end('SIGKILL')));
  await sql?.end();
  await upstream?.stop();
  rmSync(directory, { recursive: true, force: true });
});

async function mayCall(tool: string): Promise<boolean> {
  const request = { method: 'tools/call', params: { name: tool, arguments: { id: tool } } };
  return (await askModern(endpoint, request)).body.includes('"result"');
}

/**
 * Calls a tool with a trace id that begins so.
 * @returns `refused`: nothing of an answer came. `cut`: a part of one did.
 */
async function outcomeOf(
  trace: string,
  tool: string,
  values: Readonly<Record<string, unknown>> = {},
): Promise<'answered' | 'refused' | 'cut'> {
  const { body, headers } = modern('tools/call', { name: tool, arguments: { id: tool, ...values } });
  const all = {
    ...headers,
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    authorization: `Bearer ${endpoint.key}`,
    traceparent: `00-${trace}${randomBytes(12).toString('hex')}-00f067aa0ba902b7-01`,
  };
  const response = await fetch(endpoint.url, { method: 'POST', headers: all, body }).catch(() => undefined);
  if (response === undefined) return 'refused';
  const text = await response.text().catch(() => '');
  return text.includes('"result"') ? 'answered' : 'cut';
}

/** Calls recorded whole whose trace id begins so. */
async function recorded(trace: string): Promise<number> {
  const [row] = await sql<{ n: number }[]>`
    select count(*)::integer as n from audit_events
    where kind = 'exchange' and outcome is not null and starts_with(trace_id, ${trace})`;
  return row?.n ?? 0;
}

test('a bootstrap token made at the first start is printed once, whatever the log level, and opens once', async () => {
  const tokens = new Set(programs.flatMap(({ output }) => output.match(/spb_[\w-]+/g) ?? []));
  expect(tokens.size).toBe(1);
  const [token] = tokens;
  const again = createGraphqlClient(`https://127.0.0.1:${apiPort}/graphql`, undefined).ask(
    'mutation ($token: String!) { bootstrap(input: { token: $token }) { secret } }',
    { token },
    z.unknown(),
  );
  await expect(again).rejects.toThrow(/Authentication is required/);
});

test('over TLS nodes are called, sync and the API work, and none of their ports answers without it', async () => {
  expect(await mayCall('count')).toBe(true);
  for (const url of [endpoint.url, `https://127.0.0.1:${apiPort}/graphql`]) {
    const plain = await new Promise<string>((resolve) => {
      const request = get(url.replace('https', 'http'), ({ statusCode }) => resolve(String(statusCode)));
      request.once('error', ({ message }) => resolve(message));
    });
    expect(plain).toMatch(/hang up|ECONNRESET/);
  }
});

test('what the worker does waits while it is gone: the API answers, nodes serve, nothing is lost', async () => {
  const trace = 'aaaaaaaa';
  await worker.end('SIGTERM');
  for (let n = 0; n < 3; n += 1) expect(await outcomeOf(trace, 'count')).toBe('answered');
  await administrator.converged();
  expect(await recorded(trace)).toBe(0);
  await worker.start();
  await waitFor('the calls are stored', async () => (await recorded(trace)) === 3);
});

test('a node killed by SIGKILL between the swap and its acknowledgement serves the one configuration or the other', async () => {
  // The manifest is written last, to this name first: a pipe that nobody reads holds it there, all documents written.
  const held = join(nodeDirectory, 'config', 'manifest.tmp');
  expect(spawnSync('mkfifo', [held]).status).toBe(0);
  await administrator.grant({ serverId: server.id, tools: ['slow'] });
  await waitFor('the node has swapped', () => mayCall('slow'));
  const status = z.object({ configStatus: z.object({ nodesLive: z.number(), nodesTotal: z.number() }) });
  const seen = await administrator.api.ask('{ configStatus { nodesLive nodesTotal } }', {}, status);
  expect(seen.configStatus).toEqual({ nodesLive: 0, nodesTotal: 1 });
  await node.end('SIGKILL');
  await api.end('SIGKILL');
  // Alone with its disk it serves what it acknowledged last, whole.
  await node.start();
  expect(existsSync(held)).toBe(false);
  expect([await mayCall('count'), await mayCall('slow')]).toEqual([true, false]);
  await api.start();
  await administrator.converged();
  expect([await mayCall('count'), await mayCall('slow')]).toEqual([true, true]);
});

test('SIGTERM under load: no answer is cut, all is recorded and confirmed, and the process ends well within its time', async () => {
  await administrator.grant({ serverId: server.id, tools: ['stream'] });
  await administrator.converged();
  const trace = 'dddddddd';
  const outcomes: ('answered' | 'refused' | 'cut')[] = [];
  const load = { stop: false };
  const tools = [
    ['count', {}],
    ['slow', { delayMs: 400 }],
    ['stream', { events: 20, delayMs: 20 }],
  ] as const;
  const clients = Array.from({ length: 12 }, async (_, client) => {
    const [tool, values] = tools[client % tools.length] ?? tools[0];
    while (!load.stop) outcomes.push(await outcomeOf(trace, tool, values));
  });
  await waitFor('load', () => outcomes.length > 100);
  const startedAt = performance.now();
  await node.end('SIGTERM');
  expect(node.exitCode).toBe(0);
  expect(performance.now() - startedAt).toBeLessThan(drainTimeoutMs);
  load.stop = true;
  await Promise.all(clients);
  expect(outcomes.filter((outcome) => outcome === 'cut')).toEqual([]);
  const answered = outcomes.filter((outcome) => outcome === 'answered').length;
  await waitFor('every answered call is stored', async () => (await recorded(trace)) >= answered);
  expect(await recorded(trace)).toBe(answered);
  const running = await sql`select epoch from audit_epochs where ended_at is null and node_id <> 'control-plane'`;
  expect(running).toEqual([]);
  expect(readdirSync(join(nodeDirectory, 'spool')).filter((name) => name.includes('-'))).toEqual([]);
});
