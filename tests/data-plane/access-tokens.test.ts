import { oauthScopes } from '@sallyport/schema';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { TokenIssuer, type TokenOptions } from '../kit/access-tokens.ts';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { type Answer, legacy, modern, send, type Sent } from './requests.ts';

const issuer = new TokenIssuer();
const nextKey = new TokenIssuer('key-2');
const metadata = (slug: string): string => `https://mcp.example/.well-known/oauth-protected-resource/mcp/${slug}`;
let upstream: FakeUpstream;
let streaming: EchoUpstream;
let node: PipelineNode;
let configuration: TestConfiguration;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['granted', 'other'] });
  streaming = await startEchoUpstream();
  configuration = {
    servers: [
      { slug: 'open', url: upstream.url, tools: ['granted', 'other'] },
      { slug: 'sibling', url: upstream.url, tools: ['granted'] },
      { slug: 'closed', url: upstream.url, tools: ['granted'] },
      { slug: 'streaming', url: streaming.url, tools: ['echo'] },
    ],
    grants: [
      { server: 'open', tools: ['granted'], prompts: ['*'], resources: ['*'] },
      { server: 'sibling', tools: ['*'] },
      { server: 'streaming', tools: ['*'] },
    ],
    oauth: issuer.document(),
  };
  node = await startPipelineNode(configuration);
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
  await streaming.stop();
});
beforeEach(() => {
  node.configure(configuration);
  node.records.length = 0;
});

const call = modern('tools/call', { name: 'granted', arguments: {} });
const bearing = (token: string, sent: Sent = call): Sent => ({
  ...sent,
  headers: { ...sent.headers, authorization: `Bearer ${token}` },
});
const callWith = (token: string, slug = 'open', sent: Sent = call): Promise<Answer> =>
  send(node.url(slug), bearing(token, sent));
const challengeOf = (answer: Answer): string => answer.headers['www-authenticate'] ?? '';

test('an access token opens what the grants of its principal open, and nothing else', async () => {
  const token = issuer.token('open', 'first');
  expect((await callWith(token)).json.result.content).toBeDefined();
  const other = await callWith(token, 'open', modern('tools/call', { name: 'other', arguments: {} }));
  expect(other.json.error.code).toBe(-32602);
  const listed = await callWith(token, 'open', modern('tools/list'));
  expect(listed.json.result.tools.map(({ name }: { name: string }) => name)).toEqual(['granted']);
});

test('the record names principal, client and id of the token, and never holds the token', async () => {
  const token = issuer.token('open', 'first', { claims: { jti: 'token-id', client_id: 'client-7' } });
  await callWith(token);
  const opened = node.records.find(({ type }) => type === 'opened');
  expect(opened).toMatchObject({
    principal: { id: 'first', keyId: null, clientId: 'client-7', tokenId: 'token-id' },
  });
  expect(JSON.stringify(node.records)).not.toContain(token.split('.')[2]);
  for (const { headers } of upstream.requests) expect(JSON.stringify(headers)).not.toContain(token.slice(-20));
});

const now = Math.floor(Date.now() / 1000);
const refused: readonly [string, string | TokenOptions][] = [
  ['another endpoint', { claims: { aud: 'https://mcp.example/mcp/sibling' } }],
  ['this endpoint with a slash', { claims: { aud: 'https://mcp.example/mcp/open/' } }],
  ['this endpoint in another case', { claims: { aud: 'https://MCP.example/mcp/open' } }],
  ['all endpoints', { claims: { aud: 'https://mcp.example' } }],
  ['a list of endpoints', { claims: { aud: ['https://mcp.example/mcp/open'] } }],
  ['no endpoint', { claims: { aud: undefined } }],
  ['another issuer', { claims: { iss: 'https://evil.example' } }],
  ['a time that is over', { claims: { exp: now - 1 } }],
  ['a time to come', { claims: { iat: now + 3600 } }],
  ['a beginning to come', { claims: { nbf: now + 3600 } }],
  ['no end', { claims: { exp: undefined } }],
  ['an unknown principal', { claims: { sub: 'nobody' } }],
  ['another epoch', { claims: { epoch: 1 } }],
  ['an epoch that is no number', { claims: { epoch: '0' } }],
  ['no family', { claims: { family: undefined } }],
  ['the type of an ID-JAG', { header: { typ: 'oauth-id-jag+jwt' } }],
  ['the type of an ID token', { header: { typ: 'JWT' } }],
  ['the type of a logout token', { header: { typ: 'logout+jwt' } }],
  ['no type', { header: { typ: undefined } }],
  ['alg none and no signature', { header: { alg: 'none' }, signature: () => Buffer.alloc(0) }],
  ['alg None, signed all the same', { header: { alg: 'None' } }],
  ['alg RS256', { header: { alg: 'RS256' } }],
  ['alg ES384', { header: { alg: 'ES384' } }],
  ['the public key as an HMAC secret', issuer.confusedToken('open', 'first')],
  ['an unknown key id', { header: { kid: 'key-9' } }],
  ['a key id that is a path', { header: { kid: '../../dev/null' } }],
  ['a key id of the language', { header: { kid: '__proto__' } }],
  ['no key id', { header: { kid: undefined } }],
  ['a key id that is a list', { header: { kid: ['key-1'] } }],
  ['a critical extension', { header: { crit: ['exp'], exp: 1 } }],
  ['the signature of another key', nextKey.token('open', 'first', { header: { kid: 'key-1' } })],
  [
    'a key of its own in the header',
    nextKey.token('open', 'first', { header: { kid: 'key-1', jwk: JSON.parse(nextKey.publicKeyText) } }),
  ],
  [
    'an address of keys in the header',
    nextKey.token('open', 'first', { header: { kid: 'key-1', jku: 'https://evil.example/keys' } }),
  ],
  ['a signature of zeros', { signature: () => Buffer.alloc(64) }],
  ['a signature that is too long', { signature: () => Buffer.alloc(65, 1) }],
  [
    'a changed claim',
    issuer.token('open', 'first').replace(/\.[^.]+\./, `.${Buffer.from('{"sub":"first"}').toString('base64url')}.`),
  ],
  ['a fourth part', `${issuer.token('open', 'first')}.e30`],
  ['no JSON', `${Buffer.from('no').toString('base64url')}.e30.e30`],
  ['nothing between the dots', 'a.b.c'],
];

describe('a token is refused that has [P62]', () => {
  test.each(refused)('%s', async (_what, made) => {
    const token = typeof made === 'string' ? made : issuer.token('open', 'first', made);
    const before = upstream.requests.length;
    const answer = await callWith(token);
    expect(answer.status).toBe(401);
    expect(challengeOf(answer)).toBe(
      `Bearer error="invalid_token", resource_metadata="${metadata('open')}", scope="mcp"`,
    );
    expect(upstream.requests.length).toBe(before);
    expect(node.records).toMatchObject([{ type: 'refused', principal: null, decision: { reason: 'UNAUTHENTICATED' } }]);
  });

  test('one more character than is read', async () => {
    const long = issuer.token('open', 'first', { claims: { pad: 'x'.repeat(8 * 1024) } });
    expect((await callWith(long)).status).toBe(401);
  });

  test('no issuer, where nobody issues tokens', async () => {
    const { oauth: _oauth, ...without } = configuration;
    node.configure({ ...without, revision: 2 });
    const answer = await callWith(issuer.token('open', 'first'));
    expect([answer.status, challengeOf(answer)]).toEqual([401, 'Bearer error="invalid_token"']);
  });
});

test('a token is read from Authorization alone, never from the query', async () => {
  const token = issuer.token('open', 'first');
  const { authorization: _left, ...headers } = bearing(token).headers ?? {};
  const query = await send(`${node.url('open')}?access_token=${token}`, {
    ...call,
    headers: { ...headers, authorization: undefined },
  });
  expect(query.status).toBe(401);
});

test('who presents nothing is told where to log in, for every method, in every era [P55]', async () => {
  const nothing = { authorization: undefined };
  const requests: Sent[] = [
    legacy('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'x', version: '1' } }),
    modern('server/discover'),
    modern('tools/list'),
    legacy('tools/list'),
    { method: 'GET', headers: { accept: 'text/event-stream', 'mcp-protocol-version': '2025-11-25' } },
    { method: 'DELETE', headers: { 'mcp-protocol-version': '2025-11-25', 'mcp-session-id': 'x' } },
  ];
  for (const sent of requests) {
    const answer = await send(node.url('open'), { ...sent, headers: { ...sent.headers, ...nothing } });
    expect(answer.status).toBe(401);
    expect(challengeOf(answer)).toBe(`Bearer resource_metadata="${metadata('open')}", scope="mcp"`);
  }
});

test('an absent endpoint and one that the principal may not know of answer alike, to the byte', async () => {
  const shape = ({ status, headers, text }: Answer, slug: string) => {
    const { date: _date, ...rest } = headers;
    return JSON.parse(JSON.stringify({ status, rest, text }).replaceAll(slug, '<slug>')) as unknown;
  };
  for (const authorization of [undefined, 'Bearer wrong', `Bearer ${issuer.token('open', 'first')}`]) {
    const [absent, closed] = await Promise.all(
      ['absent', 'closed'].map(async (slug) =>
        shape(await send(node.url(slug), { ...call, headers: { ...call.headers, authorization } }), slug),
      ),
    );
    expect(absent).toEqual(closed);
  }
  const [absent, closed] = await Promise.all(
    ['absent', 'closed'].map(async (slug) => shape(await callWith(issuer.token(slug, 'first'), slug), slug)),
  );
  expect(absent).toMatchObject({ status: 404 });
  expect(absent).toEqual(closed);
});

test('scopes narrow what grants open: what a token lacks is told all at once, with what it holds', async () => {
  const tools = issuer.token('open', 'first', { claims: { scope: 'mcp:tools openid' } });
  expect((await callWith(tools)).status).toBe(200);
  const read = await callWith(tools, 'open', modern('resources/read', { uri: 'file://x' }));
  expect(read.status).toBe(403);
  expect(challengeOf(read)).toBe(
    `Bearer error="insufficient_scope", resource_metadata="${metadata('open')}", scope="mcp:tools mcp:resources"`,
  );
  expect(read.json.error).toMatchObject({ code: 1016, data: { missingScopes: ['mcp:resources'] } });
  const listen = modern('subscriptions/listen', {
    notifications: { toolsListChanged: true, promptsListChanged: true, resourceSubscriptions: ['file://x'] },
  });
  expect(challengeOf(await callWith(tools, 'open', listen))).toContain('scope="mcp:tools mcp:prompts mcp:resources"');
  expect(node.records.at(-1)).toMatchObject({
    type: 'refused',
    decision: { effect: 'deny', reason: 'INSUFFICIENT_SCOPE' },
  });
});

test.each([
  ['tools/list', {}, 'mcp:tools'],
  ['prompts/list', {}, 'mcp:prompts'],
  ['prompts/get', { name: 'p' }, 'mcp:prompts'],
  ['resources/list', {}, 'mcp:resources'],
  ['resources/templates/list', {}, 'mcp:resources'],
  [
    'completion/complete',
    { ref: { type: 'ref/prompt', name: 'p' }, argument: { name: 'a', value: '' } },
    'mcp:prompts',
  ],
  [
    'completion/complete',
    { ref: { type: 'ref/resource', uri: 'u' }, argument: { name: 'a', value: '' } },
    'mcp:resources',
  ],
] as const)('%s of %o needs %s, or the scope above it', async (method, params, scope) => {
  const others = oauthScopes.filter((one) => one !== scope && one !== 'mcp').join(' ');
  const sent = modern(method, params);
  const lacking = await callWith(issuer.token('open', 'first', { claims: { scope: others } }), 'open', sent);
  expect([lacking.status, lacking.json.error.data]).toEqual([403, { missingScopes: [scope] }]);
  for (const held of [scope, 'mcp']) {
    expect((await callWith(issuer.token('open', 'first', { claims: { scope: held } }), 'open', sent)).status).not.toBe(
      403,
    );
  }
});

test('a token without any scope opens a session and nothing in it', async () => {
  const none = issuer.token('open', 'first', { claims: { scope: '' } });
  expect((await callWith(none, 'open', modern('server/discover'))).status).toBe(200);
  expect((await callWith(none)).status).toBe(403);
});

test('what ends a token on the control plane ends it here with the push: principal, epoch, family, keys', async () => {
  const token = issuer.token('open', 'first');
  const principals = (more: object) => [
    { id: 'first', key: testKey, ...more },
    { id: 'another', key: otherKey },
  ];
  let revision = 10;
  const statusUnder = async (changed: Partial<TestConfiguration>): Promise<number> => {
    node.configure({ ...configuration, ...changed, revision: revision++ });
    return (await callWith(token)).status;
  };
  expect(await statusUnder({})).toBe(200);
  expect(await statusUnder({ principals: principals({ status: 'disabled' }) })).toBe(401);
  expect(await statusUnder({ principals: principals({ epoch: 1 }) })).toBe(401);
  expect(await statusUnder({ principals: principals({ revokedFamilies: ['family-1'] }) })).toBe(401);
  expect(await statusUnder({ principals: principals({ revokedFamilies: ['family-2'] }) })).toBe(200);
  expect(await statusUnder({ oauth: nextKey.document(issuer) })).toBe(200);
  expect(await statusUnder({ oauth: nextKey.document() })).toBe(401);
  expect(await statusUnder({ oauth: { ...issuer.document(), issuer: 'https://other.example' } })).toBe(401);
  expect(await statusUnder({ oauth: { ...issuer.document(), nodesUrl: 'https://other.example' } })).toBe(401);
});

test('an open stream ends with the family of its token, and at the end of its time', async () => {
  const listen = modern('subscriptions/listen', { notifications: { toolsListChanged: true } });
  const open = async (token: string): Promise<{ readonly answer: Promise<Answer> }> => {
    const before = node.pipeline.streams.size;
    const answer = callWith(token, 'streaming', listen);
    await waitFor('the stream is open', () => node.pipeline.streams.size > before);
    return { answer };
  };
  const revoked = await open(issuer.token('streaming', 'first'));
  const principals = [{ id: 'first', key: testKey, revokedFamilies: ['family-1'] }];
  node.configure({ ...configuration, principals, revision: 30 });
  expect((await revoked.answer).text).toContain('"code":1001');
  node.configure({ ...configuration, revision: 31 });
  const exp = Math.floor(Date.now() / 1000) + 2;
  const expiring = await open(issuer.token('streaming', 'first', { claims: { exp } }));
  await waitFor('the stream has ended', () => {
    node.pipeline.streams.recheck();
    return node.pipeline.streams.size === 0;
  });
  expect(Date.now()).toBeGreaterThanOrEqual(exp * 1000);
  expect((await expiring.answer).text).toContain('"resultType":"complete"');
});

test('a flood of unknown key ids costs no fetch, no memory and no key: others are served meanwhile', async () => {
  const flood = Array.from({ length: 1000 }, (_, n) =>
    issuer.token('open', 'first', { header: { kid: `kid-${n}`, jku: upstream.url } }),
  );
  const before = upstream.requests.length;
  const good = issuer.token('open', 'first');
  const [answers, served] = await Promise.all([
    Promise.all(flood.map(async (token) => (await callWith(token)).status)),
    callWith(good),
  ]);
  expect(new Set(answers)).toEqual(new Set([401]));
  expect(served.status).toBe(200);
  expect(upstream.requests.length - before).toBe(1);
});

describe('an endpoint that demands more than any login (RFC 9470)', () => {
  const demand = (needs: { acrValues: string[]; maxAgeSeconds: number | null }) => {
    const stepUp = [{ serverId: 'server-open', ...needs }];
    const principals = [
      { id: 'first', key: testKey },
      { id: 'person', key: otherKey, kind: 'user' as const },
    ];
    node.configure({ ...configuration, principals, oauth: { ...issuer.document(), stepUp }, revision: 3 });
  };
  const login = (claims: Record<string, unknown>) => issuer.token('open', 'person', { claims });

  test('challenges a person whose login is weaker, older or not told of, and lets the others in', async () => {
    demand({ acrValues: ['mfa', 'hwk'], maxAgeSeconds: 300 });
    expect((await callWith(login({ acr: 'hwk', auth_time: now - 30 }))).status).toBe(200);
    for (const claims of [{}, { acr: 'pwd', auth_time: now }, { acr: 'mfa' }, { acr: 'mfa', auth_time: now - 400 }]) {
      const answer = await callWith(login(claims));
      expect(answer.status).toBe(401);
      expect(challengeOf(answer)).toBe(
        `Bearer error="insufficient_user_authentication", acr_values="mfa hwk", max_age="300", resource_metadata="${metadata('open')}", scope="mcp"`,
      );
      expect(answer.json.error.code).toBe(1019);
    }
    expect(node.records.at(-1)).toMatchObject({ type: 'refused', decision: { reason: 'INSUFFICIENT_AUTHENTICATION' } });
  });

  test('is opened by no API key of a person, which tells of no login', async () => {
    demand({ acrValues: [], maxAgeSeconds: 300 });
    expect((await callWith(otherKey)).status).toBe(401);
    expect((await callWith(otherKey, 'sibling')).status).toBe(200);
    expect((await callWith(testKey)).status).toBe(200);
  });

  test('is asked of people alone and of that endpoint alone', async () => {
    demand({ acrValues: ['mfa'], maxAgeSeconds: null });
    expect((await callWith(issuer.token('open', 'first'))).status).toBe(200);
    expect((await callWith(issuer.token('sibling', 'person'), 'sibling')).status).toBe(200);
    expect((await callWith(issuer.token('closed', 'person'), 'closed')).status).toBe(404);
  });
});
