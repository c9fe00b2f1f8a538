import { protocolRevisions, type RefusedRecord } from '@sallyport/schema';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { legacy, modern, modernParams, send, type Sent } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;
let configuration: TestConfiguration;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['granted', 'denied', 'other'] });
  configuration = {
    servers: [
      {
        slug: 'open',
        url: upstream.url,
        tools: ['granted', 'denied', 'other'],
        definitions: [{ kind: 'tool', name: 'count', approvedDigests: [], state: 'drifted', labels: null }],
      },
      { slug: 'closed', url: upstream.url, tools: ['granted'] },
      { slug: 'legacy-only', url: upstream.url, tools: ['granted'], protocolRevisions: ['2025-11-25', '2025-06-18'] },
      { slug: 'modern-only', url: upstream.url, tools: ['granted'], protocolRevisions: ['2026-07-28'] },
      { slug: 'ancient', url: upstream.url, tools: ['granted'], protocolRevisions: ['2023-01-01'] },
      { slug: 'stale', url: upstream.url, tools: ['granted'], configStalenessMaxMs: 1 },
    ],
    grants: [
      {
        server: 'open',
        tools: ['granted', 'denied', 'count'],
        prompts: ['shut'],
        resources: ['file://public/*', 'file://shut/*'],
      },
      { server: 'open', tools: ['denied'], prompts: ['shut'], resources: ['file://shut/*'], effect: 'deny' },
      { server: 'legacy-only', tools: ['*'] },
      { server: 'modern-only', tools: ['*'] },
      { server: 'ancient', tools: ['*'] },
      { server: 'stale', tools: ['*'] },
    ],
    principals: [
      { id: 'first', key: testKey },
      { id: 'another', key: otherKey, status: 'disabled' },
    ],
    limits: { requestBodyBytesMax: 10_000 },
  };
  node = await startPipelineNode(configuration);
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});
beforeEach(() => {
  node.records.length = 0;
});

const toolCall = (name: string) => modern('tools/call', { name, arguments: {} });
const good = toolCall('granted');

/** One row per refusal: what is sent to which server, what is answered, and what the record calls it. */
const rows: readonly [string, string, Sent, number, number, string][] = [
  [
    'receive denies a foreign Host',
    'open',
    { ...good, headers: { ...good.headers, host: 'evil.example' } },
    403,
    1007,
    'refused',
  ],
  [
    'receive denies a foreign Origin',
    'open',
    { ...good, headers: { ...good.headers, origin: 'https://evil.example' } },
    403,
    1007,
    'refused',
  ],
  [
    'receive denies the Origin null',
    'open',
    { ...good, headers: { ...good.headers, origin: 'null' } },
    403,
    1007,
    'refused',
  ],
  [
    'receive denies a repeated header',
    'open',
    { ...good, headers: { ...good.headers, 'mcp-name': ['granted', 'other'] } },
    400,
    -32600,
    'malformed',
  ],
  ['receive denies PUT', 'open', { method: 'PUT', body: '{}' }, 405, 1008, 'malformed'],
  [
    'receive denies no JSON',
    'open',
    { ...good, headers: { ...good.headers, 'content-type': 'text/plain' } },
    415,
    1010,
    'malformed',
  ],
  [
    'receive denies a content encoding',
    'open',
    { ...good, headers: { ...good.headers, 'content-encoding': 'gzip' } },
    415,
    1010,
    'malformed',
  ],
  [
    'receive denies an Accept without event streams',
    'open',
    { ...good, headers: { ...good.headers, accept: 'application/json' } },
    406,
    1011,
    'malformed',
  ],
  ['receive denies a body that is too large', 'open', { body: `"${'x'.repeat(10_000)}"` }, 413, 1009, 'malformed'],
  ['receive denies a broken body', 'open', { ...good, body: '{"jsonrpc":' }, 400, -32700, 'malformed'],
  ['receive denies a body with NUL', 'open', { ...good, body: '{"a":"\0"}' }, 400, -32700, 'malformed'],
  [
    'receive denies a body that is not UTF-8',
    'open',
    { ...good, body: Buffer.from([0x22, 0xff, 0x22]) },
    400,
    -32700,
    'malformed',
  ],
  [
    'receive denies a name given twice',
    'open',
    { ...good, body: good.body.replace('"name"', '"name":"denied","name"') },
    400,
    -32600,
    'malformed',
  ],
  ['receive denies an empty batch', 'open', { body: '[]' }, 400, -32600, 'malformed'],
  [
    'receive denies an id of null',
    'open',
    { body: '{"jsonrpc":"2.0","id":null,"method":"ping"}' },
    400,
    -32600,
    'malformed',
  ],
  ['receive denies no message', 'open', { body: '{"jsonrpc":"2.0","id":1}' }, 400, -32600, 'malformed'],
  [
    'receive denies headers that differ from the body',
    'open',
    { ...good, headers: { ...good.headers, 'mcp-name': 'other' } },
    400,
    -32020,
    'malformed',
  ],
  [
    'receive denies a modern GET',
    'open',
    { method: 'GET', headers: { 'mcp-protocol-version': '2026-07-28' } },
    405,
    1008,
    'malformed',
  ],
  [
    'authenticate denies no key',
    'open',
    { ...good, headers: { ...good.headers, authorization: undefined } },
    401,
    1001,
    'refused',
  ],
  [
    'authenticate denies an unknown key',
    'open',
    { ...good, headers: { ...good.headers, authorization: 'Bearer sp_unknown_key_of_nobody' } },
    401,
    1001,
    'refused',
  ],
  [
    'authenticate denies a disabled principal',
    'open',
    { ...good, headers: { ...good.headers, authorization: `Bearer ${otherKey}` } },
    401,
    1001,
    'refused',
  ],
  [
    'authenticate denies a key by another scheme',
    'open',
    { ...good, headers: { ...good.headers, authorization: `Basic ${testKey}` } },
    401,
    1001,
    'refused',
  ],
  [
    'authenticate denies GET without a key',
    'open',
    { method: 'GET', headers: { authorization: undefined } },
    401,
    1001,
    'refused',
  ],
  [
    'authenticate denies DELETE without a key',
    'open',
    { method: 'DELETE', headers: { authorization: undefined } },
    401,
    1001,
    'refused',
  ],
  [
    'authenticate denies initialize without a key',
    'open',
    { ...legacy('initialize'), headers: { authorization: undefined } },
    401,
    1001,
    'refused',
  ],
  ['route denies an unknown server', 'nowhere', good, 404, 1003, 'refused'],
  ['route denies a server without a grant', 'closed', good, 404, 1003, 'refused'],
  [
    'route denies a session nobody sealed',
    'open',
    { ...legacy('ping'), headers: { 'mcp-session-id': 'k1.AAAA' } },
    404,
    1015,
    'refused',
  ],
  ['authorize denies a denied tool', 'open', toolCall('denied'), 200, -32602, 'refused'],
  ['authorize denies a tool without a grant', 'open', toolCall('other'), 200, -32602, 'refused'],
  ['authorize denies an unknown tool', 'open', toolCall('nothing'), 200, -32602, 'refused'],
  ['authorize denies a drifted tool', 'open', toolCall('count'), 200, -32602, 'refused'],
  [
    'authorize denies a denied resource',
    'open',
    modern('resources/read', { uri: 'file://private/1' }),
    200,
    -32602,
    'refused',
  ],
  ['authorize denies an unknown method', 'open', modern('tools/destroy'), 404, -32601, 'refused'],
  ['authorize denies a refused method', 'open', legacy('tasks/list'), 200, -32601, 'refused'],
  [
    'authorize denies the task of nobody',
    'open',
    { ...modern('tasks/cancel', { taskId: 't' }), headers: { ...modern('tasks/cancel').headers, 'mcp-name': 't' } },
    200,
    -32602,
    'refused',
  ],
  ['authorize denies an unknown legacy method', 'open', legacy('tools/destroy'), 200, -32601, 'refused'],
  ['authorize denies a tool without a name', 'open', modern('tools/call', { arguments: {} }), 400, -32602, 'malformed'],
  ['authorize denies a stale configuration', 'stale', good, 503, 1021, 'refused'],
  ['forward denies a server whose revisions nobody knows', 'ancient', good, 400, -32022, 'refused'],
  [
    'forward denies a legacy call of a modern server without a session',
    'modern-only',
    legacy('ping'),
    400,
    1014,
    'refused',
  ],
];

describe('what is refused never reaches the upstream and is recorded [P02]', () => {
  test.each(rows)('%s', async (_what, slug, sent, status, code, outcome) => {
    const before = upstream.requests.length;
    const answer = await send(node.url(slug), sent);
    expect([answer.status, answer.json?.error?.code]).toEqual([status, code]);
    expect(upstream.requests.length).toBe(before);
    const [record, ...others] = node.records;
    expect(others).toEqual([]);
    expect(record).toMatchObject({ type: 'refused', outcome, status, rpcErrorCode: code });
    expect(answer.headers['www-authenticate']?.split(' ')[0]).toBe(status === 401 ? 'Bearer' : undefined);
  });

  test.each([
    ['the method', '{"jsonrpc":"2.0","id":1,"method":"ping","METHOD":"tools/call","params":{"name":"denied"}}'],
    [
      'the params',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"granted"},"Params":{"name":"denied"}}',
    ],
    ['a tool', '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"granted","Name":"denied"}}'],
    [
      'a resource',
      '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file://public/1","URI":"file://private/1"}}',
    ],
    [
      'a name by an escape',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"granted","\\u004eame":"denied"}}',
    ],
    [
      'arguments by a long s',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"granted","argument\u017f":{}}}',
    ],
    [
      'a reference',
      '{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"file://public/1","Uri":"file://private/1"}}}',
    ],
    [
      'a completion',
      '{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"file://public/1"},"Ref":{}}}',
    ],
  ])(
    'receive denies %s in a second spelling, which an upstream may match without regard to case',
    async (_what, body) => {
      const before = upstream.requests.length;
      const answer = await send(node.url('open'), { body, headers: { 'mcp-protocol-version': '2025-11-25' } });
      expect([answer.status, answer.json.error.code]).toEqual([400, -32600]);
      expect(upstream.requests.length).toBe(before);
      expect(node.records).toMatchObject([{ type: 'refused', outcome: 'malformed' }]);
    },
  );

  test('arguments may have members that differ in case alone', async () => {
    const sent = legacy('tools/call', { name: 'granted', arguments: { name: 1, Name: 2 } });
    expect((await send(node.url('open'), sent)).status).toBe(200);
    expect(upstream.requests.at(-1)?.body).toBe(sent.body);
  });

  test('of a session that is opened for another server nothing is said', async () => {
    const opened = await send(node.url('open'), legacy('initialize', { protocolVersion: '2025-11-25' }));
    const session = { 'mcp-session-id': String(opened.headers['mcp-session-id']) };
    expect((await send(node.url('open'), { ...legacy('ping'), headers: session })).status).toBe(200);
    const there = await send(node.url('legacy-only'), { ...legacy('ping'), headers: session });
    expect([there.status, there.json.error.code]).toEqual([404, 1015]);
  });
});

describe('denied looks like unknown [P51]', () => {
  const blank = (text: string) => text.replaceAll(/"date":"[^"]*"/g, '');

  test('a tool that is denied, not granted, not approved or not there', async () => {
    const answers = await Promise.all(
      ['denied', 'other', 'count', 'nothing', 'x'.repeat(500)].map((name) => send(node.url('open'), toolCall(name))),
    );
    expect(new Set(answers.map(({ status, text }) => `${status} ${blank(text)}`)).size).toBe(1);
    expect(answers[0]?.text).toBe('{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool"}}');
  });

  test('a server that is not granted or not there, whatever is sent to it', async () => {
    for (const sent of [
      good,
      legacy('initialize'),
      { ...legacy('ping'), headers: { 'mcp-session-id': 'x' } },
      { method: 'GET' },
      { method: 'DELETE' },
      modern('tools/destroy'),
    ]) {
      const [closed, nowhere] = [await send(node.url('closed'), sent), await send(node.url('nowhere'), sent)];
      const comparable = ({ status, text, headers }: typeof closed) => ({
        status,
        text,
        headers: { ...headers, date: '' },
      });
      expect(comparable(closed)).toEqual(comparable(nowhere));
      expect(closed.status).toBe(404);
    }
  });

  test.each([
    ['prompts/get', (name: string) => ({ name }), ['shut', 'other', 'nothing']],
    ['resources/read', (uri: string) => ({ uri }), ['file://shut/a', 'file://other/a', 'nothing']],
    [
      'completion/complete',
      (name: string) => ({ ref: { type: 'ref/prompt', name }, argument: { name: 'a', value: '' } }),
      ['shut', 'other', 'nothing'],
    ],
  ])('by %s too', async (method, params, names) => {
    const answers: string[] = [];
    for (const name of names) {
      const { status, text } = await send(node.url('open'), modern(method, params(name)));
      answers.push(`${status} ${text.replaceAll(name, '*')}`);
    }
    expect(new Set(answers).size).toBe(1);
    expect(answers[0]).toContain('"error"');
  });

  /** In milliseconds, by what is asked, asked in turn so that all have the same weather. */
  async function medians(asked: Readonly<Record<string, () => Promise<unknown>>>): Promise<number[]> {
    const times = Object.values(asked).map(() => [] as number[]);
    for (let round = 0; round < 150; round++) {
      for (const [at, ask] of Object.values(asked).entries()) {
        const began = performance.now();
        await ask();
        times[at]?.push(performance.now() - began);
      }
    }
    return times.map((each) => each.sort((a, b) => a - b)[Math.floor(each.length / 2)] ?? Number.NaN);
  }

  test.each([
    [
      'a tool',
      Object.fromEntries(
        ['denied', 'other', 'count', 'nothing'].map((name) => [name, () => send(node.url('open'), toolCall(name))]),
      ),
    ],
    ['a server', Object.fromEntries(['closed', 'nowhere'].map((slug) => [slug, () => send(node.url(slug), good)]))],
  ])('in the time it takes, within noise: %s', { retry: 2 }, async (_what, asked) => {
    const found = await medians(asked);
    // Two alike differ by a few per cent on a quiet machine; a lookup that only one makes would take far more than twice,
    // each time.
    expect(Math.max(...found)).toBeLessThan(2 * Math.min(...found) + 1);
  });

  test('the id comes back as it was written [P28]', async () => {
    for (const id of ['"1"', '1', '12345678901234567890', '"a\\u0000b"', '-0', '1E2']) {
      const body = good.body.replace('"id":1', `"id":${id}`).replaceAll('granted', 'nothing');
      const answer = await send(node.url('open'), { body, headers: { ...good.headers, 'mcp-name': 'nothing' } });
      expect(answer.text).toContain(`"id":${id},`);
    }
  });
});

test('the error names the revisions that are supported [P39]', async () => {
  const call = await send(node.url('ancient'), good);
  expect(call.json.error.data).toEqual({ supported: [...protocolRevisions], requested: '2026-07-28' });
  const future = modernParams();
  future._meta['io.modelcontextprotocol/protocolVersion'] = '2030-01-01';
  const ahead = await send(node.url('open'), {
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: future }),
    headers: { 'mcp-protocol-version': '2030-01-01', 'mcp-method': 'tools/list' },
  });
  expect([ahead.status, ahead.json.error.code, ahead.json.error.data.supported]).toEqual([400, -32022, ['2026-07-28']]);
});

test('a record says who, what, by which rule and under which configuration', async () => {
  await send(node.url('open'), {
    ...toolCall('denied'),
    headers: { ...toolCall('denied').headers, 'user-agent': 'ua' },
  });
  const [record] = node.records as RefusedRecord[];
  expect(record).toMatchObject({
    principal: { id: 'first', keyId: 'key-of-first' },
    client: { address: '127.0.0.1', userAgent: 'ua', info: 'test/1' },
    server: { id: 'server-open', slug: 'open' },
    httpMethod: 'POST',
    method: 'tools/call',
    target: { kind: 'tool', name: 'denied' },
    protocolRevision: '2026-07-28',
    decision: { effect: 'deny', reason: 'DENIED_BY_GRANT', grantIds: ['grant-open-1'] },
    config: { historyId: 'local', revision: 1 },
    errorCode: 'TOOL_NOT_AVAILABLE',
  });
  expect(record?.paramsDigest).toMatch(/^[0-9a-f]{64}$/);
});

describe('browsers', () => {
  const preflight = {
    method: 'OPTIONS',
    headers: { 'access-control-request-method': 'POST', authorization: undefined },
  };

  test('a preflight of an allowed origin is answered, one of a foreign origin is not', async () => {
    const allowed = await send(node.url('open'), {
      ...preflight,
      headers: { ...preflight.headers, origin: 'https://app.example' },
    });
    expect([allowed.status, allowed.headers['access-control-allow-origin']]).toEqual([204, 'https://app.example']);
    const foreign = await send(node.url('open'), {
      ...preflight,
      headers: { ...preflight.headers, origin: 'https://evil.example' },
    });
    expect([foreign.status, foreign.headers['access-control-allow-origin']]).toEqual([403, undefined]);
  });

  test('a page of an allowed origin may read answers and refusals, and sees the session [P18]', async () => {
    const headers = { origin: 'https://app.example' };
    const answered = await send(node.url('open'), { ...good, headers: { ...good.headers, ...headers } });
    const refused = await send(node.url('nowhere'), { ...good, headers: { ...good.headers, ...headers } });
    for (const answer of [answered, refused]) {
      expect(answer.headers['access-control-allow-origin']).toBe('https://app.example');
      expect(answer.headers['access-control-expose-headers']).toContain('Mcp-Session-Id');
    }
  });
});

describe('room', () => {
  test('admit denies a principal’s calls beyond its limit with a time to wait, and lets them in again later [P69]', async () => {
    node.configure({
      ...configuration,
      limits: { exchangesPerPrincipalMax: 2 },
      servers: configuration.servers.map((server) => ({ ...server, tools: [...(server.tools ?? []), 'hang'] })),
      grants: [...configuration.grants, { server: 'open', tools: ['hang'] }],
    });
    const stop = new AbortController();
    const hanging = [1, 2].map(() =>
      send(node.url('open'), { ...toolCall('hang'), signal: stop.signal }).catch(() => 'aborted'),
    );
    await waitFor('both calls are under way', () => node.records.length === 2);
    const refused = await send(node.url('open'), good);
    expect([refused.status, refused.json.error.code, refused.headers['retry-after']]).toEqual([429, 1006, '1']);
    stop.abort();
    expect(await Promise.all(hanging)).toEqual(['aborted', 'aborted']);
    await waitFor('a call is let in', async () => (await send(node.url('open'), good)).status === 200);
    node.configure(configuration);
  });
});
