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
  harness = await startHarness({
    upstreams: [upstream.url],
    nodes: 1,
    environment: behindProxy,
    authorizationServer: true,
  });
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

/** The JSON-RPC message, marked so that the upstream can be asked whether it saw it. */
function messageOf(
  revision: ProtocolRevision,
  method: string,
  message: MethodRule['message'],
  given: Readonly<Record<string, unknown>>,
  marker: string,
): string {
  const meta = {
    'io.modelcontextprotocol/protocolVersion': revision,
    'io.modelcontextprotocol/clientInfo': { name: 'matrix', version: '1' },
    'io.modelcontextprotocol/clientCapabilities': {},
  };
  const handshake = { protocolVersion: revision, capabilities: {}, clientInfo: { name: 'matrix', version: '1' } };
  const own = method === 'initialize' ? handshake : given;
  const params = { ...own, marker, ...(eraOf(revision) === 'modern' ? { _meta: meta } : {}) };
  return JSON.stringify({ jsonrpc: '2.0', ...(message === 'request' ? { id: marker } : {}), method, params });
}

function headersOf(
  revision: ProtocolRevision,
  method: string,
  given: Readonly<Record<string, unknown>>,
  key: string | undefined,
): Record<string, string> {
  const name = given['name'] ?? given['uri'] ?? given['taskId'];
  const mirrored = typeof name === 'string' ? { 'mcp-name': name } : {};
  return {
    ...fromElsewhere(),
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    'mcp-protocol-version': revision,
    ...(eraOf(revision) === 'modern' ? { 'mcp-method': method, ...mirrored } : {}),
    ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
  };
}

/** Of a caller who is not told of the server: those whose credential is good. */
const hiddenCallers = ['no grant', 'other principal', 'key for another server', 'access token without a grant'];

async function send(
  caller: Pick<Caller, 'key'>,
  revision: ProtocolRevision,
  method: string,
  message: MethodRule['message'],
  given: Readonly<Record<string, unknown>>,
): Promise<Outcome> {
  asked += 1;
  const marker = `matrix-${asked}`;
  const aborting = new AbortController();
  const response = await fetch(`${harness.entryOrigin}/mcp/asked`, {
    method: 'POST',
    signal: aborting.signal,
    headers: headersOf(revision, method, given, caller.key),
    body: messageOf(revision, method, message, given, marker),
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

describe('a server that is hidden answers every method as one that does not exist, to the byte', () => {
  const answer = async (slug: string, key: string | undefined, row: (typeof rows)[number]): Promise<string> => {
    const { revision, method, rule } = row;
    const body = messageOf(revision, method, rule.message, paramsOf(rule, true), 'the same');
    const headers = headersOf(revision, method, paramsOf(rule, true), key);
    const response = await fetch(`${harness.entryOrigin}/mcp/${slug}`, { method: 'POST', headers, body });
    const told = [...response.headers].filter(([name]) => name !== 'date').map(([name, value]) => `${name}: ${value}`);
    return `${response.status}\n${told.join('\n').replaceAll(slug, '{slug}')}\n${await response.text()}`;
  };
  test.each(rows.map((row) => [`${row.revision} ${row.method}`, row] as const))('%s', async (_name, row) => {
    for (const caller of callers.filter(({ name }) => hiddenCallers.includes(name))) {
      const [hidden, unknown] = [
        await answer('asked', caller.key, row),
        await answer('nowhere', caller.keyForNowhere ?? caller.key, row),
      ];
      expect([caller.name, hidden]).toEqual([caller.name, unknown]);
      expect(hidden).toMatch(/^404/);
    }
    const anonymous = await answer('asked', undefined, row);
    expect(anonymous).toBe(await answer('nowhere', undefined, row));
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
