import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { httpEngines } from '../kit/config.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { modern, send } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;

const start = (more: Partial<TestConfiguration>): Promise<PipelineNode> =>
  startPipelineNode({
    servers: [{ slug: 'open', url: upstream.url, tools: ['count'] }],
    grants: [{ server: 'open', tools: ['*'] }],
    ...more,
  });

beforeAll(async () => {
  upstream = await startFakeUpstream();
});
afterAll(async () => {
  await upstream.stop();
});

/** Writes bytes to the node's port and gives what comes back until the connection closes or `until` matches. */
function raw(parts: readonly string[], until = /$never/, { port } = node): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(port, '127.0.0.1', () => {
      for (const part of parts) socket.write(part);
    });
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (until.test(text)) socket.destroy();
    });
    socket.once('close', () => resolve(text));
    socket.once('error', reject);
  });
}
const head = (...lines: string[]) =>
  [
    'POST /mcp/open HTTP/1.1',
    'host: 127.0.0.1',
    `authorization: Bearer ${testKey}`,
    'content-type: application/json',
    'accept: application/json, text/event-stream',
    ...lines,
    '',
    '',
  ].join('\r\n');

const call = modern('tools/call', { name: 'count', arguments: {} });
const length = `content-length: ${Buffer.byteLength(call.body)}`;
const mirrored = Object.entries(call.headers).map(([name, value]) => `${name}: ${value}`);

describe.each(httpEngines)('with %s', (httpEngine) => {
  beforeAll(async () => {
    node = await start({
      limits: { requestBodyBytesMax: 200_000 },
      listener: { requestBodyTimeoutMs: 300, requestBodiesBytesMax: 300_000, requestHeaderBytesMax: 8_192 },
      httpEngine,
    });
  });
  afterAll(async () => {
    await node.stop();
  });

  test('a body far above the limit is answered with 413, whether its length is declared or not [P20]', async () => {
    const body = JSON.stringify({ text: 'x'.repeat(8_000_000) });
    for (const headers of [{}, { 'transfer-encoding': 'chunked' }]) {
      const answer = await send(node.url('open'), { body, headers });
      expect([answer.status, answer.json.error.code]).toEqual([413, 1009]);
    }
  });

  test('a body that does not come in time is answered with 408 and its connection closed', async () => {
    const text = await raw([head('content-length: 100'), '{']);
    expect(text).toMatch(/^HTTP\/1\.1 408 [\s\S]*"code":1013/);
    expect(node.records.at(-1)).toMatchObject({ type: 'refused', outcome: 'malformed', status: 408 });
  });

  test('a token and a session of the longest kinds fit into it [P20]', async () => {
    const [before, lines] = [upstream.requests.length, [`x-jwt: ${'j'.repeat(4_096)}`, 'content-length: 0']];
    const text = await raw([head(`mcp-session-id: ${'s'.repeat(2_048)}`, ...lines)], /\}\}$/);
    expect(text).toMatch(/^HTTP\/1\.1 4(?:00|04) /);
    expect(upstream.requests.length).toBe(before);
  });

  test('a header block above the limit is answered with 431 [P20]', async () => {
    const before = node.records.length;
    expect(await raw([head(`x-long: ${'x'.repeat(9_000)}`)])).toMatch(/^HTTP\/1\.1 431 [\s\S]*"code":1012/);
    expect(node.records.slice(before)).toMatchObject([{ type: 'refused', outcome: 'malformed', status: 431 }]);
  });

  test.each([
    ['no HTTP', 'nonsense\r\n\r\n', 400],
    ['two lengths', head('content-length: 1', 'content-length: 2'), 400],
    ['a length and a chunked body', head('content-length: 1', 'transfer-encoding: chunked'), 400],
    ['a body that is coded twice', `${head('transfer-encoding: gzip, chunked')}0\r\n\r\n`, 400],
    ['a folded header', head('x: a\r\n b'), 400],
    ['no host', 'POST /mcp/open HTTP/1.1\r\n\r\n', 400],
    ['a tunnel', 'CONNECT evil.example:443 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n', 404],
  ])('%s is refused without reaching the upstream, and recorded', async (_what, bytes, status) => {
    const [before, recorded] = [upstream.requests.length, node.records.length];
    expect(await raw([bytes], /\}\}$/)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} [A-Z]`));
    expect(upstream.requests.length).toBe(before);
    expect(node.records.slice(recorded)).toMatchObject([
      { type: 'refused', status, principal: null, client: { address: '127.0.0.1' } },
    ]);
  });

  test('a second Host, an absolute target and another path are refused', async () => {
    const good = head(length, ...mirrored);
    expect(await raw([good, call.body], /\}\}$/)).toMatch(/^HTTP\/1\.1 200/);
    const second = head('host: evil.example', length, ...mirrored);
    expect(await raw([second, call.body], /\}\}$/)).toMatch(/^HTTP\/1\.1 400/);
    for (const target of [
      'http://evil.example/mcp/open',
      '/mcp/open/',
      '/mcp/open/../open',
      '/mcp/OPEN',
      '/mcp/%6fpen',
      '//mcp/open',
    ]) {
      expect(await raw([good.replace('/mcp/open', target), call.body], /\}\}$/)).toMatch(/^HTTP\/1\.1 404/);
    }
  });

  test('bodies that wait share one bound of memory', async () => {
    const slow = [1, 2].map(() => raw([head('content-length: 150000'), 'x'.repeat(149_000)]));
    await waitFor(
      'a further body is refused',
      async () => {
        const answer = await send(node.url('open'), { ...call, body: call.body.padEnd(100_000) });
        return answer.status === 503 && answer.headers['retry-after'] === '1';
      },
      { deadlineMs: 250, intervalMs: 5 },
    );
    await Promise.all(slow);
    expect((await send(node.url('open'), call)).status).toBe(200);
  });

  test('strangers cannot take the memory that bodies share', async () => {
    const unread = node.records.length;
    const stranger = { authorization: 'Bearer sp_a_key_that_does_not_exist' };
    for (const headers of [stranger, { ...stranger, 'transfer-encoding': 'chunked' }]) {
      const answer = await send(node.url('open'), { body: 'x'.repeat(150_000), headers });
      expect([answer.status, answer.headers['www-authenticate']]).toEqual([401, 'Bearer error="invalid_token"']);
    }
    expect(node.records.slice(unread)).toMatchObject([{ status: 401 }, { status: 401 }]);
    const slow = Array.from({ length: 4 }, () =>
      raw(
        [head('content-length: 150000').replace(testKey, 'sp_a_key_that_does_not_exist'), 'x'.repeat(149_000)],
        /401/,
      ),
    );
    await Promise.all(slow);
    expect((await send(node.url('open'), call)).status).toBe(200);
  });

  test('what a stranger claims of its address counts for nothing', async () => {
    await send(node.url('open'), { ...call, headers: { ...call.headers, 'x-forwarded-for': '203.0.113.9' } });
    expect(node.records.findLast(({ type }) => type === 'opened')).toMatchObject({ client: { address: '127.0.0.1' } });
  });

  test('of a trusted proxy the last stranger before it is the client', async () => {
    const behind = await start({ trustedProxies: ['127.0.0.0/8', '10.0.0.0/8'], httpEngine });
    await send(behind.url('open'), {
      ...call,
      headers: { ...call.headers, 'x-forwarded-for': '6.6.6.6, 203.0.113.9, 10.1.1.1' },
    });
    expect(behind.records[0]).toMatchObject({ client: { address: '203.0.113.9' } });
    await behind.stop();
  });

  test('a proxy that adds its hop in a line of its own is believed, the stranger’s line before it is not', async () => {
    const behind = await start({ trustedProxies: ['127.0.0.0/8'], httpEngine });
    await send(behind.url('open'), {
      ...call,
      headers: { ...call.headers, 'x-forwarded-for': ['6.6.6.6', '203.0.113.9'] },
    });
    expect(behind.records[0]).toMatchObject({ client: { address: '203.0.113.9' } });
    await behind.stop();
  });

  test('a request that expects what nobody offers is recorded like any other', async () => {
    const before = node.records.length;
    const text = await raw([head('expect: a-miracle', 'content-length: 2'), '{}'], /\}\}$/);
    expect(text).toMatch(/^HTTP\/1\.1 400 /);
    expect(node.records.slice(before)).toMatchObject([{ type: 'refused', outcome: 'malformed' }]);
  });

  test('connections beyond the limit are let go unread, and there is room again when one ends', async () => {
    const few = await start({ listener: { connectionsMax: 2 }, httpEngine });
    const held = [1, 2].map(() => connect(few.port, '127.0.0.1'));
    await Promise.all(held.map((socket) => once(socket, 'connect')));
    const socket = connect(few.port, '127.0.0.1');
    const answered = once(socket, 'data').then(
      () => 'answered',
      () => 'let go',
    );
    const closed = once(socket, 'close').then(
      () => 'let go',
      () => 'let go',
    );
    socket.write(head('content-length: 0'));
    expect(await Promise.race([answered, closed])).toBe('let go');
    held[0]?.destroy();
    await waitFor('room again', async () => (await send(few.url('open'), call)).status === 200);
    held[1]?.destroy();
    await few.stop();
  });
});

test('a connection that nothing is asked on is closed, by either pair of edges', async () => {
  const patient = await Promise.all(
    httpEngines.map((httpEngine) => start({ httpEngine, listener: { connectionIdleTimeoutMs: 100 } })),
  );
  // Each resolves when its connection closes.
  const texts = await Promise.all(patient.map((one) => raw([head(length, ...mirrored), call.body], undefined, one)));
  for (const text of texts) expect(text).toMatch(/^HTTP\/1\.1 200 /);
  await Promise.all(patient.map((one) => one.stop()));
});

test('credentials that do not open are bounded by network, and one that opens is served all the same', async () => {
  const behind = await start({ trustedProxies: ['127.0.0.0/8'] });
  const from = (address: string, authorization: string | undefined = `Bearer ${testKey}`) =>
    send(behind.url('open'), { ...call, headers: { ...call.headers, 'x-forwarded-for': address, authorization } });
  const wrong = 'Bearer sp_a_key_that_does_not_exist';
  const limited = await waitFor('the network is told to wait', async () => {
    const answer = await from('203.0.113.9', wrong);
    return answer.status === 429 && answer;
  });
  expect([limited.headers['retry-after'], limited.json.error.code]).toEqual(['1', 1006]);
  expect(
    behind.records.filter((record) => record.type === 'refused' && record.status === 401).length,
  ).toBeGreaterThanOrEqual(60);
  expect(behind.records.at(-1)).toMatchObject({
    type: 'refused',
    principal: null,
    decision: { reason: 'RATE_LIMITED' },
  });
  expect((await from('203.0.113.9')).status).toBe(200);
  expect((await from('203.0.113.10', wrong)).status).toBe(401);
  // Who presents nothing tries nothing: so a client asks where to authenticate.
  const anonymous = { ...call.headers, 'x-forwarded-for': '203.0.113.9', authorization: undefined };
  expect((await send(behind.url('open'), { ...call, headers: anonymous })).status).toBe(401);
  await behind.stop();
});
