import { connect, createServer, type Server } from 'node:net';
import { freePort } from '@sallyport/cli';
import { parseConfig, startControlPlane } from '@sallyport/control-plane';
import { createLog } from '@sallyport/schema/platform';
import { expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { askGraphql, testSecretKey } from '../kit/control-plane.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

async function get(url: string): Promise<Answer> {
  const response = await fetch(url);
  const text = await response.text();
  return { status: response.status, body: text.startsWith('{') ? JSON.parse(text) : text };
}

/** Passes connections on to the database: while it is not there, the database is away. */
async function startForwarder(port: number, target: URL): Promise<Server> {
  const server = createServer((socket) => {
    const database = connect(Number(target.port), target.hostname);
    for (const end of [socket, database]) end.on('error', () => end.destroy());
    socket.pipe(database).pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return server;
}

function configFor(databaseUrl: string, operationsPort: number) {
  const parsed = parseConfig({
    DATABASE_URL: databaseUrl,
    SALLYPORT_SECRET_KEY: testSecretKey,
    SALLYPORT_LISTEN_PORT: '0',
    SALLYPORT_OPERATIONS_PORT: String(operationsPort),
    SALLYPORT_DATABASE_CONNECTIONS_MAX: '5',
    SALLYPORT_DRAIN_TIMEOUT_MS: '500',
  });
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'));
  return parsed.config;
}

test('a control plane started before its database waits, alive and not ready, says so, and then serves', async () => {
  const database = new URL((await createMigratedDatabase()).url);
  const [port, operationsPort] = [await freePort(), await freePort()];
  const throughForwarder = new URL(database);
  throughForwarder.host = `127.0.0.1:${port}`;
  const lines: string[] = [];
  const log = createLog({ name: 'test', level: 'info' }, { write: (line) => void lines.push(line) });
  const starting = startControlPlane(configFor(throughForwarder.href, operationsPort), { log });
  const operationsUrl = `http://127.0.0.1:${operationsPort}`;
  await waitFor('the log says what is waited for', () => lines.some((line) => line.includes('waiting for it')));
  const waiting = lines.find((line) => line.includes('waiting for it')) ?? '';
  expect(waiting).toContain(String(port));
  expect(waiting).not.toContain(database.password);
  expect(await get(`${operationsUrl}/healthz`)).toMatchObject({ status: 200 });
  expect(await get(`${operationsUrl}/readyz`)).toEqual({
    status: 503,
    body: { ready: false, reasons: ['it is starting or stopping', 'the database does not answer'] },
  });

  const forwarder = await startForwarder(port, database);
  const controlPlane = await starting;
  expect(await get(`${operationsUrl}/readyz`)).toMatchObject({ status: 200, body: { ready: true } });
  expect((await askGraphql(controlPlane.graphqlUrl ?? '', '{ __typename }')).status).toBe(200);
  await controlPlane.stop();
  await new Promise((resolve) => forwarder.close(resolve));
});

test('what waiting does not mend ends the start at once with its reason', async () => {
  const url = new URL((await createMigratedDatabase()).url);
  url.password = 'wrong';
  const log = createLog({ name: 'test', level: 'silent' });
  await expect(startControlPlane(configFor(url.href, 0), { log })).rejects.toThrow(/password authentication failed/);
});
