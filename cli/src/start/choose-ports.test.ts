import { createServer, type Server } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { choosePorts } from './choose-ports.ts';
import { freePort } from './ports.ts';

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

async function busyPort(): Promise<number> {
  const port = await freePort();
  const server = createServer();
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return port;
}

test('every use gets a port of its own', async () => {
  const { ports } = await choosePorts({}, {});
  expect(new Set(Object.values(ports)).size).toBe(Object.keys(ports).length);
});

test('the ports of the last start are taken again', async () => {
  const { ports } = await choosePorts({}, {});
  expect(await choosePorts({}, ports)).toEqual({ ports, notices: [] });
});

test('a busy port is replaced, and for the ports people see they are told', async () => {
  const { ports: last } = await choosePorts({}, {});
  const entry = await busyPort();
  const node1 = await busyPort();
  const { ports, notices } = await choosePorts({}, { ...last, entry, node1 });
  expect([entry, node1]).not.toContain(ports.entry);
  expect([entry, node1]).not.toContain(ports.node1);
  expect(notices).toEqual([`Port ${entry} is used by another program, so ${ports.entry} is taken instead.`]);
});

test('a busy port that was asked for is refused with what to do', async () => {
  const entry = await busyPort();
  await expect(choosePorts({ entry }, {})).rejects.toThrow(
    `Port ${entry} is used by another program. Stop that program, or choose another port with --port`,
  );
});

test('a port that was asked for wins over the last one', async () => {
  const api = await freePort();
  expect((await choosePorts({ api }, {})).ports.api).toBe(api);
});
