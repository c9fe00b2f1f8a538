import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import type { ClientAccount } from '../kit/administrator.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type HttpSseUpstream, startHttpSseUpstream } from '../kit/http-sse-upstream.ts';
import { saying, startWebhookReceiver, type WebhookReceiver } from '../kit/webhook-receiver.ts';
import { dump, filesUnder, keyFile, registerWith } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const inbound = Array.from({ length: 12 }, (_, at) => `canary-inbound-${at}-${'q7x'.repeat(6)}`);
const stored = Array.from({ length: 40 }, (_, at) => `canary-stored-${at}-${'z9k'.repeat(6)}`);

const as = new FakeAuthorizationServer();
let upstream: FakeUpstream;
/** Where a redirect of the upstream would lead. */
let elsewhere: FakeUpstream;
let old: HttpSseUpstream;
let receiver: WebhookReceiver;
let harness: Harness;
let plane: TestControlPlane;
let client: ClientAccount;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['look'] });
  elsewhere = await startFakeUpstream({ tools: ['look'] });
  old = await startHttpSseUpstream();
  receiver = await startWebhookReceiver();
  receiver.answer(saying({ decision: 'allow' }));
  await as.start();
  const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
  const upstreams = [upstream.url, elsewhere.url, old.url, receiver.url, as.url];
  harness = await startHarness({ upstreams, environment, authorizationServer: true });
  plane = await startTestControlPlane({ environment });
  const { administrator } = harness;
  const headers = [{ name: 'Authorization', value: 'Bearer of-the-gateway' }];
  const id = await registerWith(administrator, { slug: 'own', url: upstream.url }, { staticHeaders: { headers } });
  client = await administrator.createClient('caller');
  await administrator.grant({ serverId: id, tools: ['*'] });
  await administrator.converged();
}, 60_000);
afterAll(async () => {
  await harness.stop();
  await plane.stop();
  await upstream.stop();
  await elsewhere.stop();
  await old.stop();
  await receiver.stop();
  await as.stop();
});

function found(text: string, canaries: readonly string[]): string[] {
  return canaries.filter(
    (canary) => text.includes(canary) || text.includes(Buffer.from(canary).toString('base64').slice(0, 24)),
  );
}

test('of 12 secrets in headers, cookies and the query of a client none goes anywhere', async () => {
  const before = upstream.requests.length;
  const answers = await callAll('own');
  const sent = upstream.requests.slice(before);
  expect(sent.length).toBeGreaterThanOrEqual(4);
  expect(new Set(sent.map(({ headers: given }) => given.authorization))).toEqual(new Set(['Bearer of-the-gateway']));
  const text = [
    JSON.stringify(sent.map(({ path, rawHeaders, body }) => [path, rawHeaders, body])),
    ...answers,
    ...harness.dataDirectories.flatMap(filesUnder),
    await dump(harness.databaseUrl),
  ].join('\n');
  expect(found(text, [...inbound, client.key])).toEqual([]);
});

/** What a client sends besides its key, and must not. */
function besides(): Record<string, string> {
  const [a, b, c, d, e, f, g, h, i, j] = inbound;
  return {
    cookie: `session=${a}; other=${b}`,
    'x-api-key': c,
    'x-mcp-auth': d,
    'proxy-authorization': `Basic ${e}`,
    'x-forwarded-authorization': f,
    'x-amz-security-token': g,
    'private-token': h,
    authentication: i,
    'x-auth-token': j,
  } as Record<string, string>;
}
const query = `access_token=${inbound[10]}&api_key=${inbound[11]}`;
const message = (method: string, params: object) => JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });

/** A call of each era, on each node. */
async function callAll(slug: string): Promise<string[]> {
  const meta = {
    'io.modelcontextprotocol/protocolVersion': '2026-07-28',
    'io.modelcontextprotocol/clientInfo': { name: 'raw', version: '1.0.0' },
    'io.modelcontextprotocol/clientCapabilities': {},
  };
  const names = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': 'look' };
  const client20251125 = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'raw', version: '1' } };
  const asked = harness.nodes.flatMap(({ url }) =>
    [
      { headers: names, body: message('tools/call', { name: 'look', arguments: { id: 'x' }, _meta: meta }) },
      { headers: {}, body: message('initialize', client20251125) },
    ].map(async ({ headers, body }) => {
      const response = await fetch(`${url}/mcp/${slug}?${query}`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          accept: 'application/json, text/event-stream',
          authorization: `Bearer ${client.key}`,
          ...headers,
          ...besides(),
        },
        body,
        redirect: 'manual',
      });
      return `${response.status} ${JSON.stringify([...response.headers])} ${await response.text()}`;
    }),
  );
  return Promise.all(asked);
}

/** A client of 2024-11-05: the event stream, and a message where that says. */
async function callOverEvents(url: string, slug: string): Promise<string> {
  const ends = new AbortController();
  const authorization = `Bearer ${client.key}`;
  const stream = await fetch(`${url}/mcp/${slug}?${query}`, {
    headers: { accept: 'text/event-stream', authorization, ...besides() },
    signal: ends.signal,
  });
  const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  const until = async (pattern: RegExp): Promise<RegExpExecArray> => {
    for (;;) {
      const found = pattern.exec(text);
      if (found !== null) return found;
      const { value, done } = (await reader?.read()) ?? { value: undefined, done: true };
      if (done) throw new Error(`the stream ended: ${stream.status} ${text}`);
      text += value ?? '';
    }
  };
  const [, endpoint = ''] = await until(/^data: (\S+)/m);
  const posted = await fetch(new URL(endpoint, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization, ...besides() },
    body: message('initialize', {
      protocolVersion: '2024-11-05',
      capabilities: {},
      clientInfo: { name: 'raw', version: '1' },
    }),
  });
  await until(/"id":1/);
  ends.abort();
  return `${text} ${posted.status} ${await posted.text()}`;
}

test('none goes anywhere whatever a server is called with, over both transports, through retries and redirects', async () => {
  const { administrator } = harness;
  as.resource = upstream.url;
  const webhookShape = z.object({ webhook: z.object({ id: z.string() }) });
  const hook = { name: 'hook', url: receiver.url, events: ['REQUEST'] };
  const { webhook } = await administrator.mutate('createWebhook', hook, 'webhook { id }', webhookShape);
  const policy = { name: 'asks', rules: [], webhookIds: [webhook.id], webhookBudgetMs: 5_000 };
  await administrator.mutate('createPolicy', policy, '__typename', z.unknown());
  const login = { issuer: as.url, clientId: 'gateway', secret: 'of-the-gateway-at-its-authorization-server' };
  const modes = {
    exchanged: { tokenExchange: { ...login, namesActor: true } },
    service: { clientCredentials: login },
    told: { identityToken: { claims: ['NAME', 'EMAIL', 'GROUPS'] } },
  };
  for (const [slug, mode] of Object.entries(modes)) {
    const id = await registerWith(administrator, { slug, url: upstream.url }, mode);
    await administrator.grant({ serverId: id, tools: ['*'] });
  }
  const headers = [{ name: 'Authorization', value: 'Bearer of-the-gateway' }];
  const oldId = await registerWith(administrator, { slug: 'old', url: old.url }, { staticHeaders: { headers } });
  await administrator.grant({ serverId: oldId, tools: ['*'] });
  await administrator.converged();
  const before = upstream.requests.length;
  const answers: string[] = [];
  for (const slug of ['own', ...Object.keys(modes), 'old']) answers.push(...(await callAll(slug)));
  // Each token is refused once, and another one is asked for.
  const seen = new Set<string | undefined>();
  upstream.guard(({ headers: { authorization } }) => {
    const isSeen = seen.has(authorization);
    seen.add(authorization);
    return isSeen;
  });
  for (const slug of Object.keys(modes)) answers.push(...(await callAll(slug)));
  upstream.guard(() => true);
  upstream.intercept((_request, response) => {
    response.writeHead(307, { location: elsewhere.url }).end();
    return true;
  });
  for (const slug of ['own', ...Object.keys(modes)]) answers.push(...(await callAll(slug)));
  upstream.intercept(() => false);
  for (const { url } of harness.nodes) {
    for (const slug of ['own', 'told', 'old']) answers.push(await callOverEvents(url, slug));
  }
  expect(receiver.deliveries.length).toBeGreaterThan(0);
  expect(as.requests.length).toBeGreaterThan(0);
  expect(elsewhere.requests).toEqual([]);
  const text = [
    JSON.stringify(upstream.requests.slice(before).map(({ path, rawHeaders, body }) => [path, rawHeaders, body])),
    JSON.stringify(as.requests.map(({ path, form }) => [path, form.toString()])),
    JSON.stringify(receiver.deliveries.map(({ headers: sent, body }) => [sent, body])),
    ...answers,
    ...harness.dataDirectories.map(filesUnder),
    await dump(harness.databaseUrl),
  ].join('\n');
  expect(found(text, [...inbound, client.key])).toEqual([]);
  // What is the gateway's own reaches neither clients nor webhooks.
  const others = [...answers, JSON.stringify(receiver.deliveries)].join('\n');
  for (const token of [...as.live, login.secret, 'of-the-gateway', 'eyJ']) expect(others).not.toContain(token);
}, 60_000);

test('a dump of the database, with the configuration but without the key, reveals none of 40 secrets; nor does any answer', async () => {
  const answers: unknown[] = [];
  const ask = async (query: string, variables: Record<string, unknown>) => {
    const answer = await plane.ask(query, variables);
    answers.push(answer);
    if (answer.errors.length > 0) throw new Error(JSON.stringify(answer.errors));
    return answer.data;
  };
  const create = 'mutation ($input: CreateServerInput!) { createServer(input: $input) { id } }';
  const set = `mutation ($input: SetServerCredentialInput!) {
    setServerCredential(input: $input) { serverId mode isComplete headerNames issuer clientId scopes revision rotatedAt }
  }`;
  for (const [at, secret] of stored.entries()) {
    const { createServer } = await ask(create, { input: { slug: `s${at}`, url: 'https://mcp.example/mcp' } });
    const mode =
      at % 2 === 0
        ? { staticHeaders: { headers: [{ name: 'X-Key', value: secret }] } }
        : { clientCredentials: { issuer: 'https://login.example', clientId: 'gateway', secret } };
    const idempotencyKey = `key-${at}`;
    await ask(set, { input: { serverId: createServer.id, idempotencyKey, ...mode } });
  }
  // What is refused must not repeat it either.
  const refused = { serverId: '0', staticHeaders: { headers: [{ name: 'Host', value: stored[0] }] } };
  answers.push(await plane.ask(set, { input: refused }));
  const audit = '{ auditEvents(first: 200) { edges { node { action before after } } } }';
  answers.push(await plane.ask(audit, {}));
  const configuration = { SALLYPORT_SECRET_KEY: 'a secret key of the tests, 32 characters and more' };
  const text = [await dump(plane.databaseUrl), JSON.stringify(answers), JSON.stringify(configuration)].join('\n');
  expect(found(text, stored)).toEqual([]);
  expect(text.match(/"origin":"[^"]*","sealed":"v1\./g)?.length).toBe(40);
});
