import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { type PipelineNode, startPipelineNode } from '../data-plane/pipeline-node.ts';
import { eventsOf, legacy, modern, send } from '../data-plane/requests.ts';

const principalCount = 40;
const broadcasts = 5;
const principals = Array.from({ length: principalCount }, (_, at) => ({
  id: `principal-${at}`,
  key: `sp_key_of_a_principal_${String(at).padStart(16, '0')}`,
  uri: `file:///home/principal-${at}/inbox`,
}));

let upstream: EchoUpstream;
let nodes: readonly [PipelineNode, PipelineNode];

beforeAll(async () => {
  upstream = await startEchoUpstream();
  const configuration = {
    servers: ['shared', 'twin'].map((slug) => ({ slug, url: upstream.url, tools: ['echo'] })),
    grants: [
      { server: 'shared', tools: ['*'] },
      { server: 'twin', tools: ['*'] },
      ...principals.map(({ id, uri }) => ({
        server: 'shared',
        subject: { kind: 'serviceAccount' as const, id },
        resources: [uri],
      })),
    ],
    principals,
    sealing: [{ id: 'k1', secret: Buffer.alloc(32, 1).toString('base64'), use: 'seal' as const }],
  };
  nodes = await Promise.all([startPipelineNode(configuration), startPipelineNode(configuration)]);
});
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  await upstream.stop();
});

const nodeOf = (at: number): PipelineNode => nodes[at % 2] ?? nodes[0];
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

test('of what a careless server tells everybody, each subscription gets what its own principal may know', async () => {
  const seen = new Map<string, string>();
  const stop = new AbortController();
  const streams = principals.map(async ({ id, key, uri }, at) => {
    const listen = modern('subscriptions/listen', { notifications: { resourceSubscriptions: [uri] } });
    const onChunk = (text: string) => void seen.set(id, (seen.get(id) ?? '') + text);
    const sent = { ...listen, headers: { ...listen.headers, ...bearer(key) }, signal: stop.signal, onChunk };
    await send(nodeOf(at).url('shared'), sent).catch(() => undefined);
  });
  await waitFor('every stream is open', () => upstream.streamsOpen === principalCount);
  for (let round = 0; round < broadcasts; round++) {
    for (const { uri } of principals) {
      upstream.broadcast({ jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri, round } });
    }
  }
  upstream.broadcast({ jsonrpc: '2.0', method: 'notifications/tools/list_changed' });
  await waitFor('the last event is everywhere', () =>
    principals.every(({ id }) => seen.get(id)?.includes('list_changed')),
  );
  stop.abort();
  await Promise.all(streams);
  for (const { id, uri } of principals) {
    const events = eventsOf(seen.get(id) ?? '') as { params?: { uri: string } }[];
    expect(events.flatMap(({ params }) => params?.uri ?? [])).toEqual(Array.from({ length: broadcasts }, () => uri));
  }
});

test('a subscription to what another principal may know is refused', async () => {
  const [first, second] = principals;
  const listen = modern('subscriptions/listen', { notifications: { resourceSubscriptions: [second?.uri] } });
  const { json } = await send(nodeOf(0).url('shared'), {
    ...listen,
    headers: { ...listen.headers, ...bearer(first?.key ?? '') },
  });
  expect(json).toMatchObject({ error: { code: -32602 } });
});

describe('a session', () => {
  const slugs = ['shared', 'twin'];
  const few = principals.slice(0, 3);
  const call = legacy('tools/call', { name: 'echo', arguments: { nonce: 'session' } });

  test('serves its own principal on its own server, on any node, and is 404 everywhere else [P21] [P24] [P26]', async () => {
    const sessions = await Promise.all(
      few.flatMap((owner) =>
        slugs.map(async (slug) => {
          const initialize = legacy('initialize', { protocolVersion: '2025-11-25', capabilities: {} });
          const headers = { ...initialize.headers, ...bearer(owner.key) };
          const opened = await send(nodeOf(0).url(slug), { ...initialize, headers });
          return { owner, slug, token: String(opened.headers['mcp-session-id']) };
        }),
      ),
    );
    const attempts = sessions.flatMap((session) =>
      few.flatMap((caller) => slugs.map((slug) => ({ ...session, caller, on: slug }))),
    );
    for (const [at, { owner, slug, token, caller, on }] of attempts.entries()) {
      const headers = { ...call.headers, ...bearer(caller.key), 'mcp-session-id': token };
      const { status } = await send(nodeOf(at).url(on), { ...call, headers });
      expect(status, `${owner.id} on ${slug}, used by ${caller.id} on ${on}`).toBe(
        owner === caller && slug === on ? 200 : 404,
      );
    }
  });
});
