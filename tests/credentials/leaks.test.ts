import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ClientAccount } from '../kit/administrator.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { dump, filesUnder, keyFile, registerWith } from './credential-kit.ts';

const inbound = Array.from({ length: 12 }, (_, at) => `canary-inbound-${at}-${'q7x'.repeat(6)}`);
const stored = Array.from({ length: 40 }, (_, at) => `canary-stored-${at}-${'z9k'.repeat(6)}`);

let upstream: FakeUpstream;
let harness: Harness;
let plane: TestControlPlane;
let client: ClientAccount;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['look'] });
  const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
  harness = await startHarness({ upstreams: [upstream.url], environment });
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
});

function found(text: string, canaries: readonly string[]): string[] {
  return canaries.filter(
    (canary) => text.includes(canary) || text.includes(Buffer.from(canary).toString('base64').slice(0, 24)),
  );
}

test('of 12 secrets in headers, cookies and the query of a client none goes anywhere', async () => {
  const [a, b, c, d, e, f, g, h, i, j, k, l] = inbound;
  const headers = {
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
  const before = upstream.requests.length;
  const answers: string[] = [];
  for (const { url } of harness.nodes) {
    for (const era of ['modern', 'legacy']) {
      const meta = {
        'io.modelcontextprotocol/protocolVersion': '2026-07-28',
        'io.modelcontextprotocol/clientInfo': { name: 'raw', version: '1.0.0' },
        'io.modelcontextprotocol/clientCapabilities': {},
      };
      const modern = { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' }, _meta: meta } };
      const legacy = {
        method: 'initialize',
        params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'raw', version: '1' } },
      };
      const names = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': 'look' };
      const response = await fetch(`${url}/mcp/own?access_token=${k}&api_key=${l}`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          accept: 'application/json, text/event-stream',
          authorization: `Bearer ${client.key}`,
          ...(era === 'modern' ? names : {}),
          ...headers,
        },
        body: JSON.stringify({ jsonrpc: '2.0', id: 1, ...(era === 'modern' ? modern : legacy) }),
      });
      answers.push(`${response.status} ${JSON.stringify([...response.headers])} ${await response.text()}`);
    }
  }
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
  expect(text.match(/"sealed":"v1\./g)?.length).toBe(40);
});
