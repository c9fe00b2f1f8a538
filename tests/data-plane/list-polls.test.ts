import { afterEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type ListingUpstream, startListingUpstream, toolNamed } from '../kit/listing-upstream.ts';
import { type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { eventsOf, legacy, modern, send } from './requests.ts';

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).toReversed()) await stop();
});

async function start(protocolRevision: string): Promise<{ upstream: ListingUpstream; node: PipelineNode }> {
  const upstream = await startListingUpstream();
  stops.push(() => upstream.stop());
  if (protocolRevision === '2026-07-28') upstream.legacyRevisions = [];
  else upstream.modern = false;
  upstream.announcesChanges = true;
  const servers = [{ slug: 'silent', url: upstream.url, protocolRevisions: [protocolRevision], tools: ['echo'] }];
  const grants = [{ server: 'silent', tools: ['*'], resources: ['*'] }];
  const node = await startPipelineNode({ servers, grants, listPollMs: 20 });
  stops.push(node.stop);
  return { upstream, node };
}

/** Listens until the test has seen what it waits for. */
function listen(node: PipelineNode, sent: Parameters<typeof send>[1]) {
  const controller = new AbortController();
  let text = '';
  const ended = send(node.url('silent'), { ...sent, signal: controller.signal, onChunk: (chunk) => (text += chunk) });
  return {
    changes: () => eventsOf(text).filter(({ method }) => method === 'notifications/tools/list_changed'),
    events: () => eventsOf(text),
    stop: async () => {
      controller.abort();
      await ended.catch(() => undefined);
    },
  };
}

async function polledAgain(upstream: ListingUpstream): Promise<void> {
  const count = (): number => upstream.asked.filter((method) => method === 'tools/list').length;
  const before = count();
  await waitFor('two more readings of the list', () => count() >= before + 2);
}

async function tellsChanges(upstream: ListingUpstream, listening: ReturnType<typeof listen>): Promise<void> {
  await polledAgain(upstream);
  expect(listening.changes()).toHaveLength(0);
  upstream.lists.tools = [...upstream.lists.tools, toolNamed('another')];
  await waitFor('the change', () => listening.changes().length === 1);
  upstream.lists.tools = upstream.lists.tools.toReversed();
  await polledAgain(upstream);
  expect(listening.changes()).toHaveLength(1);
  expect(upstream.asked).not.toContain('prompts/list');
}

/** One reading may be under way when the last one who listens leaves. */
async function endsWith(upstream: ListingUpstream, node: PipelineNode, stop: () => Promise<void>): Promise<void> {
  await stop();
  await waitFor('the end of the exchange', () => node.records.some(({ type }) => type === 'closed'));
  const before = upstream.asked.length;
  for (let turn = 0; turn < 5; turn++) await send(node.url('silent'), modern('tools/call', { name: 'none' }));
  expect(upstream.asked.length - before).toBeLessThanOrEqual(1);
}

const notifications = { toolsListChanged: true, promptsListChanged: true, resourceSubscriptions: ['file://a'] };

test('a modern client hears of changed lists of a legacy server that offers no stream', async () => {
  const { upstream, node } = await start('2025-11-25');
  const listening = listen(node, modern('subscriptions/listen', { notifications }));
  await waitFor('the acknowledgement', () => listening.events().length > 0);
  expect(listening.events()[0]).toMatchObject({
    method: 'notifications/subscriptions/acknowledged',
    params: { notifications: { toolsListChanged: true } },
  });
  expect(JSON.stringify(listening.events()[0])).not.toContain('file://a');
  await tellsChanges(upstream, listening);
  await endsWith(upstream, node, listening.stop);
  await waitFor('the end of the session', () => upstream.sessions.size === 0);
});

async function openSession(node: PipelineNode): Promise<string> {
  const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'ide', version: '2' } };
  return String((await send(node.url('silent'), legacy('initialize', params))).headers['mcp-session-id']);
}

test('a legacy client hears of changed lists of a modern server that offers no subscriptions', async () => {
  const { upstream, node } = await start('2026-07-28');
  const headers = { accept: 'text/event-stream', 'mcp-session-id': await openSession(node) };
  const listening = listen(node, { method: 'GET', headers });
  await tellsChanges(upstream, listening);
  await endsWith(upstream, node, listening.stop);
  expect(upstream.asked.filter((method) => method === 'server/discover')).toHaveLength(2);
});

test('a legacy client of a modern server that announces no changes is offered no stream [P10]', async () => {
  const { upstream, node } = await start('2026-07-28');
  upstream.announcesChanges = false;
  const headers = { accept: 'text/event-stream', 'mcp-session-id': await openSession(node) };
  expect((await send(node.url('silent'), { method: 'GET', headers })).status).toBe(405);
});
