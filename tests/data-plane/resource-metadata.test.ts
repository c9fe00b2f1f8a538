import { afterAll, beforeAll, expect, test } from 'vitest';
import { TokenIssuer } from '../kit/access-tokens.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';
import { modern, send } from './requests.ts';

const wellKnown = '/.well-known/oauth-protected-resource';
let upstream: FakeUpstream;
let node: PipelineNode;
let configuration: TestConfiguration;
let origin: string;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['granted'] });
  configuration = {
    servers: [{ slug: 'open', url: upstream.url, tools: ['granted'] }],
    grants: [],
    oauth: new TokenIssuer().document(),
  };
  node = await startPipelineNode(configuration);
  origin = new URL(node.url('open')).origin;
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});

const get = (path: string, headers: Record<string, string | undefined> = {}, method = 'GET') =>
  send(`${origin}${path}`, { method, headers: { authorization: undefined, accept: undefined, ...headers } });

test('the metadata of an endpoint names the public URL, whatever name the balancer asked by, and who issues tokens [P53]', async () => {
  const answer = await get(`${wellKnown}/mcp/open`, { origin: 'https://anybody.example' });
  expect(answer.status).toBe(200);
  expect(answer.headers).toMatchObject({ 'content-type': 'application/json', 'access-control-allow-origin': '*' });
  expect(answer.headers['access-control-allow-credentials']).toBeUndefined();
  expect(answer.json).toEqual({
    resource: 'https://mcp.example/mcp/open',
    authorization_servers: ['https://control.example'],
    scopes_supported: ['mcp', 'mcp:tools', 'mcp:prompts', 'mcp:resources'],
    bearer_methods_supported: ['header'],
  });
  expect(answer.json.scopes_supported).not.toContain('offline_access');
});

test('the root document is for all endpoints, and an absent endpoint is described as one that exists', async () => {
  expect((await get(wellKnown)).json).toMatchObject({ resource: 'https://mcp.example' });
  const [open, absent] = await Promise.all([get(`${wellKnown}/mcp/open`), get(`${wellKnown}/mcp/absent`)]);
  expect(absent.text).toBe(open.text.replace('/mcp/open', '/mcp/absent'));
});

test('a browser may ask before; nothing but reading is served, and only under a name of the node', async () => {
  const preflight = await get(
    `${wellKnown}/mcp/open`,
    { origin: 'https://anybody.example', 'access-control-request-method': 'GET' },
    'OPTIONS',
  );
  expect([preflight.status, preflight.headers['access-control-allow-origin']]).toEqual([204, '*']);
  expect((await get(`${wellKnown}/mcp/open`, {}, 'POST')).status).toBe(405);
  expect((await get(`${wellKnown}/mcp/open/more`)).status).toBe(404);
  expect((await get(`${wellKnown}/mcp/open`, { host: 'evil.example' })).status).toBe(403);
});

test('a public URL with a path: the well-known path goes before it, and the proxy may take the path away or not [P53]', async () => {
  const issuer = new TokenIssuer('key-1', { nodesUrl: 'https://example.com/gateway' });
  node.configure({ ...configuration, oauth: issuer.document(), revision: 2 });
  const refused = await send(node.url('open'), {
    ...modern('tools/list'),
    headers: { ...modern('tools/list').headers, authorization: undefined },
  });
  const location = /resource_metadata="([^"]+)"/.exec(refused.headers['www-authenticate'] ?? '')?.[1];
  expect(location).toBe('https://example.com/.well-known/oauth-protected-resource/gateway/mcp/open');
  for (const path of [`${wellKnown}/gateway/mcp/open`, `${wellKnown}/mcp/open`]) {
    expect((await get(path)).json).toMatchObject({ resource: 'https://example.com/gateway/mcp/open' });
  }
});

test('where nobody issues tokens there is no metadata, and the challenge names none', async () => {
  const { oauth: _oauth, ...without } = configuration;
  node.configure({ ...without, revision: 3 });
  expect((await get(`${wellKnown}/mcp/open`)).status).toBe(404);
  const refused = await send(node.url('open'), {
    ...modern('tools/list'),
    headers: { ...modern('tools/list').headers, authorization: undefined },
  });
  expect([refused.status, refused.headers['www-authenticate']]).toEqual([401, 'Bearer']);
});
