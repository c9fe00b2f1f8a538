import { allMethodRules, eraOf, type MethodRule, type ProtocolRevision, protocolRevisions } from '@sallyport/schema';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { behindProxy, type Caller, fromElsewhere, makeCallers } from './callers.ts';

let upstream: FakeUpstream;
let harness: Harness;
let callers: readonly Caller[];

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 1, environment: behindProxy });
  const { administrator } = harness;
  const [asked, other] = [
    await administrator.registerServer('asked', upstream.url),
    await administrator.registerServer('other', upstream.url),
  ];
  await definePrompt(asked.id);
  const selectors = { tools: ['count'], prompts: ['greet'], resources: ['file:///granted'] };
  callers = await makeCallers(harness, { serverId: asked.id, otherServerId: other.id, selectors });
}, 60_000);
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

/** The upstream has no prompts of its own; what matters is that one is approved. */
async function definePrompt(serverId: string): Promise<void> {
  const sql = postgres(harness.databaseUrl);
  await sql`insert into definitions (id, server_id, kind, name, digests, state, approved_digests, first_seen_at, last_seen_at)
    values ('01890000-0000-7000-8000-000000000001', ${serverId}, 'prompt', 'greet', '{d}', 'approved', '{d}', now(), now())`;
  await sql.end();
  const input = { id: serverId, description: 'with a prompt' };
  await harness.administrator.mutate('updateServer', input, 'id', z.object({ id: z.string() }));
}

/** What came of a request: whether the upstream saw it, and how it was answered. */
interface Outcome {
  readonly reached: boolean;
  readonly status: number;
  readonly rpcCode: number | undefined;
}

let asked = 0;

/** What a method takes, aimed at what is granted or at what is not. */
function paramsOf({ permission }: MethodRule, isGranted: boolean): Record<string, unknown> {
  const resource = isGranted ? 'file:///granted' : 'file:///other';
  switch (permission) {
    case 'tool':
      return { name: isGranted ? 'count' : 'slow', arguments: { id: 'matrix' } };
    case 'prompt':
      return { name: isGranted ? 'greet' : 'other' };
    case 'resource':
      return { uri: resource };
    case 'completion':
      return { ref: { type: 'ref/resource', uri: resource }, argument: { name: 'a', value: '' } };
    case 'listen':
      return { notifications: { resourceSubscriptions: [resource] } };
    case 'task':
      return { taskId: 'of nobody' };
    case 'server':
    case 'refused':
      return {};
    default:
      return permission satisfies never;
  }
}

async function send(
  caller: Pick<Caller, 'key'>,
  revision: ProtocolRevision,
  method: string,
  message: MethodRule['message'],
  given: Readonly<Record<string, unknown>>,
): Promise<Outcome> {
  asked += 1;
  const marker = `matrix-${asked}`;
  const isModern = eraOf(revision) === 'modern';
  const name = given['name'] ?? given['uri'] ?? given['taskId'];
  const meta = {
    'io.modelcontextprotocol/protocolVersion': revision,
    'io.modelcontextprotocol/clientInfo': { name: 'matrix', version: '1' },
    'io.modelcontextprotocol/clientCapabilities': {},
  };
  const handshake = { protocolVersion: revision, capabilities: {}, clientInfo: { name: 'matrix', version: '1' } };
  const params = {
    ...(method === 'initialize' ? handshake : given),
    marker,
    ...(isModern ? { _meta: meta } : {}),
  };
  const mirrored = isModern && typeof name === 'string' ? { 'mcp-name': name } : {};
  const aborting = new AbortController();
  const response = await fetch(`${harness.entryOrigin}/mcp/asked`, {
    method: 'POST',
    signal: aborting.signal,
    headers: {
      ...fromElsewhere(),
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'mcp-protocol-version': revision,
      ...(isModern ? { 'mcp-method': method, ...mirrored } : {}),
      ...(caller.key === undefined ? {} : { authorization: `Bearer ${caller.key}` }),
    },
    body: JSON.stringify({ jsonrpc: '2.0', ...(message === 'request' ? { id: marker } : {}), method, params }),
  });
  const isStream = response.headers.get('content-type')?.startsWith('text/event-stream') === true;
  const text = isStream ? '' : await response.text();
  aborting.abort();
  return {
    reached: upstream.requests.some(({ body }) => body.includes(`"${marker}"`)),
    status: response.status,
    rpcCode: text === '' ? undefined : (JSON.parse(text) as { error?: { code: number } }).error?.code,
  };
}

const statuses = { unauthenticated: 401, hidden: 404 } as const;
const unknownMethod = -32601;
/** Of what is not granted, as of what does not exist: tools, prompts and tasks; resources have a code of their own. */
const unknownTarget = [-32602, -32002];
const targeted: readonly MethodRule['permission'][] = ['tool', 'prompt', 'resource', 'completion', 'listen'];

/** What the table says comes of a method that somebody sends, as far as `seen` tells; the rest is as it came. */
function expectedOf(caller: Caller, rule: MethodRule | undefined, seen: Outcome): Outcome {
  if (caller.standing !== 'granted') return { ...seen, reached: false, status: statuses[caller.standing] };
  if (rule === undefined || rule.permission === 'refused') return { ...seen, reached: false, rpcCode: unknownMethod };
  // A task is of the call that made it, and nobody made one.
  return { ...seen, reached: rule.permission !== 'task' };
}

const rows = allMethodRules();

test('the table has methods of every revision', () => {
  for (const revision of protocolRevisions) {
    expect(rows.filter((row) => row.revision === revision).length).toBeGreaterThan(10);
  }
});

describe('every method of every revision, for every kind of caller', () => {
  test.each(rows.map((row) => [`${row.revision} ${row.method}`, row] as const))('%s', async (_name, row) => {
    const { revision, method, rule } = row;
    for (const caller of callers) {
      const outcome = await send(caller, revision, method, rule.message, paramsOf(rule, true));
      expect([caller.name, outcome]).toEqual([caller.name, expectedOf(caller, rule, outcome)]);
    }
  });
});

test('what is not granted on a server that is, is answered as what does not exist, and reaches no upstream', async () => {
  const granted = callers.find(({ standing }) => standing === 'granted');
  for (const { revision, method, rule } of rows.filter((row) => targeted.includes(row.rule.permission))) {
    const outcome = await send({ key: granted?.key }, revision, method, rule.message, paramsOf(rule, false));
    const what = `${revision} ${method} ${JSON.stringify(outcome)}`;
    expect([what, outcome.reached]).toEqual([what, false]);
    expect(unknownTarget).toContain(outcome.rpcCode);
  }
});

test('a method that a revision does not list reaches no upstream, whoever sends it', async () => {
  const listed = (revision: ProtocolRevision): Set<string> =>
    new Set(rows.filter((row) => row.revision === revision).map(({ method }) => method));
  const methods = new Set(['admin/everything', 'tools/Call', ...rows.map(({ method }) => method)]);
  for (const revision of protocolRevisions) {
    for (const method of [...methods].filter((one) => !listed(revision).has(one))) {
      for (const caller of callers) {
        const outcome = await send(caller, revision, method, 'request', {});
        const what = `${revision} ${method} ${caller.name}`;
        expect([what, outcome]).toEqual([what, expectedOf(caller, undefined, outcome)]);
      }
    }
  }
}, 60_000);
