import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { viewDefinition } from '@sallyport/schema';
import { askingDefinitions, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { startTaskUpstream, taskTools, unknownExtension, view } from '../kit/task-upstream.ts';
import { approvedAs, otherKey, type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';
import { type Answer, changed, eventsOf, legacy, modern, modernParams, modernRevision, send } from './requests.ts';

const tasks = 'io.modelcontextprotocol/tasks';
const apps = 'io.modelcontextprotocol/ui';
const everything = { extensions: { [tasks]: {}, [apps]: {}, [unknownExtension]: { deep: [1] } }, elicitation: {} };

let upstream: Awaited<ReturnType<typeof startTaskUpstream>>;
let node: PipelineNode;
let configuration: TestConfiguration;

beforeEach(async () => {
  upstream = await startTaskUpstream();
  const page = viewDefinition(view.uri, [view]) ?? {};
  const definitions = [...approvedAs('tool', taskTools), ...approvedAs('view', [page])];
  const server = { url: upstream.url, protocolRevisions: ['2026-07-28'], definitions };
  configuration = {
    servers: [
      { slug: 'usual', ...server },
      { slug: 'twin', ...server },
      { slug: 'none', ...server, extensions: [] },
      { slug: 'odd', ...server, extensions: [unknownExtension] },
    ],
    grants: ['usual', 'twin', 'none', 'odd'].map((slug) => ({ server: slug, tools: ['*'], resources: ['ui://*'] })),
  };
  node = await startPipelineNode(configuration);
});
afterEach(async () => {
  await node.stop();
  await upstream.stop();
});

interface Asked {
  readonly slug?: string;
  readonly key?: string;
  readonly onChunk?: (text: string) => void;
  readonly signal?: AbortSignal;
}

function ask(method: string, params: Readonly<Record<string, unknown>>, asked: Asked = {}): Promise<Answer> {
  const { slug = 'usual', key, ...sent } = asked;
  const name = params['name'] ?? params['uri'] ?? params['taskId'];
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: modernParams(params, everything) });
  return send(node.url(slug), {
    body,
    headers: {
      'mcp-protocol-version': modernRevision,
      'mcp-method': method,
      ...(typeof name === 'string' ? { 'mcp-name': name } : {}),
      ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
    },
    ...sent,
  });
}

async function createTask(): Promise<string> {
  const { json } = await ask('tools/call', { name: 'job', arguments: {} });
  return json.result.taskId;
}

describe('an extension passes where the server lets it, and is taken out on both sides where not', () => {
  test.each([
    ['usual', [tasks, apps]],
    ['none', []],
    ['odd', [unknownExtension]],
  ])('server %s', async (slug, passing) => {
    const { json } = await ask('server/discover', {}, { slug });
    expect(Object.keys(json.result.capabilities.extensions)).toEqual(passing);
    expect(upstream.seen.at(-1)?.extensions).toEqual(passing);
    await ask('tools/call', { name: 'weather', arguments: {} }, { slug });
    expect(upstream.seen.at(-1)?.extensions).toEqual(passing);
  });

  test('its settings keep their bytes, and what stands beside them stays', async () => {
    const { json } = await ask('server/discover', {}, { slug: 'odd' });
    expect(json.result.capabilities).toEqual({
      tools: {},
      resources: {},
      extensions: { [unknownExtension]: { deep: [1] } },
    });
    expect(upstream.seen.at(-1)?.params?._meta?.['io.modelcontextprotocol/clientCapabilities']).toEqual({
      extensions: { [unknownExtension]: { deep: [1] } },
      elicitation: {},
    });
  });

  test('without tasks, tasks/* are unknown methods', async () => {
    for (const method of ['tasks/get', 'tasks/update', 'tasks/cancel']) {
      const { status, json } = await ask(method, { taskId: 'raw-task-1' }, { slug: 'none' });
      expect([status, json.error.code]).toEqual([404, -32601]);
    }
    expect(upstream.seen).toEqual([]);
  });
});

describe('a task', () => {
  test('is created, read, updated and completed under one id that is not the upstream’s', async () => {
    const taskId = await createTask();
    expect(taskId).not.toContain('raw-task');
    const waiting = await ask('tasks/get', { taskId });
    expect(waiting.json.result).toMatchObject({ taskId, status: 'input_required', inputRequests: { name: {} } });
    const updated = await ask('tasks/update', { taskId, inputResponses: { name: { action: 'accept' } } });
    expect(updated.json.result).toEqual({ resultType: 'complete' });
    const done = await ask('tasks/get', { taskId });
    expect(done.json.result).toMatchObject({ taskId, status: 'completed', result: { content: [{ type: 'text' }] } });
    const cancelled = await ask('tasks/cancel', { taskId: await createTask() });
    expect(cancelled.json.result).toEqual({ resultType: 'complete' });
    expect(upstream.tasks.get('raw-task-2')?.status).toBe('cancelled');
  });

  test('is asked for upstream by the upstream’s own id, in the body and in Mcp-Name [P70]', async () => {
    const taskId = await createTask();
    await ask('tasks/get', { taskId });
    expect(upstream.seen.at(-1)).toMatchObject({ name: 'raw-task-1', params: { taskId: 'raw-task-1' } });
  });

  test('is on record with the tool it came from', async () => {
    await ask('tasks/get', { taskId: await createTask() });
    const record = node.records.find((each) => each.type === 'opened' && each.method === 'tasks/get');
    expect(record).toMatchObject({ target: { kind: 'tool', name: 'job' }, decision: { effect: 'allow' } });
  });

  test.each([
    ['another principal', async (taskId: string) => ask('tasks/get', { taskId }, { key: otherKey })],
    ['another server', async (taskId: string) => ask('tasks/get', { taskId }, { slug: 'twin' })],
    ['the upstream’s own id', async () => ask('tasks/get', { taskId: 'raw-task-1' })],
    ['a changed id', async (taskId: string) => ask('tasks/cancel', { taskId: changed(taskId) })],
    ['an id that is no task', async () => ask('tasks/update', { taskId: '', inputResponses: {} })],
  ])('is not found with %s, and the upstream is not asked [P70]', async (_case, tried) => {
    const taskId = await createTask();
    const { status, json } = await tried(taskId);
    expect([status, json.error]).toEqual([200, { code: -32602, message: 'Task not found' }]);
    expect(upstream.seen.filter(({ method }) => method.startsWith('tasks/'))).toEqual([]);
  });

  test('is out of reach once its tool is not granted any more, or its principal’s sessions were ended', async () => {
    const taskId = await createTask();
    node.configure({ ...configuration, revision: 2, grants: [{ server: 'usual', tools: ['weather'] }] });
    expect((await ask('tasks/get', { taskId })).json.error.code).toBe(-32602);
    const principals = [{ id: 'first', key: 'sp_test_key_of_the_first_principal', epoch: 1 }];
    node.configure({ ...configuration, revision: 3, principals });
    expect((await ask('tasks/get', { taskId })).json.error.code).toBe(-32602);
    node.configure({ ...configuration, revision: 4 });
    expect((await ask('tasks/get', { taskId })).json.result.taskId).toBe(taskId);
  });

  test('is listened to under its id; another task’s news does not come', async () => {
    const taskId = await createTask();
    let seen = '';
    const abort = new AbortController();
    const listening = ask(
      'subscriptions/listen',
      { notifications: { taskIds: [taskId] } },
      { onChunk: (text) => (seen += text), signal: abort.signal },
    ).catch(() => undefined);
    await waitFor('the acknowledgement', () => eventsOf(seen).length === 1);
    await ask('tasks/cancel', { taskId });
    await waitFor('the news', () => eventsOf(seen).length === 2);
    expect(eventsOf(seen)).toMatchObject([
      { method: 'notifications/subscriptions/acknowledged', params: { notifications: { taskIds: [taskId] } } },
      { method: 'notifications/tasks', params: { taskId, status: 'cancelled' } },
    ]);
    expect(seen).not.toContain('raw-task');
    abort.abort();
    await listening;
  });

  test('of another principal cannot be listened to', async () => {
    const taskId = await createTask();
    const { json } = await ask('subscriptions/listen', { notifications: { taskIds: [taskId] } }, { key: otherKey });
    expect(json.error.code).toBe(-32602);
    expect(upstream.seen.map(({ method }) => method)).toEqual(['tools/call']);
  });
});

test('an unknown resultType is relayed with its bytes [P37]', async () => {
  const { text } = await ask('tools/call', { name: 'odd', arguments: {} });
  expect(text).toBe('{"jsonrpc":"2.0","id":1,"result":{"resultType":"com.example/later","ticket":7}}');
});

test('a view of MCP Apps is named by its tool and read under the same ui:// address [P49]', async () => {
  const { json } = await ask('tools/list', {});
  const { resourceUri } = json.result.tools.find(({ name }: { name: string }) => name === 'weather')._meta.ui;
  expect(resourceUri).toBe(view.uri);
  const read = await ask('resources/read', { uri: resourceUri });
  expect(read.json.result.contents).toEqual([view]);
  expect(upstream.seen.at(-1)?.params?.uri).toBe(view.uri);
});

describe('MCP Apps cross eras, and no other extension does', () => {
  const shown = { mimeTypes: [view.mimeType] };
  const declared = { extensions: { [tasks]: {}, [apps]: shown, [unknownExtension]: {} } };

  async function openSession(slug: string) {
    const clientInfo = { name: 'host', version: '1' };
    const params = { protocolVersion: '2025-11-25', capabilities: declared, clientInfo };
    const { json, headers } = await send(node.url(slug), legacy('initialize', params));
    return { capabilities: json.result.capabilities, session: String(headers['mcp-session-id']) };
  }

  test('a legacy host and a modern server hear of each other, and the host reads the view [P49]', async () => {
    const { capabilities, session } = await openSession('usual');
    expect(capabilities).toEqual({ tools: {}, resources: {}, extensions: { [apps]: {} } });
    const within = (method: string, params: Readonly<Record<string, unknown>>) => {
      const sent = legacy(method, params);
      return send(node.url('usual'), { ...sent, headers: { ...sent.headers, 'mcp-session-id': session } });
    };
    const list = (await within('tools/list', {})).json.result.tools;
    const { resourceUri } = list.find(({ name }: { name: string }) => name === 'weather')._meta.ui;
    expect((await within('resources/read', { uri: resourceUri })).json.result.contents).toEqual([view]);
    expect(upstream.seen.map(({ extensions }) => extensions)).toEqual([[apps], [apps], [apps]]);
    const meta = upstream.seen.at(-1)?.params?._meta?.['io.modelcontextprotocol/clientCapabilities'];
    expect(meta).toEqual({ extensions: { [apps]: shown } });
  });

  test('neither hears of it where the server is not let', async () => {
    expect((await openSession('none')).capabilities.extensions ?? {}).toEqual({});
    expect(upstream.seen.at(-1)?.extensions).toEqual([]);
  });

  test('a session opened while it was let is held to the list as it is now', async () => {
    const { session } = await openSession('usual');
    const servers = configuration.servers.map((server) => ({ ...server, extensions: [] }));
    node.configure({ ...configuration, revision: 2, servers });
    const sent = legacy('tools/call', { name: 'weather', arguments: {} });
    await send(node.url('usual'), { ...sent, headers: { ...sent.headers, 'mcp-session-id': session } });
    expect(upstream.seen.at(-1)).toMatchObject({ method: 'tools/call', extensions: [] });
  });

  test('a legacy server is told what a modern host shows', async () => {
    const old = await startAskingUpstream({ era: 'legacy' });
    const server = { url: old.url, protocolRevisions: ['2025-11-25'] };
    const definitions = approvedAs('tool', askingDefinitions.tools);
    const servers = [
      { slug: 'old', ...server, definitions },
      { slug: 'closed', ...server, definitions, extensions: [] },
    ];
    node.configure({ revision: 2, servers, grants: servers.map(({ slug }) => ({ server: slug, tools: ['*'] })) });
    for (const [slug, told] of [
      ['old', { extensions: { [apps]: shown } }],
      ['closed', {}],
    ] as const) {
      const params = { name: 'count', arguments: {} };
      const body = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: modernParams(params, declared) };
      await send(node.url(slug), { headers: modern('tools/call', params).headers, body: JSON.stringify(body) });
      expect(old.toldOf('initialize').at(-1)?.message?.params?.['capabilities']).toEqual(told);
    }
    await old.stop();
  });
});
