import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type AskingUpstream, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { type FleetNode, type FleetOfNodes, startFleetOfNodes } from './fleet-of-nodes.ts';
import { eventsOf, legacy, send, type Sent } from './requests.ts';

let upstream: AskingUpstream;
let fleet: FleetOfNodes;
const [first, second, late] = [0, 1, 2];

beforeEach(async () => {
  upstream = await startAskingUpstream({ era: 'modern' });
  fleet = await startFleetOfNodes(3, {
    servers: [{ slug: 'new', url: upstream.url, protocolRevisions: ['2026-07-28'], tools: ['count'] }],
    grants: [{ server: 'new', tools: ['*'], resources: ['*'] }],
  });
  // The third starts when the session has told what it has to tell.
  fleet.introduce(nodesOf(first, second));
});
afterEach(async () => {
  await fleet.stop();
  await upstream.stop();
});

function nodesOf(...at: readonly number[]): FleetNode[] {
  return at.flatMap((each) => fleet.nodes[each] ?? []);
}

function at(node: number, session: string, sent: Sent) {
  const headers = { ...sent.headers, ...(session === '' ? {} : { 'mcp-session-id': session }) };
  return send(fleet.nodes[node]?.node.url('new') ?? '', { ...sent, headers });
}

async function openSession(node: number): Promise<string> {
  const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'ide', version: '2' } };
  return String((await at(node, '', legacy('initialize', params))).headers['mcp-session-id']);
}

const setLevel = (level: string): Sent => legacy('logging/setLevel', { level });
const subscribe = (uri: string): Sent => legacy('resources/subscribe', { uri });
const call = (): Sent => legacy('tools/call', { name: 'count', arguments: {} });

/** The level that the upstream was told with the last call. */
function toldLevel(): unknown {
  const meta = upstream.toldOf('tools/call').at(-1)?.message?.params?.['_meta'];
  return (meta as Record<string, unknown> | undefined)?.['io.modelcontextprotocol/logLevel'];
}
function listenedTo(): unknown {
  const notifications = upstream.toldOf('subscriptions/listen').at(-1)?.message?.params?.['notifications'];
  return (notifications as Record<string, unknown> | undefined)?.['resourceSubscriptions'];
}

function listen(node: number, session: string) {
  const controller = new AbortController();
  let text = '';
  const sent = { method: 'GET', headers: { accept: 'text/event-stream' }, signal: controller.signal };
  const answer = at(node, session, { ...sent, onChunk: (chunk) => (text += chunk) }).catch(() => undefined);
  return { events: () => eventsOf(text), answer, stop: () => controller.abort() };
}

describe('a node that starts later than a legacy session at a modern server', () => {
  test('knows what the session told before', async () => {
    const session = await openSession(first);
    expect((await at(second, session, setLevel('error'))).json.result).toEqual({});
    await at(first, session, subscribe('file://a'));
    await at(second, session, subscribe('file://b'));
    await at(first, session, legacy('resources/unsubscribe', { uri: 'file://a' }));
    fleet.introduce(fleet.nodes);
    await at(late, session, call());
    expect(toldLevel()).toBe('error');
    const listening = listen(late, session);
    await waitFor('the listen', () => upstream.streams.size === 1);
    expect(listenedTo()).toEqual(['file://b']);
    listening.stop();
    await listening.answer;
  });

  test('hears what is told from then on, and what is told there is known to all when it is answered', async () => {
    const session = await openSession(first);
    fleet.introduce(fleet.nodes);
    expect((await at(late, session, setLevel('warning'))).json.result).toEqual({});
    await at(first, session, call());
    expect(toldLevel()).toBe('warning');
    await at(first, session, setLevel('alert'));
    await at(late, session, call());
    expect(toldLevel()).toBe('alert');
  });

  test('does not serve a session that was ended before', async () => {
    const session = await openSession(first);
    expect((await at(second, session, { method: 'DELETE' })).status).toBe(200);
    fleet.introduce(fleet.nodes);
    expect((await at(late, session, legacy('ping'))).status).toBe(404);
  });

  test('says so where those who knew are gone, and does what needs no knowledge', async () => {
    const session = await openSession(first);
    await at(first, session, subscribe('file://a'));
    fleet.introduce(nodesOf(late));
    const listening = await at(late, session, { method: 'GET', headers: { accept: 'text/event-stream' } });
    expect([listening.status, (await at(late, session, subscribe('file://b'))).status]).toEqual([404, 404]);
    expect((await at(late, session, setLevel('error'))).status).toBe(404);
    expect((await at(late, session, call())).json.result).toMatchObject({ content: [{ text: 'done' }] });
  });

  test('says that the others are not to be reached, and serves the session when they are', async () => {
    const session = await openSession(first);
    await at(first, session, subscribe('file://a'));
    fleet.introduce(nodesOf(first, late));
    nodesOf(first)[0]?.kill();
    const answer = await at(late, session, { method: 'GET', headers: { accept: 'text/event-stream' } });
    expect(answer.status).toBe(503);
    expect((await at(late, session, call())).json.result).toMatchObject({ content: [{ text: 'done' }] });
  });
});

test('a session that subscribes again and again makes two listens at once at most, and ends with what it wants', async () => {
  fleet.introduce(fleet.nodes);
  const session = await openSession(first);
  const listening = listen(second, session);
  await waitFor('the listen', () => upstream.streams.size === 1);
  let most = 0;
  for (let turn = 0; turn < 60; turn++) {
    await at(turn % 3, session, subscribe(`file://${turn}`));
    most = Math.max(most, upstream.streams.size);
  }
  await waitFor('a listen to all of them', () => (listenedTo() as unknown[] | undefined)?.length === 60);
  await waitFor('one listen', () => upstream.streams.size === 1);
  expect(most).toBeLessThanOrEqual(2);
  expect(upstream.toldOf('subscriptions/listen').length).toBeLessThan(30);
  upstream.announce({ method: 'notifications/resources/updated', params: { uri: 'file://59' } });
  await waitFor('the update, once', () => listening.events().length === 1);
  listening.stop();
  await listening.answer;
  await waitFor('no listen', () => upstream.streams.size === 0);
});

test('a session listens with the stream that it opened last, whichever node it is on', async () => {
  fleet.introduce(fleet.nodes);
  const session = await openSession(first);
  const before = listen(first, session);
  await waitFor('the listen', () => upstream.streams.size === 1);
  const after = listen(second, session);
  expect((await before.answer)?.status).toBe(200);
  await waitFor(
    'the listen of the other alone',
    () => upstream.streams.size === 1 && upstream.toldOf('subscriptions/listen').length === 2,
  );
  upstream.announce({ method: 'notifications/tools/list_changed' });
  await waitFor('the notification', () => after.events().length === 1);
  expect(before.events()).toEqual([]);
  after.stop();
  await after.answer;
});

test('a session that subscribes to too many resources is told so', async () => {
  const session = await openSession(first);
  for (let turn = 0; turn < 256; turn++) await at(first, session, subscribe(`file://${turn}`));
  const refused = await at(first, session, subscribe('file://one-more'));
  expect(refused.json.error).toMatchObject({ code: -32602, message: expect.stringContaining('256') });
  expect((await at(first, session, subscribe('file://0'))).json.result).toEqual({});
});
