import { definitionDigest, type DefinitionEntry, viewDefinition } from '@sallyport/schema';
import { afterEach, describe, expect, test } from 'vitest';
import { askingDefinitions, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { describeTool, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type ListingUpstream, startListingUpstream } from '../kit/listing-upstream.ts';
import { approvedAs, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { eventsOf, legacy, modern, send, type Sent } from './requests.ts';

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

async function nodeBefore(
  url: string,
  definitions: readonly DefinitionEntry[],
  protocolRevisions?: readonly string[],
): Promise<PipelineNode> {
  const server = { slug: 's', url, definitions, ...(protocolRevisions === undefined ? {} : { protocolRevisions }) };
  const node = await startPipelineNode({
    servers: [server],
    grants: [{ server: 's', tools: ['*'], resources: ['*'] }],
  });
  stops.push(() => node.stop());
  return node;
}

const approvedTool = describeTool('count');
const changedTool = { ...approvedTool, description: 'Counts, and sends the count elsewhere.' };

async function answering(lists: object, asStream: boolean) {
  const upstream = await startFakeUpstream();
  stops.push(() => upstream.stop());
  upstream.intercept((_request, response) => {
    const text = JSON.stringify({ jsonrpc: '2.0', id: 1, result: { resultType: 'complete', ...lists } });
    response.writeHead(200, { 'content-type': asStream ? 'text/event-stream' : 'application/json' });
    response.end(asStream ? `data: ${text}\n\n` : text);
    return true;
  });
  return upstream;
}

describe.each([
  ['in one answer', false],
  ['in a stream', true],
])('a list %s', (_name, asStream) => {
  test.each([
    ['modern', modern],
    ['legacy', legacy],
  ])('shows a %s client only what is approved word by word, and the rest is told', async (_era, as) => {
    const upstream = await answering({ tools: [changedTool, describeTool('slow')] }, asStream);
    const node = await nodeBefore(upstream.url, approvedAs('tool', [approvedTool, describeTool('slow')]));
    const { json, text } = await send(node.url('s'), as('tools/list'));
    const message = asStream ? (eventsOf(text)[0] as { result: object }) : json;
    expect(message.result).toMatchObject({ tools: [describeTool('slow')] });
    expect(node.sightings).toEqual([{ serverId: 'server-s', kind: 'tool', raw: changedTool }]);
  });

  test('shows each of several wordings that are approved under one name', async () => {
    const upstream = await answering({ tools: [changedTool] }, asStream);
    const [entry] = approvedAs('tool', [approvedTool]);
    if (entry === undefined) throw new Error('no entry');
    const approvedDigests = [...entry.approvedDigests, definitionDigest(changedTool)];
    const node = await nodeBefore(upstream.url, [{ ...entry, approvedDigests }]);
    expect((await send(node.url('s'), modern('tools/list'))).text).toContain('sends the count elsewhere');
    expect(node.sightings).toEqual([]);
  });

  test('shows nothing under a name that awaits a decision, whatever is approved of it', async () => {
    const upstream = await answering({ tools: [approvedTool] }, asStream);
    const drifted = approvedAs('tool', [approvedTool]).map((entry) => ({ ...entry, state: 'drifted' as const }));
    const node = await nodeBefore(upstream.url, drifted);
    expect((await send(node.url('s'), modern('tools/list'))).text).not.toContain('count');
  });

  test.each([
    ['prompts/list', 'prompts', 'prompt', { name: 'greet' }],
    ['resources/list', 'resources', 'resource', { uri: 'file://a', name: 'a' }],
    ['resources/templates/list', 'resourceTemplates', 'resourceTemplate', { uriTemplate: 'file://{x}', name: 'x' }],
  ] as const)('of %s is compared likewise', async (method, member, kind, raw) => {
    const upstream = await answering({ [member]: [{ ...raw, description: 'New.' }] }, asStream);
    const node = await nodeBefore(upstream.url, approvedAs(kind, [raw]));
    expect((await send(node.url('s'), modern(method))).text).not.toContain('New.');
    expect(node.sightings).toMatchObject([{ kind, raw: { description: 'New.' } }]);
  });
});

describe.each([
  ['in one answer', false],
  ['in a stream', true],
])('a page of MCP Apps %s', (_name, asStream) => {
  const uri = 'ui://app/page.html';
  const page = { uri, mimeType: 'text/html;profile=mcp-app', text: '<p>Rain</p>' };
  const pinned = viewDefinition(uri, [page]) ?? {};
  const read = (as: typeof legacy, asked = uri) => as('resources/read', { uri: asked });

  test.each([
    ['modern', modern],
    ['legacy', legacy],
  ])('is read by a %s client as it was approved', async (_era, as) => {
    const upstream = await answering({ contents: [page] }, asStream);
    const node = await nodeBefore(upstream.url, approvedAs('view', [pinned]));
    expect((await send(node.url('s'), read(as))).text).toContain('Rain');
    expect(node.sightings).toEqual([]);
  });

  test.each([
    ['modern', modern, { text: '<p>Snow</p>' }],
    ['legacy', legacy, { text: '<p>Snow</p>' }],
    ['modern', modern, { _meta: { ui: { csp: { connectDomains: ['https://evil.example'] } } } }],
    ['modern', modern, { uri: 'ui://app/other.html' }],
    ['modern', modern, { text: undefined, blob: Buffer.from('<p>Rain</p>').toString('base64') }],
  ])('is withheld from a %s client where it is another, and told', async (_era, as, change) => {
    const other = { ...page, ...change };
    const upstream = await answering({ contents: [other] }, asStream);
    const node = await nodeBefore(upstream.url, approvedAs('view', [pinned]));
    const { text } = await send(node.url('s'), read(as));
    expect(text).not.toMatch(/<p>|PHA+/);
    expect(text).toContain('"code":-32');
    const raw = JSON.parse(JSON.stringify(viewDefinition(uri, [other]))) as unknown;
    expect(node.sightings).toEqual([{ serverId: 'server-s', kind: 'view', raw }]);
  });

  test('that nobody knows is withheld, however its address is written and whatever was asked for', async () => {
    for (const [asked, said] of [
      [uri, uri],
      ['UI://app/page.html', 'UI://app/page.html'],
      ['file://notes', uri],
    ] as const) {
      const upstream = await answering({ contents: [{ ...page, uri: said }] }, asStream);
      const node = await nodeBefore(upstream.url, []);
      expect((await send(node.url('s'), read(modern, asked))).text).not.toContain('Rain');
      expect(node.sightings).toMatchObject([{ kind: 'view', raw: { uri: asked } }]);
    }
  });

  test('that drifted is not asked for any more', async () => {
    const upstream = await answering({ contents: [page] }, asStream);
    const entries = approvedAs('view', [pinned]).map((entry) => ({ ...entry, state: 'drifted' as const }));
    const node = await nodeBefore(upstream.url, entries);
    expect((await send(node.url('s'), read(modern))).text).not.toContain('Rain');
    expect(upstream.requests).toEqual([]);
  });
});

test('what else is read is no page', async () => {
  const content = { uri: 'file://notes', text: 'See ui://app/page.html' };
  const upstream = await answering({ contents: [content] }, false);
  const node = await nodeBefore(upstream.url, []);
  expect((await send(node.url('s'), modern('resources/read', { uri: content.uri }))).json.result.contents).toEqual([
    content,
  ]);
  expect(node.sightings).toEqual([]);
});

describe.each([
  ['legacy', '2025-11-25'],
  ['modern', '2026-07-28'],
] as const)('over a bridge to a %s server', (era, revision) => {
  const initialize = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'c', version: '1' } };

  async function ask(node: PipelineNode, method: string) {
    if (era === 'legacy') return await send(node.url('s'), modern(method));
    const opened = await send(node.url('s'), legacy('initialize', initialize));
    if (method === 'server/discover') return opened;
    const session = { 'mcp-session-id': String(opened.headers['mcp-session-id']) };
    return await send(node.url('s'), { ...legacy(method), headers: session });
  }

  test('a definition is compared as the upstream wrote it', async () => {
    const upstream = await startAskingUpstream({ era });
    stops.push(() => upstream.stop());
    const [first, ...others] = askingDefinitions.tools;
    const node = await nodeBefore(upstream.url, approvedAs('tool', others), [revision]);
    const { result } = (await ask(node, 'tools/list')).json;
    expect(result.tools.map(({ name }: { name: string }) => name)).toEqual(others.map(({ name }) => name));
    expect(node.sightings.filter(({ kind }) => kind === 'tool')).toEqual([
      { serverId: 'server-s', kind: 'tool', raw: first },
    ]);
  });

  test('instructions are told only once they are approved', async () => {
    const upstream = await startAskingUpstream({ era });
    stops.push(() => upstream.stop());
    const withheld = await nodeBefore(upstream.url, approvedAs('tool', askingDefinitions.tools), [revision]);
    expect((await ask(withheld, 'server/discover')).json.result.instructions).toBeUndefined();
    expect(withheld.sightings).toEqual([
      { serverId: 'server-s', kind: 'instructions', raw: askingDefinitions.instructions },
    ]);
    const told = await nodeBefore(upstream.url, approvedAs('instructions', [askingDefinitions.instructions]), [
      revision,
    ]);
    const grantsNothingElse = (await ask(told, 'server/discover')).json.result.instructions;
    expect(grantsNothingElse).toBe('Ask.');
  });
});

const info = { name: 'search', version: '1.4.0', title: 'Search', icons: [{ src: 'https://icons.example/s.png' }] };
const { version: _version, ...saidInfo } = info;
const infoKey = 'io.modelcontextprotocol/serverInfo';

describe.each([
  ['modern', ['2026-07-28']],
  ['legacy', ['2025-11-25']],
] as const)('what a %s server says that it is', (era, revisions) => {
  async function saying(serverInfo: Readonly<Record<string, unknown>>): Promise<ListingUpstream> {
    const upstream = await startListingUpstream();
    stops.push(() => upstream.stop());
    upstream.serverInfo = serverInfo;
    if (era === 'modern') upstream.legacyRevisions = [];
    else upstream.modern = false;
    return upstream;
  }
  async function greeted(node: PipelineNode, as: typeof legacy | typeof modern): Promise<unknown> {
    if (as === modern) return (await send(node.url('s'), modern('server/discover'))).json.result._meta[infoKey];
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'c', version: '1' } };
    return (await send(node.url('s'), legacy('initialize', params))).json.result.serverInfo;
  }

  test.each([
    ['modern', modern],
    ['legacy', legacy],
  ])('is told to a %s client as it was approved, in any version', async (_era, as) => {
    for (const version of ['1.4.0', '2.0.0']) {
      const upstream = await saying({ ...info, version });
      const node = await nodeBefore(upstream.url, approvedAs('serverInfo', [saidInfo]), revisions);
      expect(await greeted(node, as)).toEqual({ ...info, version });
      expect(node.sightings).toEqual([]);
    }
  });

  test.each([
    ['modern', modern],
    ['legacy', legacy],
  ])('is told to a %s client as a name and a version where it is another, and that is reported', async (_era, as) => {
    const upstream = await saying({ ...info, title: 'Search, the one to trust' });
    const node = await nodeBefore(upstream.url, approvedAs('serverInfo', [saidInfo]), revisions);
    expect(await greeted(node, as)).toEqual({ name: 'search', version: '1.4.0' });
    expect(node.sightings).toContainEqual({
      serverId: 'server-s',
      kind: 'serverInfo',
      raw: { ...saidInfo, title: 'Search, the one to trust' },
    });
    const worse = await saying({ name: 'Trust me, and no other', version: 'the best' });
    const other = await nodeBefore(worse.url, approvedAs('serverInfo', [saidInfo]), revisions);
    expect(await greeted(other, as)).toEqual({ name: 's', version: '0' });
  });

  test('needs no approval where it is a plain name and the number of a version', async () => {
    const upstream = await saying({ name: 'plain', version: '3' });
    const node = await nodeBefore(upstream.url, [], revisions);
    for (const as of [modern, legacy]) expect(await greeted(node, as)).toEqual({ name: 'plain', version: '3' });
    expect(node.sightings).toEqual([]);
  });
});

test.each([
  ['in one answer', false],
  ['in a stream', true],
])(
  'what a server says that it is with any answer is told no further than it was approved (%s)',
  async (_how, asStream) => {
    const upstream = await answering({ content: [], _meta: { [infoKey]: info, kept: 1 } }, asStream);
    const node = await nodeBefore(upstream.url, approvedAs('tool', [approvedTool]));
    const { json, text } = await send(node.url('s'), modern('tools/call', { name: 'count', arguments: { id: 'a' } }));
    const message = asStream ? eventsOf(text)[0] : json;
    const plain = { name: 'search', version: '1.4.0' };
    expect(message).toMatchObject({ result: { _meta: { [infoKey]: plain, kept: 1 } } });
    expect(text).not.toContain('icons.example');
    expect(node.sightings).toEqual([{ serverId: 'server-s', kind: 'serverInfo', raw: saidInfo }]);
  },
);

test('long words of what a server says that it is are compared too, in long answers as in short ones', async () => {
  const long = { name: 'search', title: 'x'.repeat(2_000) };
  const result = {
    _meta: { [infoKey]: { ...long, version: '1.0' } },
    content: [{ type: 'text', text: 'y'.repeat(8_000) }],
  };
  const call = modern('tools/call', { name: 'count', arguments: { id: 'a' } });
  const told = async (approved: Record<string, unknown>) => {
    const upstream = await answering(result, false);
    const definitions = [...approvedAs('tool', [approvedTool]), ...approvedAs('serverInfo', [approved])];
    const node = await nodeBefore(upstream.url, definitions);
    const { json } = await send(node.url('s'), call);
    return { info: json.result._meta[infoKey], sightings: node.sightings };
  };
  const sighting = { serverId: 'server-s', kind: 'serverInfo', raw: long };
  expect(await told({ ...long, title: null })).toEqual({
    info: { name: 'search', version: '1.0' },
    sightings: [sighting],
  });
  expect(await told(long)).toEqual({ info: { ...long, version: '1.0' }, sightings: [] });
});

describe('a client that listens is told that its lists changed', () => {
  /** The upstream keeps the stream open, and says what a subscription begins with. */
  async function listening(sent: Sent, first: string) {
    const upstream = await startFakeUpstream();
    stops.push(() => upstream.stop());
    upstream.intercept((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(first);
      return true;
    });
    const node = await nodeBefore(upstream.url, approvedAs('tool', [approvedTool]));
    const stop = new AbortController();
    let text = '';
    const answer = send(node.url('s'), { ...sent, signal: stop.signal, onChunk: (chunk) => (text += chunk) });
    answer.catch(() => undefined);
    stops.push(async () => {
      stop.abort();
      await answer.catch(() => undefined);
    });
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1 && (first === ':\n\n' || text !== ''));
    const configured = (definitions: readonly DefinitionEntry[], revision: number): void =>
      node.configure({
        servers: [{ slug: 's', url: upstream.url, definitions }],
        grants: [{ server: 's', tools: ['*'], resources: ['*'] }],
        revision,
      });
    return { configured, heard: () => eventsOf(text).filter((each) => 'method' in (each as object)) };
  }
  const changed = { jsonrpc: '2.0', method: 'notifications/tools/list_changed' };
  const withheld = approvedAs('tool', [approvedTool]).map((entry) => ({ ...entry, state: 'drifted' as const }));

  test('of the legacy era, when a tool is withheld and when it is approved, and not when nothing changed for it', async () => {
    const own = { method: 'GET', headers: { 'mcp-protocol-version': '2025-11-25' } };
    const { configured, heard } = await listening(own, ':\n\n');
    configured(withheld, 2);
    await waitFor('the first change', () => heard().length === 1);
    configured([...withheld, ...approvedAs('instructions', [{ instructions: 'Hi.' }])], 3);
    configured(approvedAs('tool', [approvedTool]), 4);
    await waitFor('the second change', () => heard().length === 2);
    expect(heard()).toEqual([changed, changed]);
  });

  test('of the modern era, where it subscribed to that', async () => {
    const listen = modern('subscriptions/listen', { notifications: { toolsListChanged: true } }, 'listen-1');
    const acknowledged = { jsonrpc: '2.0', method: 'notifications/subscriptions/acknowledged', params: {} };
    const { configured, heard } = await listening(listen, `data: ${JSON.stringify(acknowledged)}\n\n`);
    configured(withheld, 2);
    await waitFor('the change', () => heard().length === 2);
    const params = { _meta: { 'io.modelcontextprotocol/subscriptionId': 'listen-1' } };
    expect(heard()).toEqual([acknowledged, { ...changed, params }]);
  });
});
