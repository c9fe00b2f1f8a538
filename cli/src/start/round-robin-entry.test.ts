import { createServer, request, type RequestListener, type Server } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { systemClock } from '@sallyport/schema/platform';
import { freePort } from './ports.ts';
import { type RoundRobinEntry, startRoundRobinEntry } from './round-robin-entry.ts';

const servers: Server[] = [];
const entries: RoundRobinEntry[] = [];

afterEach(async () => {
  await Promise.all(entries.splice(0).map((entry) => entry.stop(0)));
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

async function listen(listener: RequestListener): Promise<URL> {
  const server = createServer(listener);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return new URL(`http://127.0.0.1:${address.port}`);
}

async function enter(nodes: readonly URL[]): Promise<string> {
  const entry = await startRoundRobinEntry({ host: '127.0.0.1', port: 0, nodes, clock: systemClock });
  entries.push(entry);
  return `http://127.0.0.1:${entry.port}`;
}

const named =
  (name: string): RequestListener =>
  (_, response) =>
    response.end(name);

test('requests go to the nodes in turn', async () => {
  const entry = await enter([await listen(named('a')), await listen(named('b'))]);
  const answers: string[] = [];
  for (let at = 0; at < 4; at++) answers.push(await (await fetch(entry)).text());
  expect(answers).toEqual(['a', 'b', 'a', 'b']);
});

test('a node that refuses connections is replaced by the next, with the whole body', async () => {
  const echo = await listen((incoming, outgoing) => incoming.pipe(outgoing));
  const dead = new URL(`http://127.0.0.1:${await freePort()}`);
  const entry = await enter([dead, echo]);
  for (let at = 0; at < 3; at++) {
    const body = `${at}`.repeat(200_000);
    expect(await (await fetch(entry, { method: 'POST', body })).text()).toBe(body);
  }
});

test('without any node the answer is 503 with Retry-After', async () => {
  const entry = await enter([new URL(`http://127.0.0.1:${await freePort()}`)]);
  const answer = await fetch(entry);
  expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
});

test('a request that reached a node is not repeated on another', async () => {
  const seen: string[] = [];
  const breaking: RequestListener = (incoming) => {
    seen.push('a');
    incoming.socket.destroy();
  };
  const entry = await enter([
    await listen(breaking),
    await listen((_, outgoing) => {
      seen.push('b');
      outgoing.end();
    }),
  ]);
  expect((await fetch(entry, { method: 'POST', body: '{}' })).status).toBe(502);
  expect(seen).toEqual(['a']);
});

test('Host, repeated fields, status and path pass unchanged, and connection fields do not', async () => {
  const node = await listen((incoming, outgoing) => {
    outgoing.writeHead(418, ['set-cookie', 'a=1', 'set-cookie', 'b=2', 'x-echo', incoming.rawHeaders.join('|')]);
    outgoing.end(incoming.url);
  });
  const entry = new URL(await enter([node]));
  const answer = await new Promise<{ status: number; cookies: unknown; echo: string; body: string }>((resolve) => {
    request(
      {
        port: entry.port,
        host: entry.hostname,
        path: '/mcp/a%2Fb?q=1',
        headers: {
          host: 'gateway.example',
          connection: 'x-hop',
          'x-hop': '1',
          'mcp-name': 'echo',
          'x-forwarded-for': '192.0.2.7',
        },
      },
      (response) => {
        let body = '';
        response.on('data', (chunk: Buffer) => (body += chunk.toString()));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            cookies: response.headers['set-cookie'],
            echo: String(response.headers['x-echo']),
            body,
          }),
        );
      },
    ).end();
  });
  expect(answer).toMatchObject({ status: 418, cookies: ['a=1', 'b=2'], body: '/mcp/a%2Fb?q=1' });
  expect(answer.echo).toContain('host|gateway.example');
  expect(answer.echo).toContain('mcp-name|echo');
  expect(answer.echo).toContain('X-Forwarded-For|192.0.2.7, 127.0.0.1');
  expect(answer.echo).not.toContain('x-hop');
});

test('events arrive one by one, and a client that leaves closes the stream at the node', async () => {
  let left: () => void = () => undefined;
  const closed = new Promise<void>((resolve) => (left = resolve));
  let next: () => void = () => undefined;
  const node = await listen((_, outgoing) => {
    outgoing.writeHead(200, { 'content-type': 'text/event-stream' });
    outgoing.flushHeaders();
    next = () => outgoing.write('data: 1\n\n');
    outgoing.on('close', left);
  });
  const leaving = new AbortController();
  const answer = await fetch(await enter([node]), { signal: leaving.signal });
  next();
  const chunk = await answer.body?.getReader().read();
  expect(new TextDecoder().decode(chunk?.value)).toBe('data: 1\n\n');
  leaving.abort();
  await closed;
});
