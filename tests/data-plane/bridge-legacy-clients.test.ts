import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type AskingUpstream, askingDefinitions, bigNumber, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { approvedAs, otherKey, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { eventsOf, legacy, send, type Sent } from './requests.ts';

const tools = ['ask', 'askTwice', 'count', 'hang', 'big', 'region'];
let upstream: AskingUpstream;
let node: PipelineNode;

beforeAll(async () => {
  upstream = await startAskingUpstream({ era: 'modern' });
  node = await startPipelineNode(configuration());
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});
beforeEach(() => node.configure(configuration()));

function configuration(granted: readonly string[] = tools) {
  const definitions = [
    ...approvedAs('tool', askingDefinitions.tools),
    ...approvedAs('instructions', [askingDefinitions.instructions]),
  ];
  return {
    servers: [{ slug: 'new', url: upstream.url, protocolRevisions: ['2026-07-28'], definitions }],
    grants: [{ server: 'new', tools: [...granted], resources: ['*'] }],
  };
}

async function openSession(capabilities: object = { elicitation: {} }, revision = '2025-11-25'): Promise<string> {
  const params = { protocolVersion: revision, capabilities, clientInfo: { name: 'ide', version: '2' } };
  const answer = await send(node.url('new'), legacy('initialize', params));
  expect(answer.json.result).toMatchObject({ protocolVersion: revision, serverInfo: { name: 'asking' } });
  return String(answer.headers['mcp-session-id']);
}

function within(session: string, sent: Sent, key?: string): Promise<Awaited<ReturnType<typeof send>>> {
  const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` };
  return send(node.url('new'), { ...sent, headers: { ...sent.headers, 'mcp-session-id': session, ...authorization } });
}

function call(name: string, values: object = {}, id: string | number = 7) {
  return legacy('tools/call', { name, arguments: values }, id);
}

/** Posts a response to a request of the server's. */
function respond(session: string, id: unknown, result: object) {
  return within(session, { ...legacy(''), body: JSON.stringify({ jsonrpc: '2.0', id, result }) });
}

describe('a legacy client at a modern server', () => {
  test('gets a session that no server keeps, and what was discovered as its handshake [P27]', async () => {
    const session = await openSession();
    expect(session).toMatch(/^[\x21-\x7e]+$/);
    const notified = await within(session, {
      ...legacy(''),
      body: '{"jsonrpc":"2.0","method":"notifications/initialized"}',
    });
    expect([notified.status, notified.text]).toEqual([202, '']);
    expect((await within(session, legacy('ping'))).json.result).toEqual({});
    expect(upstream.told.map(({ message }) => message?.method)).toEqual(['server/discover']);
  });

  test('calls tools with the envelope of its session and the headers that mirror the call', async () => {
    const session = await openSession({ elicitation: {}, roots: { listChanged: true } });
    const answer = await within(session, call('count'));
    expect(answer.json).toEqual({ jsonrpc: '2.0', id: 7, result: { content: [{ type: 'text', text: 'done' }] } });
    const told = upstream.toldOf('tools/call').at(-1);
    expect(told?.headers).toMatchObject({
      'mcp-method': 'tools/call',
      'mcp-name': 'count',
      'mcp-protocol-version': '2026-07-28',
    });
    expect(told?.headers['mcp-session-id']).toBeUndefined();
    expect(told?.message?.params?.['_meta']).toMatchObject({
      'io.modelcontextprotocol/clientCapabilities': { elicitation: {}, roots: {} },
      'io.modelcontextprotocol/clientInfo': { name: 'ide', version: '2' },
    });
  });

  test('tells in headers which arguments the server wants there, though nobody said so before', async () => {
    const session = await openSession();
    const before = upstream.executions.get('region') ?? 0;
    expect((await within(session, call('region', { region: 'eu' }))).json.result.content[0].text).toBe('done');
    expect(upstream.executions.get('region')).toBe(before + 1);
    const calls = upstream.toldOf('tools/call').length;
    expect((await within(session, call('region', { region: 'us' }))).json.result.content[0].text).toBe('done');
    expect(upstream.toldOf('tools/call').length).toBe(calls + 1);
  });

  test('tells in headers what the approved definitions say, on a node that never saw a list', async () => {
    const region = { name: 'Region', path: ['region'], type: 'string' as const };
    const [server] = configuration().servers;
    if (server === undefined) throw new Error('no server');
    node.configure({ ...configuration(), servers: [{ ...server, paramHeaders: { region: [[], [region]] } }] });
    const session = await openSession();
    const before = upstream.told.length;
    expect((await within(session, call('region', { region: 'eu' }))).json.result.content[0].text).toBe('done');
    expect(upstream.told.slice(before).map(({ message }) => message?.method)).toEqual(['tools/call']);
    expect(upstream.told.at(-1)?.headers['mcp-param-region']).toBe('eu');
  });

  test('tells an argument in a header of parameters alone, whatever the server would have it called [P09]', async () => {
    const secret = { name: 'Authorization', path: ['region'], type: 'string' as const };
    const [server] = configuration().servers;
    if (server === undefined) throw new Error('no server');
    node.configure({ ...configuration(), servers: [{ ...server, paramHeaders: { count: [[], [secret]] } }] });
    await within(await openSession(), call('count', { region: 'Bearer stolen' }));
    const told = upstream.toldOf('tools/call').at(-1);
    expect(told?.headers['mcp-param-authorization']).toBe('Bearer stolen');
    expect(told?.headers.authorization).toBeUndefined();
  });

  test('sees lists filtered and as its era has them', async () => {
    node.configure(configuration(['ask']));
    const session = await openSession();
    const { result } = (await within(session, legacy('tools/list'))).json;
    expect(result).toEqual({ tools: [expect.objectContaining({ name: 'ask' })] });
    expect((await within(session, call('count'))).json.error.code).toBe(-32602);
  });

  test('gets 64-bit numbers as they were written, both ways', async () => {
    const sent = call('big');
    const body = sent.body.replace('"arguments":{}', `"arguments":{"n":${bigNumber}}`);
    const { text } = await within(await openSession(), { ...sent, body });
    expect(text).toContain(`"big":${bigNumber},"told":true`);
  });

  test('reads the errors of its own era, over a status that ends no session', async () => {
    const session = await openSession();
    const read = await within(session, legacy('resources/read', { uri: 'file://none' }));
    expect([read.status, read.json.error.code]).toEqual([200, -32002]);
    const list = await within(session, legacy('prompts/list'));
    expect([list.status, list.json.error.code]).toEqual([200, -32601]);
  });

  test('sets the level of its log for all that follows', async () => {
    const session = await openSession();
    expect((await within(session, legacy('logging/setLevel', { level: 'loud' }))).json.error.code).toBe(-32602);
    expect((await within(session, legacy('logging/setLevel', { level: 'warning' }))).json.result).toEqual({});
    await within(session, call('count'));
    const meta = upstream.toldOf('tools/call').at(-1)?.message?.params?.['_meta'];
    expect(meta).toMatchObject({ 'io.modelcontextprotocol/logLevel': 'warning' });
  });

  test('ends its session, which then is unknown', async () => {
    const session = await openSession();
    expect((await within(session, { method: 'DELETE' })).status).toBe(200);
    expect((await within(session, legacy('ping'))).status).toBe(404);
  });

  test('needs its own session', async () => {
    const session = await openSession();
    expect((await within(session, legacy('ping'), otherKey)).status).toBe(404);
    expect((await send(node.url('new'), legacy('ping'))).status).toBe(400);
  });

  test('that goes away has cancelled nothing; that says so has', async () => {
    const session = await openSession();
    const controller = new AbortController();
    const gone = within(session, { ...call('hang'), signal: controller.signal, onChunk: () => controller.abort() });
    await expect(gone).rejects.toThrow(/abort/i);
    const abandoned = upstream.toldOf('tools/call').at(-1);
    let closed = false;
    void abandoned?.closed.then(() => (closed = true));

    const cancelled = within(session, { ...call('hang', {}, 'c'), onChunk: () => void cancel() });
    const cancel = () =>
      within(session, {
        ...legacy(''),
        body: '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c"}}',
      });
    expect(eventsOf((await cancelled).text).at(-1)?.error?.code).toBe(1060);
    expect(await upstream.toldOf('tools/call').at(-1)?.closed).toEqual({ answered: false });
    expect(closed).toBe(false);
  });
});

test('a call that a legacy client wants as a task runs like any other', async () => {
  const sent = legacy('tools/call', { name: 'count', arguments: {}, task: { ttl: 1_000 } });
  expect((await within(await openSession(), sent)).json.result).toMatchObject({ content: [{ text: 'done' }] });
  expect(upstream.toldOf('tools/call').at(-1)?.body).not.toContain('"task"');
});

describe('what a modern server asks in a call of a legacy client', () => {
  test('is asked on the stream of the call, and the call made again with the answers [P31]', async () => {
    const session = await openSession();
    const before = upstream.executions.get('askTwice') ?? 0;
    const answered = new Set<unknown>();
    let text = '';
    const calling = within(session, {
      ...call('askTwice'),
      onChunk: (chunk) => {
        text += chunk;
        for (const { id, method } of eventsOf(text)) {
          if (method !== 'elicitation/create' || answered.has(id)) continue;
          answered.add(id);
          void respond(session, id, { action: 'accept', content: { name: 'Ada' } });
        }
      },
    });
    const last = eventsOf((await calling).text).at(-1);
    expect(last).toMatchObject({ id: 7, result: { content: [{ type: 'text' }] } });
    expect(JSON.stringify(last)).toContain('Ada');
    expect(answered.size).toBe(2);
    expect(upstream.executions.get('askTwice')).toBe(before + 1);
    expect(upstream.toldOf('tools/call').at(-1)?.message?.params?.requestState).toBe('upstream-state');
  });

  test('is answered by nobody else', async () => {
    const session = await openSession();
    const controller = new AbortController();
    let text = '';
    const calling = within(session, { ...call('ask'), signal: controller.signal, onChunk: (chunk) => (text += chunk) });
    const question = await waitFor('the question', () => eventsOf(text)[0]);
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'other', version: '1' } };
    const sent = legacy('initialize', params);
    const headers = { ...sent.headers, authorization: `Bearer ${otherKey}` };
    const other = String((await send(node.url('new'), { ...sent, headers })).headers['mcp-session-id']);
    const body = JSON.stringify({ jsonrpc: '2.0', id: question.id, result: { action: 'decline' } });
    expect((await within(other, { ...legacy(''), body }, otherKey)).status).toBe(202);
    expect(eventsOf(text)).toHaveLength(1);
    await respond(session, question.id, { action: 'decline' });
    expect(eventsOf((await calling).text).at(-1)).toMatchObject({ id: 7, result: {} });
  });

  test('is not asked of a client that did not say it can answer [P67]', async () => {
    const answer = await within(await openSession({}), call('ask'));
    expect(answer.json.error.code).toBe(-32603);
  });
});

test('one record stands for each exchange of the client, and names what it caused upstream', async () => {
  const session = await openSession();
  const closedOf = (): unknown[] => node.records.filter(({ type }) => type === 'closed');
  const before = closedOf().length;
  await within(session, legacy('ping'));
  await within(session, call('count'));
  await waitFor('two records', () => closedOf().length === before + 2);
  expect(closedOf().slice(before)).toMatchObject([
    { outcome: 'success', upstreamRequests: null },
    { outcome: 'success', upstreamRequests: ['tools/call'] },
  ]);
});

test('a GET listens for what its session subscribed to, before and while it is open', async () => {
  const session = await openSession();
  const controller = new AbortController();
  let text = '';
  const sent = { method: 'GET', headers: { accept: 'text/event-stream' }, signal: controller.signal };
  const listening = within(session, { ...sent, onChunk: (chunk) => (text += chunk) });
  const listens = () => upstream.toldOf('subscriptions/listen');
  await waitFor('the listen', () => listens().length === 1);
  expect((await within(session, legacy('resources/subscribe', { uri: 'file://a' }))).json.result).toEqual({});
  await waitFor('another listen, and no more', () => listens().length === 2 && upstream.streams.size === 1);
  expect(listens().at(-1)?.message?.params?.['notifications']).toMatchObject({ resourceSubscriptions: ['file://a'] });
  upstream.announce({ method: 'notifications/resources/updated', params: { uri: 'file://a' } });
  upstream.announce({ method: 'notifications/tools/list_changed' });
  await waitFor('both notifications', () => eventsOf(text).length === 2);
  expect(eventsOf(text)).toEqual([
    { jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri: 'file://a' } },
    { jsonrpc: '2.0', method: 'notifications/tools/list_changed' },
  ]);
  controller.abort();
  await expect(listening).rejects.toThrow(/abort/i);
  await waitFor('its end upstream', () => upstream.streams.size === 0);
});

test('what a server asks comes on the stream of the call alone, though another stream is open [P32]', async () => {
  const session = await openSession();
  const controller = new AbortController();
  let beside = '';
  const open = { method: 'GET', headers: { accept: 'text/event-stream', 'mcp-session-id': session } };
  const listening = send(node.url('new'), {
    ...open,
    signal: controller.signal,
    onChunk: (chunk) => (beside += chunk),
  });
  const gone = listening.catch(() => 'gone');
  await waitFor('the other stream is open', () => upstream.streams.size > 0);
  let text = '';
  const calling = within(session, { ...call('ask'), onChunk: (chunk) => (text += chunk) });
  const { id } = await waitFor('the question', () => eventsOf(text)[0]);
  await respond(session, id, { action: 'decline' });
  expect(eventsOf((await calling).text).at(-1)).toMatchObject({ id: 7, result: {} });
  // What is announced now comes after whatever else the stream was told.
  upstream.announce({ method: 'notifications/tools/list_changed' });
  await waitFor('the announcement', () => beside.includes('notifications/tools/list_changed'));
  expect(eventsOf(beside).map(({ method }) => method)).toEqual(['notifications/tools/list_changed']);
  controller.abort();
  await gone;
  await waitFor('its end upstream', () => upstream.streams.size === 0);
});
