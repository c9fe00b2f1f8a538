import { accessTokenClaimsSchema, accessTokenHeaderSchema } from '@sallyport/schema';
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Browser, formOf } from './browser.ts';
import {
  asked,
  authorizationRequest,
  authorize,
  createClient,
  createUser,
  exchange,
  loginCode,
  type OAuthPlane,
  redirectUri,
  refresh,
  resource,
  startOAuthPlane,
  submit,
  tokenRequest,
  tokensFor,
} from './oauth-kit.ts';

let plane: OAuthPlane;
let sql: postgres.Sql;
let client: string;
let ada: string;
let bob: string;

beforeAll(async () => {
  plane = await startOAuthPlane();
  sql = postgres(plane.databaseUrl, { max: 1 });
  client = (await createClient(plane)).id;
  ada = await createUser(plane, 'Ada');
  bob = await createUser(plane, 'Bob');
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

describe('metadata', () => {
  test('says what the server can do and no more [P58]', async () => {
    const response = await fetch(`${plane.issuer}/.well-known/oauth-authorization-server`);
    expect(response.headers.get('access-control-allow-origin')).toBe('*');
    const metadata = (await response.json()) as Record<string, unknown>;
    expect(metadata).toMatchObject({
      issuer: plane.issuer,
      authorization_endpoint: `${plane.issuer}/oauth/authorize`,
      token_endpoint: `${plane.issuer}/oauth/token`,
      revocation_endpoint: `${plane.issuer}/oauth/revoke`,
      response_types_supported: ['code'],
      response_modes_supported: ['query'],
      code_challenge_methods_supported: ['S256'],
      authorization_response_iss_parameter_supported: true,
      client_id_metadata_document_supported: true,
    });
    expect(metadata['token_endpoint_auth_methods_supported']).toEqual(
      expect.arrayContaining(['none', 'private_key_jwt']),
    );
    expect(metadata['scopes_supported']).toEqual(
      expect.arrayContaining(['mcp', 'mcp:tools', 'mcp:prompts', 'mcp:resources']),
    );
    expect(metadata).not.toHaveProperty('registration_endpoint');
    // Nodes take bearer tokens, and no route leads to pushed requests.
    expect(Object.keys(metadata).filter((name) => /dpop|pushed/.test(name))).toEqual([]);
  });

  test('names the public URL whatever Host a request has', async () => {
    const response = await fetch(`${plane.issuer}/.well-known/oauth-authorization-server`, {
      headers: { 'x-forwarded-host': 'evil.example', 'x-forwarded-proto': 'https' },
    });
    expect(await response.text()).not.toContain('evil');
  });
});

describe('the code flow', () => {
  test('ends with an access token for the one endpoint, signed by a published key', async () => {
    const request = authorizationRequest(plane, client);
    const redirect = await authorize(plane, new Browser(), request, ada);
    expect(redirect.href.startsWith(redirectUri)).toBe(true);
    expect(redirect.searchParams.get('state')).toBe(request.state);
    expect(redirect.searchParams.get('iss')).toBe(plane.issuer);
    const { status, body } = await exchange(plane, client, request, redirect);
    expect({ status, body }).toMatchObject({ status: 200, body: { token_type: 'Bearer', expires_in: 600 } });
    const keys = createRemoteJWKSet(new URL(`${plane.issuer}/oauth/jwks`));
    const { payload } = await jwtVerify(body.access_token, keys, { issuer: plane.issuer, audience: resource });
    accessTokenHeaderSchema.parse(decodeProtectedHeader(body.access_token));
    expect(accessTokenClaimsSchema.parse(payload)).toMatchObject({
      aud: resource,
      sub: ada,
      client_id: client,
      scope: 'mcp:tools',
      epoch: 0,
    });
  });

  test.each([
    ['without PKCE', { code_challenge: undefined, code_challenge_method: undefined }, 'invalid_request'],
    ['with plain PKCE', { code_challenge_method: 'plain' }, 'invalid_request'],
    ['without a resource', { resource: undefined }, 'invalid_target'],
    ['for a resource of another host', { resource: 'https://evil.example/mcp/github' }, 'invalid_target'],
    ['for a resource that is no endpoint', { resource: 'https://mcp.example.com/mcp/' }, 'invalid_target'],
    ['for a token in the fragment', { response_type: 'token' }, 'unsupported_response_type'],
  ])('%s is refused at the client', async (_name, parameters, error) => {
    const { location } = await new Browser().request(authorizationRequest(plane, client, parameters).url);
    expect(location?.origin).toBe('https://client.example.com');
    const answer = new URLSearchParams(location?.hash === '' ? location.search : location?.hash.slice(1));
    expect({ error: answer.get('error'), iss: answer.get('iss') }).toEqual({ error, iss: plane.issuer });
  });

  test.each([
    ['another path', 'https://client.example.com/callback/evil'],
    ['another host', 'https://evil.example/callback'],
    ['userinfo before the host', 'https://client.example.com@evil.example/callback'],
    ['a script', 'javascript:alert(1)'],
  ])('a redirect to %s leads nowhere', async (_name, elsewhere) => {
    const answer = await new Browser().request(authorizationRequest(plane, client, { redirect_uri: elsewhere }).url);
    expect({ status: answer.status, location: answer.location }).toEqual({ status: 400, location: null });
    expect(answer.headers.get('content-security-policy')).toContain("default-src 'none'");
  });

  test.each(['form_post', 'fragment', 'web_message'])('an answer by %s is not given', async (response_mode) => {
    const answer = await new Browser().request(authorizationRequest(plane, client, { response_mode }).url);
    expect({ status: answer.status, location: answer.location }).toEqual({ status: 400, location: null });
    expect(answer.headers.get('content-security-policy')).toContain("default-src 'none'");
  });

  test.each(['\u0000', 'a\ud800b', 'x'.repeat(9_000)])(
    'a client id that no client can have is of no client: %#',
    async (id) => {
      const answer = await new Browser().request(authorizationRequest(plane, id).url);
      expect({ status: answer.status, location: answer.location }).toEqual({ status: 400, location: null });
      const form = { grant_type: 'authorization_code', client_id: id, code: 'x', redirect_uri: redirectUri };
      expect((await tokenRequest(plane, form)).body.error).toBe('invalid_client');
    },
  );

  test('a code works once, for its client and its verifier; a second use voids what the first gave', async () => {
    const other = (await createClient(plane)).id;
    const request = authorizationRequest(plane, client);
    const redirect = await authorize(plane, new Browser(), request, ada);
    expect((await exchange(plane, other, request, redirect)).body.error).toBe('invalid_grant');
    const wrong = { ...request, verifier: 'x'.repeat(43) };
    expect((await exchange(plane, client, wrong, redirect)).body.error).toBe('invalid_grant');
    const again = authorizationRequest(plane, client);
    const secondRedirect = await authorize(plane, new Browser(), again, ada);
    const { body } = await exchange(plane, client, again, secondRedirect);
    expect((await exchange(plane, client, again, secondRedirect)).body.error).toBe('invalid_grant');
    expect((await refresh(plane, client, body.refresh_token)).body.error).toBe('invalid_grant');
  });

  test('two requests with one code at once give tokens at most once', async () => {
    const request = authorizationRequest(plane, client);
    const redirect = await authorize(plane, new Browser(), request, ada);
    const answers = await Promise.all([1, 2, 3].map(() => exchange(plane, client, request, redirect)));
    expect(answers.filter(({ status }) => status === 200).length).toBeLessThanOrEqual(1);
  });

  test('a request without scopes is for all kinds of targets', async () => {
    const request = authorizationRequest(plane, client, { scope: undefined });
    const { body } = await exchange(plane, client, request, await authorize(plane, new Browser(), request, ada));
    expect(body.scope).toBe('mcp:tools mcp:prompts mcp:resources');
  });

  test('tokens cannot be asked for another endpoint than was consented to [P62]', async () => {
    const tokens = await tokensFor(plane, client, ada);
    const elsewhere = { grant_type: 'refresh_token', client_id: client, refresh_token: tokens.refresh };
    const { body } = await tokenRequest(plane, { ...elsewhere, resource: 'https://mcp.example.com/mcp/other' });
    expect(body.error).toBe('invalid_target');
  });
});

describe('consent', () => {
  test('its page names where the answer goes, cannot be framed, runs no script, and is not cached', async () => {
    const browser = new Browser();
    const named = { name: '<img src=x onerror=alert(1)>', redirectUris: [redirectUri] };
    const hostile = (await createClient(plane, named)).id;
    const login = await browser.follow(authorizationRequest(plane, hostile).url);
    const consent = await submit(browser, login, { code: await loginCode(plane, ada) });
    for (const shown of [login, consent]) {
      expect(shown.text).toContain('client.example.com');
      expect(shown.text).toContain('&lt;img src=x');
      expect(shown.text).not.toMatch(/<img|<script|<[^>]*\s(on\w+|style)=/);
      const policy = shown.headers.get('content-security-policy');
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(policy).toContain("form-action 'self' https://client.example.com");
      expect(shown.headers.get('x-frame-options')).toBe('DENY');
      expect(shown.headers.get('cache-control')).toBe('no-store');
      expect(shown.text).toContain('<html lang="en">');
    }
    expect(consent.text).toContain(resource);
  });

  test('is taken only with the token of its page, from its origin and with its cookie', async () => {
    const browser = new Browser();
    const fresh = (await createClient(plane)).id;
    const login = await browser.follow(authorizationRequest(plane, fresh).url);
    const consent = await submit(browser, login, { code: await loginCode(plane, ada) });
    const { action, fields } = formOf(consent.text);
    const url = new URL(action, plane.issuer);
    expect((await browser.request(url, { decision: 'allow' })).status).toBe(403);
    expect((await browser.request(url, { csrf: 'x'.repeat(43), decision: 'allow' })).status).toBe(403);
    const foreign = { origin: 'https://evil.example' };
    expect((await browser.request(url, { ...fields, decision: 'allow' }, foreign)).status).toBe(403);
    const crossSite = { 'sec-fetch-site': 'cross-site' };
    expect((await browser.request(url, { ...fields, decision: 'allow' }, crossSite)).status).toBe(403);
    expect((await new Browser().request(url, { ...fields, decision: 'allow' })).status).toBe(400);
    expect((await submit(browser, consent, { decision: 'allow' })).location?.searchParams.get('code')).toBeTruthy();
  });

  test('is remembered for the same client, address, endpoint and scopes alone, and for its user alone [P60]', async () => {
    const browser = new Browser();
    const one = (await createClient(plane)).id;
    const two = (await createClient(plane)).id;
    await authorize(plane, browser, authorizationRequest(plane, one), ada);
    const again = await browser.follow(authorizationRequest(plane, one).url);
    expect(again.location?.searchParams.get('code')).toBeTruthy();
    const asks = async (who: Browser, clientId: string, parameters = {}) =>
      (await who.follow(authorizationRequest(plane, clientId, parameters).url)).text.includes('name="decision"');
    expect(await asks(browser, two)).toBe(true);
    expect(await asks(browser, one, { scope: 'mcp:tools mcp:prompts' })).toBe(true);
    expect(await asks(browser, one, { resource: `${resource}-2` })).toBe(true);
    const others = new Browser();
    const login = await others.follow(authorizationRequest(plane, one).url);
    const shown = await submit(others, login, { code: await loginCode(plane, bob) });
    expect(shown.text).toContain('name="decision"');
  });

  test('is asked each time where any program of the machine could answer', async () => {
    const browser = new Browser();
    const loopback = 'http://127.0.0.1/callback';
    const native = (await createClient(plane, { redirectUris: [loopback] })).id;
    const parameters = { redirect_uri: 'http://127.0.0.1:51234/callback' };
    const first = await authorize(plane, browser, authorizationRequest(plane, native, parameters), ada);
    expect(first.href).toContain('http://127.0.0.1:51234/callback?');
    const again = await browser.follow(authorizationRequest(plane, native, parameters).url);
    expect(again.text).toContain('name="decision"');
  });

  test('of a user who is disabled while the page is open is none', async () => {
    const userId = await createUser(plane, 'Gone');
    const browser = new Browser();
    const login = await browser.follow(authorizationRequest(plane, client).url);
    const page = await submit(browser, login, { code: await loginCode(plane, userId) });
    const disable = 'mutation ($id: ID!) { updateUser(input: { id: $id, status: DISABLED }) { id } }';
    await asked(plane, disable, { id: userId });
    const answer = await submit(browser, page, { decision: 'allow' });
    expect({ status: answer.status, location: answer.location }).toEqual({ status: 400, location: null });
  });

  test('denied, sends an error to the client and no code', async () => {
    const browser = new Browser();
    const fresh = (await createClient(plane)).id;
    const login = await browser.follow(authorizationRequest(plane, fresh).url);
    const consent = await submit(browser, login, { code: await loginCode(plane, ada) });
    const { location } = await submit(browser, consent, { decision: 'deny' });
    expect(location?.searchParams.get('error')).toBe('access_denied');
    expect(location?.searchParams.get('code')).toBeNull();
  });

  test('can be given as somebody else, whose browser session then it is', async () => {
    const browser = new Browser();
    const fresh = (await createClient(plane)).id;
    const login = await browser.follow(authorizationRequest(plane, fresh).url);
    const consent = await submit(browser, login, { code: await loginCode(plane, ada) });
    const secondLogin = await submit(browser, consent, { decision: 'switch' });
    const secondConsent = await submit(browser, secondLogin, { code: await loginCode(plane, bob) });
    expect(secondConsent.text).toContain('<strong>Bob</strong>');
  });

  test('withdrawn, ends the refresh token and tells nodes to refuse the access token', async () => {
    const fresh = (await createClient(plane)).id;
    const tokens = await tokensFor(plane, fresh, ada);
    const list = await asked(
      plane,
      `query ($id: ID!) {
      oauthConsents(principalId: $id, first: 100) { edges { node { id clientId redirectUri resource scopes } } }
    }`,
      { id: ada },
    );
    const nodes = list.oauthConsents.edges.map(({ node }: { node: { id: string; clientId: string } }) => node);
    const consent = nodes.find(({ clientId }: { clientId: string }) => clientId === fresh);
    expect(consent).toMatchObject({ redirectUri, resource, scopes: ['mcp:tools'] });
    await asked(plane, 'mutation ($id: ID!) { revokeOAuthConsent(input: { id: $id }) { id } }', { id: consent.id });
    expect((await refresh(plane, fresh, tokens.refresh)).body.error).toBe('invalid_grant');
    const revoked =
      await sql`select principal_id from oauth_revoked_families where family = ${String(tokens.claims['family'])}`;
    expect(revoked).toMatchObject([{ principal_id: ada }]);
  });
});

describe('behind a balancer that terminates TLS', () => {
  test('cookies are bound to the host and to TLS, and every address is the public one', async () => {
    const issuer = 'https://control.example.com';
    const { databaseUrl } = plane;
    const behind = await startOAuthPlane({ databaseUrl, issuer, bootstrap: false });
    const local = new URL(behind.graphqlUrl).origin;
    const { pathname, search } = authorizationRequest(plane, client).url;
    const first = await fetch(`${local}${pathname}${search}`, { redirect: 'manual' });
    expect(first.status).toBe(303);
    const interaction = first.headers.getSetCookie().filter((text) => !text.includes('.sig='));
    expect(new Set(interaction.map((text) => text.split('=')[0]))).toEqual(
      new Set(['__Secure-sallyport_interaction', '__Secure-sallyport_resume']),
    );
    for (const text of first.headers.getSetCookie()) {
      expect(text).toMatch(/; secure/i);
      expect(text).toMatch(/; httponly/i);
      expect(text).toMatch(/; samesite=lax/i);
    }
    const metadata = await (await fetch(`${local}/.well-known/oauth-authorization-server`)).text();
    expect(metadata).toContain(`"token_endpoint":"${issuer}/oauth/token"`);
    expect(metadata).not.toContain('127.0.0.1');
    // Nobody's metadata document makes a client until an administrator says whose (decision 0054).
    expect(metadata).not.toContain('"client_id_metadata_document_supported":true');
    const named = authorizationRequest(plane, 'https://anybody.example/client.json').url;
    expect((await fetch(`${local}${named.pathname}${named.search}`, { redirect: 'manual' })).status).toBe(400);
    await behind.stop();
  });
});

describe('login by code', () => {
  test('a code works once, and another user’s or an invented one never', async () => {
    const code = await loginCode(plane, ada);
    const first = new Browser();
    const login = await first.follow(authorizationRequest(plane, client).url);
    expect((await submit(first, login, { code: 'spl_invented' })).status).toBe(401);
    expect((await submit(first, login, { code })).text).not.toContain('name="code"');
    const second = new Browser();
    const again = await submit(second, await second.follow(authorizationRequest(plane, client).url), { code });
    expect(again.status).toBe(401);
    expect(again.text).toContain('unknown, used or expired');
  });

  test('only whoever may make the user’s API keys can make one', async () => {
    const query = 'mutation ($userId: ID!) { createLoginCode(input: { userId: $userId, dryRun: true }) { code } }';
    const dry = await plane.ask(query, { userId: ada });
    expect(dry.data.createLoginCode.code).toBeNull();
    const nobody = await plane.ask(query, { userId: plane.ownerId });
    expect(nobody.errors[0]?.extensions.violations?.[0]?.path).toBe('input.userId');
  });
});

describe('at rest', () => {
  test('no code, token, cookie or secret is in the database', async () => {
    const browser = new Browser();
    const tokens = await tokensFor(plane, client, ada, browser);
    const secrets = [tokens.access, tokens.refresh, ...[...browser.cookies.values()].map(({ value }) => value)];
    const dump = JSON.stringify([
      await sql`select * from oauth_objects`,
      await sql`select * from oauth_clients`,
      await sql`select * from audit_events`,
    ]);
    expect(secrets.length).toBeGreaterThan(2);
    for (const secret of secrets) expect(dump).not.toContain(secret);
    expect(dump).not.toContain('codeChallenge');
  });
});
