import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import type { ClientAccount, RegisteredServer } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern, openLegacySession, postRaw } from '../kit/raw-mcp.ts';

let upstream: FakeUpstream;
let harness: Harness;
let server: RegisteredServer;
let client: ClientAccount;
let grantId: string;
let configRevision: number;
const startedAt = new Date(systemClock.now() - 60_000).toISOString();

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url] });
  const { administrator } = harness;
  server = await administrator.registerServer('counter', upstream.url);
  client = await administrator.createClient('caller');
  const subject = { kind: 'SERVICE_ACCOUNT', id: client.principalId } as const;
  grantId = await administrator.grant({ serverId: server.id, subject, tools: ['count', 'stream', 'fail'] });
  configRevision = await administrator.converged();
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

const eventSchema = z.object({
  id: z.string(),
  nodeId: z.string().nullable(),
  principal: z.object({ id: z.string(), kind: z.string(), name: z.string(), keyId: z.string().nullable() }).nullable(),
  client: z.object({ userAgent: z.string().nullable() }).nullable(),
  server: z.object({ id: z.string().nullable(), slug: z.string() }).nullable(),
  httpMethod: z.string().nullable(),
  method: z.string().nullable(),
  target: z.object({ kind: z.string(), name: z.string() }).nullable(),
  protocolRevision: z.string().nullable(),
  decision: z.object({ effect: z.string(), reason: z.string(), grantIds: z.array(z.string()) }).nullable(),
  configRevision: z.number().nullable(),
  outcome: z.string().nullable(),
  status: z.number().nullable(),
  rpcErrorCode: z.number().nullable(),
  errorCode: z.string().nullable(),
  requestBytes: z.number().nullable(),
  responseBytes: z.number().nullable(),
  durationMs: z.number().nullable(),
  upstreamMs: z.number().nullable(),
});
type Event = z.infer<typeof eventSchema>;

const eventFields = `id nodeId principal { id kind name keyId } client { userAgent } server { id slug } httpMethod method
  target { kind name } protocolRevision decision { effect reason grantIds } configRevision outcome status rpcErrorCode
  errorCode requestBytes responseBytes durationMs upstreamMs`;

/** Every exchange recorded for a user agent, which each test gives a name of its own, oldest first. */
async function exchanges(): Promise<readonly Event[]> {
  const { auditEvents } = await harness.administrator.api.ask(
    `query ($from: DateTimeISO) {
      auditEvents(first: 200, kind: EXCHANGE, from: $from) { edges { node { ${eventFields} } } }
    }`,
    { from: startedAt },
    z.object({ auditEvents: z.object({ edges: z.array(z.object({ node: eventSchema })) }) }),
  );
  return auditEvents.edges.map(({ node }) => node).reverse();
}

/** Waits until `count` exchanges match and have ended; more than `count` is a failure too. */
async function recorded(what: string, matches: (event: Event) => boolean, count = 1): Promise<readonly Event[]> {
  const found = await waitFor(`${what} is in the audit trail`, async () => {
    const matching = (await exchanges()).filter(matches);
    return matching.length >= count && matching.every(({ outcome }) => outcome !== null) ? matching : undefined;
  });
  expect(found).toHaveLength(count);
  return found;
}

const call = (name: string, id: string, more: Record<string, unknown> = {}) => ({
  method: 'tools/call',
  params: { name, arguments: { id, ...more } },
});
const byTool = (name: string) => (event: Event) => event.target?.name === name;

describe('the audit trail has', () => {
  test('a call that was allowed, with everything that is known of it', async () => {
    await askModern(harness.endpoint('counter', client.key), call('count', 'allowed'));
    const [event] = await recorded('the call', byTool('count'));
    expect(event).toMatchObject({
      principal: { id: client.principalId, kind: 'serviceAccount', name: 'caller', keyId: client.keyId },
      server: { id: server.id, slug: 'counter' },
      httpMethod: 'POST',
      method: 'tools/call',
      target: { kind: 'TOOL', name: 'count' },
      protocolRevision: '2026-07-28',
      decision: { effect: 'ALLOW', reason: 'GRANTED', grantIds: [grantId] },
      configRevision,
      outcome: 'SUCCESS',
      status: 200,
      errorCode: null,
    });
    expect(harness.nodes.map(({ nodeId }) => nodeId)).toContain(event?.nodeId);
    expect(event?.requestBytes).toBeGreaterThan(100);
    expect(event?.responseBytes).toBeGreaterThan(50);
    expect(event?.durationMs).toBeGreaterThanOrEqual(event?.upstreamMs ?? Number.POSITIVE_INFINITY);
  });

  test('an answer by events, closed at its last byte', async () => {
    await askModern(harness.endpoint('counter', client.key), call('stream', 'streamed', { events: 5, delayMs: 20 }));
    const [event] = await recorded('the stream', byTool('stream'));
    expect(event).toMatchObject({ outcome: 'SUCCESS', status: 200 });
    expect(event?.durationMs).toBeGreaterThan(80);
  });

  test('an upstream that failed', async () => {
    await askModern(harness.endpoint('counter', client.key), call('fail', 'failing'));
    const [event] = await recorded('the failure', byTool('fail'));
    expect(event).toMatchObject({ decision: { effect: 'ALLOW' }, outcome: 'UPSTREAM_FAILURE' });
  });

  test('a call that was refused, with the reason the caller is not told', async () => {
    await askModern(harness.endpoint('counter', client.key), call('hang', 'refused'));
    const [event] = await recorded('the refusal', byTool('hang'));
    expect(event).toMatchObject({
      principal: { id: client.principalId },
      server: { slug: 'counter' },
      decision: { effect: 'DENY', reason: 'NO_GRANT', grantIds: [] },
      outcome: 'REFUSED',
      errorCode: 'TOOL_NOT_AVAILABLE',
    });
  });

  test('a request without a valid key, with nobody as its principal', async () => {
    await askModern(harness.endpoint('counter', 'sp_wrong'), { method: 'tools/list' });
    const [event] = await recorded('the stranger', ({ status }) => status === 401);
    expect(event).toMatchObject({
      principal: null,
      decision: { effect: 'NONE', reason: 'UNAUTHENTICATED' },
      outcome: 'REFUSED',
    });
  });

  test('a server that does not exist, by the slug that was asked for', async () => {
    await askModern(harness.endpoint('no-such-server', client.key), { method: 'tools/list' });
    const [event] = await recorded('the unknown server', (found) => found.server?.slug === 'no-such-server');
    expect(event).toMatchObject({ server: { id: null }, outcome: 'REFUSED', status: 404 });
  });

  test.each([
    ['is no JSON', '{"jsonrpc":"2.0",', 'PARSE_ERROR'],
    ['has a NUL byte', '{"jsonrpc":"2.0","id":1,\u0000}', 'PARSE_ERROR'],
    ['is no JSON-RPC message', '{"hello":"world"}', 'INVALID_REQUEST'],
  ])('a body that %s', async (what, body, errorCode) => {
    const userAgent = `malformed: ${what}`;
    await postRaw(harness.endpoint('counter', client.key), body, { 'user-agent': userAgent });
    const [event] = await recorded(what, (found) => found.client?.userAgent === userAgent);
    expect(event).toMatchObject({ method: null, outcome: 'MALFORMED', status: 400, errorCode });
  });

  test('headers that contradict the body', async () => {
    const userAgent = 'contradicting';
    const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/list', 'user-agent': userAgent };
    const meta = { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' };
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'prompts/list', params: { _meta: meta } });
    await postRaw(harness.endpoint('counter', client.key), body, headers);
    const [event] = await recorded('the contradiction', (found) => found.client?.userAgent === userAgent);
    expect(event).toMatchObject({ outcome: 'MALFORMED', status: 400 });
  });

  test('every request of a session', async () => {
    const ask = await openLegacySession(harness.endpoint('counter', client.key));
    await ask(call('count', 'in-session'));
    const legacy = (event: Event) => event.protocolRevision === '2025-11-25';
    const events = await recorded('the session', legacy, 3);
    expect(events.map(({ method }) => method)).toEqual(['initialize', 'notifications/initialized', 'tools/call']);
  });
});

test('traffic has calls, success rate and percentiles per server and per tool', async () => {
  const row = z.object({
    serverSlug: z.string(),
    targetName: z.string().nullable(),
    calls: z.number(),
    refused: z.number(),
    successRate: z.number().nullable(),
    durationMsP50: z.number().nullable(),
    durationMsP95: z.number().nullable(),
    durationMsP99: z.number().nullable(),
  });
  const traffic = async (groupBy: 'SERVER' | 'TARGET') => {
    const document = `query ($from: DateTimeISO!, $to: DateTimeISO!, $groupBy: TrafficGroup!) {
      traffic(from: $from, to: $to, groupBy: $groupBy) {
        serverSlug targetName calls refused successRate durationMsP50 durationMsP95 durationMsP99
      }
    }`;
    const to = new Date(systemClock.now() + 120_000).toISOString();
    const answer = z.object({ traffic: z.array(row) });
    return (await harness.administrator.api.ask(document, { from: startedAt, to, groupBy }, answer)).traffic;
  };
  // Each node reports its windows by itself, and a window ends between any two calls.
  const counted = (name: string) =>
    waitFor(`${name} is counted`, async () => (await traffic('TARGET')).find(({ targetName }) => targetName === name), {
      deadlineMs: 25_000,
      intervalMs: 200,
    });
  const stream = await counted('stream');
  expect(stream).toMatchObject({ serverSlug: 'counter', calls: 1, refused: 0, successRate: 1 });
  expect(stream.durationMsP50).toBeGreaterThan(80);
  expect(stream.durationMsP99).toBeGreaterThanOrEqual(stream.durationMsP95 ?? Number.POSITIVE_INFINITY);
  expect(await counted('fail')).toMatchObject({ calls: 1, successRate: 0 });
  const whole = await waitFor(
    'the calls of both nodes are counted',
    async () => (await traffic('SERVER')).find(({ calls }) => calls > 5),
    { deadlineMs: 25_000, intervalMs: 200 },
  );
  expect(whole.refused).toBeGreaterThan(0);
});
