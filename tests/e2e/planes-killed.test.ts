import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createGraphqlClient, freePort } from '@sallyport/cli';
import { prepareQueueDatabase, randomSecret } from '@sallyport/schema/platform';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { Program } from '../kit/program.ts';
import { askModern } from '../kit/raw-mcp.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-planes-'));
const programs: Program[] = [];
let upstream: FakeUpstream;
let controlPlane: Program;
let nodes: { readonly program: Program; readonly url: string }[];
let administrator: Administrator;
let key: string;
let grantId: string;

function program(script: string, environment: Record<string, string>, operationsPort: number): Program {
  const all = { ...environment, SALLYPORT_OPERATIONS_PORT: String(operationsPort), SALLYPORT_DRAIN_TIMEOUT_MS: '2000' };
  const started = new Program(script, all, `http://127.0.0.1:${operationsPort}`);
  programs.push(started);
  return started;
}

beforeAll(async () => {
  const database = await createMigratedDatabase();
  const password = randomSecret('q_');
  const queueUrl = await prepareQueueDatabase(database.url, { role: `queue_${database.name}`, password });
  upstream = await startFakeUpstream();
  const egress = { SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(upstream.url).port}` };
  const token = randomSecret('spb_');
  const port = await freePort();
  const plane = {
    ...egress,
    DATABASE_URL: database.url,
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_BOOTSTRAP_TOKEN: token,
    SALLYPORT_LISTEN_PORT: String(port),
  };
  controlPlane = program('control-plane/dist/main.js', plane, await freePort());
  await controlPlane.start();
  const graphqlUrl = `http://127.0.0.1:${port}/graphql`;
  const { bootstrap } = await createGraphqlClient(graphqlUrl, undefined).ask(
    'mutation ($token: String!) { bootstrap(input: { token: $token }) { secret } }',
    { token },
    z.object({ bootstrap: z.object({ secret: z.string() }) }),
  );
  administrator = new Administrator(createGraphqlClient(graphqlUrl, bootstrap.secret), 2);
  const joinToken = await administrator.createJoinToken(2);
  nodes = await Promise.all(
    ['node-1', 'node-2'].map(async (name) => {
      const listenPort = await freePort();
      const environment = {
        ...egress,
        DATABASE_URL: queueUrl,
        SALLYPORT_CONTROL_PLANE_URL: `ws://127.0.0.1:${port}/sync`,
        SALLYPORT_JOIN_TOKEN: joinToken,
        SALLYPORT_NODE_NAME: name,
        SALLYPORT_NODE_SECRET: randomSecret('node_'),
        SALLYPORT_DATA_DIRECTORY: join(directory, name),
        SALLYPORT_LISTEN_PORT: String(listenPort),
      };
      const node = program('data-plane/dist/main.js', environment, await freePort());
      await node.start();
      return { program: node, url: `http://127.0.0.1:${listenPort}/mcp/counter` };
    }),
  );
  const server = await administrator.registerServer('counter', upstream.url);
  ({ key } = await administrator.createClient('caller'));
  grantId = await administrator.grant({ serverId: server.id, tools: ['count'] });
  await administrator.converged();
});
afterAll(async () => {
  await Promise.all(programs.map((one) => one.end('SIGKILL')));
  await upstream.stop();
  rmSync(directory, { recursive: true, force: true });
});

/** Whether each node lets the caller count. */
function allowed(): Promise<boolean[]> {
  const request = { method: 'tools/call', params: { name: 'count', arguments: { id: 'x' } } };
  return Promise.all(
    nodes.map(async ({ url }) => {
      const { status, body } = await askModern({ url, key }, request);
      return status === 200 && body.includes('"result"');
    }),
  );
}

test('with the control plane killed nodes go on, also one that is killed and started meanwhile, and then converge', async () => {
  expect(await allowed()).toEqual([true, true]);
  await controlPlane.end('SIGKILL');
  expect(await allowed()).toEqual([true, true]);
  await nodes[0]?.program.end('SIGKILL');
  await nodes[0]?.program.start();
  expect(await allowed()).toEqual([true, true]);
  await controlPlane.start();
  await administrator.mutate('deleteGrant', { id: grantId }, 'id', z.object({ id: z.string() }));
  await administrator.converged();
  await waitFor('both nodes refuse', async () => (await allowed()).every((one) => !one));
});
