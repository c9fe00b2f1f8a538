import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type AskingUpstream, askingDefinitions, bigNumber, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { approvedAs, otherKey, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { eventsOf, modern, modernParams, send } from './requests.ts';

const tools = ['ask', 'askAside', 'askTwice', 'count', 'chat', 'hang', 'big', 'region'];
let upstream: AskingUpstream;
let node: PipelineNode;

beforeAll(async () => {
  upstream = await startAskingUpstream({ era: 'legacy' });
  node = await startPipelineNode(configuration());
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});
beforeEach(() => node.configure(configuration()));

/** As the approved definition has it. */
const paramHeaders = { region: [[{ name: 'Region', path: ['region'], type: 'string' as const }]] };

function configuration(granted: readonly string[] = tools) {
  const definitions = [
    ...approvedAs('tool', askingDefinitions.tools),
    ...approvedAs('instructions', [askingDefinitions.instructions]),
  ];
  return {
    servers: [{ slug: 'old', url: upstream.url, protocolRevisions: ['2025-11-25'], definitions, paramHeaders }],
    grants: [{ server: 'old', tools: [...granted], resources: ['*'] }],
  };
}

const elicitation = { elicitation: {} };

function call(name: string, more: Readonly<Record<string, unknown>> = {}, capabilities: unknown = elicitation) {
  const params = { name, arguments: {}, ...more };
  const { headers } = modern('tools/call', params);
  return {
    headers,
    body: JSON.stringify({ jsonrpc: '2.0', id: 7, method: 'tools/call', params: modernParams(params, capabilities) }),
  };
}

/** The result of a call that asks: JSON, or the last event. */
async function resultOf(sent: ReturnType<typeof call>, key?: string) {
  const headers = key === undefined ? sent.headers : { ...sent.headers, authorization: `Bearer ${key}` };
  const answer = await send(node.url('old'), { ...sent, headers });
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into what came
  const message: any = answer.json ?? eventsOf(answer.text).at(-1);
  return message;
}

async function parkedState(name = 'ask'): Promise<{ requestState: string; inputRequests: Record<string, unknown> }> {
  const { result } = await resultOf(call(name));
  expect(result.resultType).toBe('input_required');
  return result;
}

const accepted = { action: 'accept', content: { name: 'Ada' } };

function answersTo(inputRequests: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.keys(inputRequests).map((key) => [key, accepted]));
}

describe('a modern client at a legacy server', () => {
  test('discovers what the server said at initialize, and what the gateway speaks besides [P27]', async () => {
    const answer = await send(node.url('old'), modern('server/discover'));
    expect(answer.json.result).toMatchObject({
      resultType: 'complete',
      supportedVersions: ['2026-07-28', '2025-11-25'],
      instructions: 'Ask.',
      cacheScope: 'private',
      _meta: { 'io.modelcontextprotocol/serverInfo': { name: 'asking' } },
    });
  });

  test('calls a tool without a trace of the envelope, in a session that it never sees', async () => {
    const answer = await send(node.url('old'), call('count'));
    expect(answer.json.result).toMatchObject({ resultType: 'complete', content: [{ text: '[]' }] });
    expect(answer.headers['mcp-session-id']).toBeUndefined();
    const told = upstream.toldOf('tools/call').at(-1);
    expect(told?.message?.params).toEqual({ name: 'count', arguments: {} });
    expect(told?.headers['mcp-protocol-version']).toBe('2025-11-25');
    expect(told?.headers['mcp-method']).toBeUndefined();
  });

  test('reuses a session, and never that of another principal', async () => {
    await send(node.url('old'), call('count'));
    const first = upstream.toldOf('tools/call').at(-1)?.headers['mcp-session-id'];
    await send(node.url('old'), call('count'));
    const headers = { ...call('count').headers, authorization: `Bearer ${otherKey}` };
    expect(upstream.toldOf('tools/call').at(-1)?.headers['mcp-session-id']).toBe(first);
    await send(node.url('old'), { ...call('count'), headers });
    expect(upstream.toldOf('tools/call').at(-1)?.headers['mcp-session-id']).not.toBe(first);
  });

  test('sees lists filtered, private and without what legacy tools say of tasks', async () => {
    node.configure(configuration(['ask']));
    const { result } = (await send(node.url('old'), modern('tools/list'))).json;
    expect(result).toMatchObject({ ttlMs: 0, cacheScope: 'private', resultType: 'complete' });
    expect(result.tools).toEqual([{ name: 'ask', inputSchema: { type: 'object' } }]);
    expect((await send(node.url('old'), call('count'))).json.error.code).toBe(-32602);
  });

  test('gets 64-bit numbers as they were written, both ways', async () => {
    const sent = call('big');
    const body = sent.body.replace('"arguments":{}', `"arguments":{"n":${bigNumber}}`);
    const { text } = await send(node.url('old'), { ...sent, body });
    expect(text).toContain(`"big":${bigNumber},"told":true`);
  });

  test('reads the errors of its own era', async () => {
    const read = await send(node.url('old'), modern('resources/read', { uri: 'file://none' }));
    expect(read.json.error).toMatchObject({ code: -32602, data: { uri: 'file://none' } });
    const list = await send(node.url('old'), modern('prompts/list'));
    expect([list.status, list.json.error.code]).toEqual([404, -32601]);
  });

  test('gets the log it asked for with the request, and none without', async () => {
    const withLevel = modernParams({ name: 'chat' });
    const meta = { ...withLevel._meta, 'io.modelcontextprotocol/logLevel': 'warning' };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { ...withLevel, _meta: meta } });
    const loud = await send(node.url('old'), { ...call('chat'), body });
    expect(eventsOf(loud.text).map(({ method }) => method)).toEqual(['notifications/message', undefined]);
    expect(upstream.toldOf('logging/setLevel').at(-1)?.message?.params).toEqual({ level: 'warning' });
    expect((await send(node.url('old'), call('chat'))).json.result.resultType).toBe('complete');
  });

  test('whose session the upstream forgot is served in a new one, and executed once [P22]', async () => {
    await send(node.url('old'), call('count'));
    (upstream.sessions as Set<string>).clear();
    const before = upstream.executions.get('count') ?? 0;
    expect((await send(node.url('old'), call('count'))).json.result.resultType).toBe('complete');
    expect(upstream.executions.get('count')).toBe(before + 1);
  });

  test('whose session the upstream forgot sets the level of its log in a new one', async () => {
    await send(node.url('old'), call('count'));
    (upstream.sessions as Set<string>).clear();
    const params = modernParams({ name: 'chat' }, elicitation);
    const meta = { ...params._meta, 'io.modelcontextprotocol/logLevel': 'warning' };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { ...params, _meta: meta } });
    const answer = await send(node.url('old'), { ...call('chat'), body });
    expect(eventsOf(answer.text).at(-1)).toMatchObject({ result: { resultType: 'complete' } });
  });

  test.each([
    ['equals it', 'eu', { 'mcp-param-region': 'eu' }, undefined],
    ['equals it in Base64', 'eu', { 'mcp-param-region': '=?base64?ZXU=?=' }, undefined],
    ['says another value', 'eu', { 'mcp-param-region': 'us' }, -32020],
    ['is missing', 'eu', {}, -32020],
    ['is there for nothing', undefined, { 'mcp-param-region': 'eu' }, -32020],
  ])('is held to the header of an argument, which %s', async (_what, region, headers, code) => {
    const before = upstream.executions.get('region') ?? 0;
    const lists = upstream.toldOf('tools/list').length;
    const sent = call('region', { arguments: { region } });
    const answer = await resultOf({ ...sent, headers: { ...sent.headers, ...headers } });
    expect(answer.error?.code).toBe(code);
    expect((upstream.executions.get('region') ?? 0) - before).toBe(code === undefined ? 1 : 0);
    expect(upstream.toldOf('tools/list')).toHaveLength(lists);
  });

  test('that closes its stream cancels the call upstream', async () => {
    const controller = new AbortController();
    const sent = { ...call('hang'), signal: controller.signal, onChunk: () => controller.abort() };
    await expect(send(node.url('old'), sent)).rejects.toThrow(/abort/i);
    await waitFor('the cancellation', () => upstream.toldOf('notifications/cancelled').length > 0);
    const requestId = upstream.toldOf('tools/call').at(-1)?.message?.id;
    expect(upstream.toldOf('notifications/cancelled').at(-1)?.message?.params).toMatchObject({ requestId });
  });
});

describe('a call in which the server asks', () => {
  test('is parked, goes on with the answers, and is executed once', async () => {
    const before = upstream.executions.get('ask') ?? 0;
    const { requestState, inputRequests } = await parkedState();
    expect(Object.values(inputRequests)).toEqual([
      { method: 'elicitation/create', params: expect.objectContaining({ message: 'Your name?' }) },
    ]);
    const { result } = await resultOf(call('ask', { requestState, inputResponses: answersTo(inputRequests) }));
    expect(result).toMatchObject({ resultType: 'complete', content: [{ text: JSON.stringify([accepted]) }] });
    expect(upstream.executions.get('ask')).toBe(before + 1);
  });

  test('asks all it has to ask at once', async () => {
    const { requestState, inputRequests } = await parkedState('askTwice');
    expect(Object.keys(inputRequests)).toHaveLength(2);
    const { result } = await resultOf(call('askTwice', { requestState, inputResponses: answersTo(inputRequests) }));
    expect(result.resultType).toBe('complete');
  });

  test('asks again for what is missing or does not fit [P65]', async () => {
    const { requestState } = await parkedState();
    const again = (await resultOf(call('ask', { requestState }))).result;
    expect(again.resultType).toBe('input_required');
    const [key = ''] = Object.keys(again.inputRequests);
    const unfit = { [key]: { action: 'accept', content: { name: 5 } } };
    const third = (await resultOf(call('ask', { requestState: again.requestState, inputResponses: unfit }))).result;
    expect(third.resultType).toBe('input_required');
    const last = { requestState: third.requestState, inputResponses: { [key]: { action: 'decline' }, extra: {} } };
    expect((await resultOf(call('ask', last))).result.resultType).toBe('complete');
  });

  test('is answered once: a second return with the same state gets a clear error', async () => {
    const { requestState, inputRequests } = await parkedState();
    const back = call('ask', { requestState, inputResponses: answersTo(inputRequests) });
    const answers = await Promise.all([resultOf(back), resultOf(back)]);
    const outcomes = new Set(answers.map((answer) => answer.error?.code ?? answer.result.resultType));
    expect(outcomes).toEqual(new Set([1061, 'complete']));
  });

  test.each([
    ['changed', (state: string) => `${state.slice(0, -4)}AAAA`, {}],
    ['for other arguments', (state: string) => state, { arguments: { other: 1 } }],
    ['for another tool', (state: string) => state, { name: 'askTwice' }],
  ])('does not go on with a state %s [P64]', async (_what, change, more) => {
    const { requestState } = await parkedState();
    const { error } = await resultOf(call('ask', { requestState: change(requestState), ...more }));
    expect(error.code).toBe(-32602);
  });

  test('does not go on for another principal [P64]', async () => {
    const { requestState, inputRequests } = await parkedState();
    const back = call('ask', { requestState, inputResponses: answersTo(inputRequests) });
    expect((await resultOf(back, otherKey)).error.code).toBe(-32602);
  });

  test('ends upstream when the right to make it is revoked', async () => {
    const { requestState, inputRequests } = await parkedState();
    const requestId = upstream.toldOf('tools/call').at(-1)?.message?.id;
    node.configure(configuration(['count']));
    await waitFor('the cancellation', () =>
      upstream.toldOf('notifications/cancelled').some(({ message }) => message?.params?.['requestId'] === requestId),
    );
    node.configure(configuration());
    const back = call('ask', { requestState, inputResponses: answersTo(inputRequests) });
    expect((await resultOf(back)).error.code).toBe(1061);
  });

  test('is parked as well when it asks on the stream that belongs to no call', async () => {
    const { requestState, inputRequests } = await parkedState('askAside');
    const { result } = await resultOf(call('askAside', { requestState, inputResponses: answersTo(inputRequests) }));
    expect(result).toMatchObject({ resultType: 'complete', content: [{ text: JSON.stringify([accepted]) }] });
  });

  test('is parked although the server let go of that stream before, idle or under way', async () => {
    const dropStreams = async (): Promise<void> => {
      await waitFor('a stream to let go of', () => upstream.streams.size > 0);
      for (const stream of upstream.streams) stream.end();
      await waitFor('the end of all streams', () => upstream.streams.size === 0);
    };
    const { requestState, inputRequests } = await parkedState('askAside');
    await resultOf(call('askAside', { requestState, inputResponses: answersTo(inputRequests) }));
    await dropStreams();
    const first = await parkedState('askAside');
    await dropStreams();
    const back = { requestState: first.requestState, inputResponses: answersTo(first.inputRequests) };
    expect((await resultOf(call('askAside', back))).result.resultType).toBe('complete');
    await parkedState('askAside');
  });

  test('does not ask a client that cannot answer [P67]', async () => {
    const asked = await resultOf(call('ask', {}, {}));
    expect(asked.result.resultType).toBe('complete');
  });
});

test('one record stands for each exchange of the client, and names what it caused upstream', async () => {
  node.configure({ ...configuration(), principals: [{ id: 'fresh', key: otherKey, epoch: 7 }] });
  const headers = { ...call('count').headers, authorization: `Bearer ${otherKey}` };
  const before = node.records.length;
  await send(node.url('old'), { ...call('count'), headers });
  const closed = await waitFor('the record', () => node.records.slice(before).find(({ type }) => type === 'closed'));
  expect(node.records.slice(before).map(({ type }) => type)).toEqual(['opened', 'closed']);
  expect(closed).toMatchObject({ outcome: 'success', upstreamRequests: ['initialize', 'tools/call'] });
});

test('progress that a legacy server tells on the stream that belongs to no call reaches the call', async () => {
  const sent = call('hang');
  const params = { name: 'hang', arguments: {}, _meta: { ...modernParams({}, {})._meta, progressToken: 'mine' } };
  const controller = new AbortController();
  let text = '';
  const body = JSON.stringify({ jsonrpc: '2.0', id: 7, method: 'tools/call', params });
  const calling = send(node.url('old'), {
    ...sent,
    body,
    signal: controller.signal,
    onChunk: (chunk) => (text += chunk),
  }).catch(() => undefined);
  await waitFor('the stream that belongs to no call', () => upstream.streams.size > 0);
  await waitFor('the call under way', () => eventsOf(text).length === 1);
  upstream.announce({ method: 'notifications/progress', params: { progressToken: 'mine', progress: 2 } });
  const progress = await waitFor('the progress', () => /"progress":2/.exec(text));
  expect(progress[0]).toBe('"progress":2');
  controller.abort();
  await calling;
  expect(text.split('"progress":2')).toHaveLength(2);
});

test('tasks of neither revision reach a legacy server: a call runs like any other, and there is no task to ask for', async () => {
  const answer = await resultOf(call('count', { task: { ttl: 1_000 } }));
  expect(answer.result).toMatchObject({ resultType: 'complete' });
  expect(upstream.toldOf('tools/call').at(-1)?.body).not.toContain('"task"');
  const get = modern('tasks/get', { taskId: 'any' });
  const asked = await send(node.url('old'), { ...get, headers: { ...get.headers, 'mcp-name': 'any' } });
  expect([asked.status, asked.json.error.code]).toEqual([404, -32601]);
  expect(upstream.toldOf('tasks/get')).toHaveLength(0);
});

test('a listen is acknowledged with what the server offers, and tells of it by its own id [P68]', async () => {
  const params = {
    notifications: { toolsListChanged: true, promptsListChanged: true, resourceSubscriptions: ['file://a'] },
  };
  const body = JSON.stringify({
    jsonrpc: '2.0',
    id: 'L',
    method: 'subscriptions/listen',
    params: modernParams(params),
  });
  const controller = new AbortController();
  let text = '';
  const listening = send(node.url('old'), {
    ...modern('subscriptions/listen'),
    body,
    signal: controller.signal,
    onChunk: (chunk) => (text += chunk),
  });
  await waitFor('the acknowledgement', () => eventsOf(text).length === 1 && upstream.streams.size > 0);
  upstream.announce({ method: 'notifications/tools/list_changed' });
  upstream.announce({ method: 'notifications/prompts/list_changed' });
  upstream.announce({ method: 'notifications/resources/updated', params: { uri: 'file://a' } });
  upstream.announce({ method: 'notifications/resources/updated', params: { uri: 'file://b' } });
  await waitFor('both notifications', () => eventsOf(text).length === 3);
  controller.abort();
  await expect(listening).rejects.toThrow(/abort/i);
  const tagged = { _meta: { 'io.modelcontextprotocol/subscriptionId': 'L' } };
  expect(eventsOf(text)).toMatchObject([
    {
      method: 'notifications/subscriptions/acknowledged',
      params: { ...tagged, notifications: { toolsListChanged: true, resourceSubscriptions: ['file://a'] } },
    },
    { method: 'notifications/tools/list_changed', params: tagged },
    { method: 'notifications/resources/updated', params: { uri: 'file://a', ...tagged } },
  ]);
  await waitFor('the end of its session', () => upstream.told.at(-1)?.httpMethod === 'DELETE');
});

test('a listen outlives a moment in which there is no stream to be had', async () => {
  const notifications = { resourceSubscriptions: ['file://a'] };
  const controller = new AbortController();
  let text = '';
  const listening = send(node.url('old'), {
    ...modern('subscriptions/listen', { notifications }),
    signal: controller.signal,
    onChunk: (chunk) => (text += chunk),
  }).catch(() => undefined);
  await waitFor('the acknowledgement', () => eventsOf(text).length === 1 && upstream.streams.size > 0);
  const asked = upstream.told.filter(({ httpMethod }) => httpMethod === 'GET').length;
  upstream.refuseStreams(503);
  for (const stream of upstream.streams) stream.end();
  await waitFor('another attempt', () => upstream.told.filter(({ httpMethod }) => httpMethod === 'GET').length > asked);
  upstream.refuseStreams(undefined);
  await waitFor('a stream again', () => upstream.streams.size > 0);
  upstream.announce({ method: 'notifications/resources/updated', params: { uri: 'file://a' } });
  await waitFor('the news', () => eventsOf(text).length === 2);
  expect(eventsOf(text)[1]).toMatchObject({ method: 'notifications/resources/updated', params: { uri: 'file://a' } });
  controller.abort();
  await listening;
});
