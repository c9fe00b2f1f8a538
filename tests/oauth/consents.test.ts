import { systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Browser, type Shown } from './browser.ts';
import {
  asked,
  authorizationRequest,
  authorize,
  createClient,
  createUser,
  loginCode,
  type OAuthPlane,
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
  plane = await startOAuthPlane({ environment: { SALLYPORT_EGRESS_ALLOW: '127.0.0.1/32:9' } });
  sql = postgres(plane.databaseUrl, { max: 1 });
  client = (await createClient(plane)).id;
  [ada, bob] = [await createUser(plane, 'Ada'), await createUser(plane, 'Bob')];
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const accountUrl = () => new URL('/oauth/account', plane.issuer);

async function isRevoked(family: unknown): Promise<boolean> {
  return (await sql`select 1 from oauth_revoked_families where family = ${String(family)}`).length === 1;
}

/** Opens the page of a user's own, logging in where asked. */
async function account(browser: Browser, userId: string): Promise<Shown> {
  const shown = await browser.follow(accountUrl());
  if (!shown.text.includes('name="code"')) return shown;
  const { action, fields } = formsOf(shown.text)[0] ?? { action: '', fields: {} };
  return browser.follow(new URL(action, shown.url), { ...fields, code: await loginCode(plane, userId) });
}

/** The forms of a page, each with its hidden fields and buttons. */
function formsOf(html: string) {
  return html
    .split('<form method="post" action="')
    .slice(1)
    .map((part) => {
      const form = part.slice(0, part.indexOf('</form>'));
      const action = form.slice(0, form.indexOf('"'));
      const fields = [...form.matchAll(/name="(csrf|withdraw|logout)" value="([^"]*)"/g)];
      return { action, fields: Object.fromEntries(fields.map(([, name, value]) => [String(name), String(value)])) };
    });
}

describe('the page of a user’s own', () => {
  test('shows what was allowed, on loopback too, and withdrawing ends its tokens on nodes as well', async () => {
    const browser = new Browser();
    const native = (await createClient(plane, { name: 'Native', redirectUris: ['http://127.0.0.1/callback'] })).id;
    const parameters = { redirect_uri: 'http://127.0.0.1:51234/callback' };
    const request = authorizationRequest(plane, native, parameters);
    const redirect = await authorize(plane, browser, request, ada);
    const { body } = await tokenRequest(plane, {
      grant_type: 'authorization_code',
      code: redirect.searchParams.get('code') ?? '',
      code_verifier: request.verifier,
      redirect_uri: parameters.redirect_uri,
      client_id: native,
    });
    // At another port of the day: the same consent, which is asked for again and listed once.
    const other = { redirect_uri: 'http://127.0.0.1:51235/callback' };
    await authorize(plane, browser, authorizationRequest(plane, native, other), ada);
    const page = await account(browser, ada);
    expect(page.url.href).toBe(accountUrl().href);
    expect(page.text.match(/<h2[^>]*>Native<\/h2>/g)).toHaveLength(1);
    expect(page.text).toContain('It is asked each time it logs in.');
    const listed = await asked(
      plane,
      'query ($id: ID) { oauthConsents(principalId: $id) { edges { node { clientId redirectUri isRemembered } } } }',
      { id: ada },
    );
    expect(listed.oauthConsents.edges).toEqual([
      { node: { clientId: native, redirectUri: 'http://127.0.0.1/callback', isRemembered: false } },
    ]);
    const form = formsOf(page.text).find(({ fields }) => fields['withdraw'] !== undefined);
    const after = await browser.follow(accountUrl(), form?.fields);
    expect(after.text).toContain('You have allowed nothing.');
    expect((await refresh(plane, native, body.refresh_token)).body.error).toBe('invalid_grant');
    const { family } = JSON.parse(Buffer.from(body.access_token.split('.')[1], 'base64url').toString());
    expect(await isRevoked(family)).toBe(true);
  });

  test('cannot be framed or scripted, and is in no cache', async () => {
    const { headers } = await account(new Browser(), ada);
    expect(headers.get('content-security-policy')).toMatch(/default-src 'none'.*frame-ancestors 'none'/);
    expect(headers.get('content-security-policy')).not.toMatch(/script-src|unsafe/);
    expect(headers.get('x-frame-options')).toBe('DENY');
    expect(headers.get('cache-control')).toBe('no-store');
  });

  test('takes a form of its own alone: token, origin and cookie, and consents of its user', async () => {
    const browser = new Browser();
    await tokensFor(plane, client, ada, browser);
    const page = await account(browser, ada);
    const { fields = {} } = formsOf(page.text).find((form) => form.fields['withdraw'] !== undefined) ?? {};
    const post = (by: Browser, form: Record<string, string>, headers = {}) => by.request(accountUrl(), form, headers);
    expect((await post(browser, { withdraw: fields['withdraw'] ?? '' })).status).toBe(403);
    expect((await post(browser, fields, { origin: 'https://evil.example' })).status).toBe(403);
    expect((await post(browser, fields, { 'sec-fetch-site': 'cross-site' })).status).toBe(403);
    expect((await post(new Browser(), fields)).status).toBe(401);
    const bobs = new Browser();
    const own = formsOf((await account(bobs, bob)).text)[0]?.fields ?? {};
    expect((await post(bobs, fields)).status).toBe(403);
    expect((await post(bobs, { csrf: own['csrf'] ?? '', withdraw: fields['withdraw'] ?? '' })).status).toBe(404);
    expect((await browser.follow(accountUrl())).text).toContain(fields['withdraw']);
  });

  test('begins at the beginning where what it is to go on after is no consent', async () => {
    const browser = new Browser();
    await account(browser, ada);
    const shown = await browser.request(new URL('?after=nothing', accountUrl()));
    expect([shown.status, shown.text]).toEqual([200, expect.stringContaining('You are logged in as')]);
  });

  test('ends the browser session on request', async () => {
    const browser = new Browser();
    const page = await account(browser, ada);
    const logout = formsOf(page.text).find(({ fields }) => fields['logout'] !== undefined);
    expect((await browser.follow(accountUrl(), logout?.fields)).text).toContain('name="code"');
  });

  test('its login gives nobody a token, and none for an endpoint', async () => {
    const browser = new Browser();
    const mine = { client_id: 'sallyport-account', redirect_uri: accountUrl().href, scope: 'openid' };
    const request = authorizationRequest(plane, 'sallyport-account', { ...mine, resource: undefined });
    await account(browser, ada);
    const { location } = await browser.request(request.url);
    const form = {
      grant_type: 'authorization_code',
      code: location?.searchParams.get('code') ?? '',
      code_verifier: request.verifier,
      ...mine,
    };
    expect(form.code).not.toBe('');
    expect((await tokenRequest(plane, form)).body.error).toBe('invalid_client');
    expect((await tokenRequest(plane, form, { id: mine.client_id, secret: 'guessed' })).body.error).toBe(
      'invalid_client',
    );
    const forEndpoint = authorizationRequest(plane, 'sallyport-account', { ...mine, scope: 'mcp' });
    const refused = await browser.request(forEndpoint.url);
    expect(refused.location?.searchParams.get('error') ?? refused.status).toBe('invalid_target');
  });
});

describe('a slug that is given to another server', () => {
  const createServer = async (): Promise<string> => {
    const query = 'mutation { createServer(input: { slug: "github", url: "http://127.0.0.1:9/mcp" }) { id } }';
    return (await asked(plane, query)).createServer.id;
  };
  const deleteServer = (id: string) =>
    asked(plane, 'mutation ($id: ID!) { deleteServer(input: { id: $id }) { id } }', { id });

  test('inherits neither consent nor tokens of the one before, nor what was allowed when there was none', async () => {
    const fresh = (await createClient(plane)).id;
    const before = await tokensFor(plane, fresh, ada, new Browser());
    const first = await createServer();
    expect((await refresh(plane, fresh, before.refresh)).body.error).toBe('invalid_grant');
    const browser = new Browser();
    const login = await browser.follow(authorizationRequest(plane, fresh).url);
    const consent = await submit(browser, login, { code: await loginCode(plane, ada) });
    expect(consent.text).toContain('name="decision"');
    await submit(browser, consent, { decision: 'allow' });
    const tokens = await tokensFor(plane, fresh, ada, browser);
    expect((await refresh(plane, fresh, tokens.refresh)).status).toBe(200);
    await deleteServer(first);
    expect(await isRevoked(tokens.claims['family'])).toBe(true);
    const second = await createServer();
    expect((await refresh(plane, fresh, tokens.refresh)).body.error).toBe('invalid_grant');
    expect((await browser.follow(authorizationRequest(plane, fresh).url)).text).toContain('name="decision"');
    await deleteServer(second);
  });
});

describe('revocation by an access token (RFC 7009)', () => {
  const revoke = async (form: Record<string, string>, headers: Record<string, string> = {}) => {
    const response = await fetch(`${plane.issuer}/oauth/revoke`, {
      method: 'POST',
      headers,
      body: new URLSearchParams(form),
    });
    return { status: response.status, text: await response.text() };
  };

  test('ends the authorization it came from, its refresh token too, and no other', async () => {
    const [one, two] = [await tokensFor(plane, client, ada), await tokensFor(plane, client, ada)];
    expect(await revoke({ client_id: client, token: one.access })).toEqual({ status: 200, text: '' });
    expect(await isRevoked(one.claims['family'])).toBe(true);
    expect((await refresh(plane, client, one.refresh)).body.error).toBe('invalid_grant');
    expect((await refresh(plane, client, two.refresh)).status).toBe(200);
  });

  test('a token of another client, a forged or an invented one ends nothing, and is told alike', async () => {
    const tokens = await tokensFor(plane, client, ada);
    const other = (await createClient(plane)).id;
    const [head = '', body = '', signature = ''] = tokens.access.split('.');
    const forged = `${head}.${body}.${Buffer.from(signature, 'base64url').reverse().toString('base64url')}`;
    expect(await revoke({ client_id: other, token: tokens.access })).toEqual({ status: 200, text: '' });
    expect(await revoke({ client_id: client, token: forged })).toEqual({ status: 200, text: '' });
    const invented = `${Buffer.from('{"alg":"none"}').toString('base64url')}.e30.`;
    expect((await revoke({ client_id: client, token: invented })).status).toBe(200);
    expect(await isRevoked(tokens.claims['family'])).toBe(false);
    expect((await refresh(plane, client, tokens.refresh)).status).toBe(200);
  });

  test('ends what a client got by itself, as ending a service account’s sessions does', async () => {
    const at = new Date(systemClock.now() + 86_400_000).toISOString();
    const create =
      'mutation ($at: DateTimeISO!) { createServiceAccount(input: { name: "ci", expiresAt: $at }) { id } }';
    const accountId = (await asked(plane, create, { at })).createServiceAccount.id;
    const own = await createClient(plane, { authentication: 'SECRET', redirectUris: [], serviceAccountId: accountId });
    const basic = { authorization: `Basic ${btoa(`${own.id}:${own.secret}`)}` };
    const get = async () => {
      const form = { grant_type: 'client_credentials', resource, scope: 'mcp:tools' };
      const token: string = (await tokenRequest(plane, form, own)).body.access_token;
      return { token, family: JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()).family };
    };
    const first = await get();
    expect((await revoke({ token: first.token })).status).toBe(400);
    expect((await revoke({ token: first.token }, basic)).status).toBe(200);
    expect(await isRevoked(first.family)).toBe(true);
    const second = await get();
    expect(await isRevoked(second.family)).toBe(false);
    // The one before ends nothing of the present.
    await revoke({ token: first.token }, basic);
    expect(await isRevoked(second.family)).toBe(false);
    const end = 'mutation ($id: ID!) { endSessions(input: { principalId: $id }) { authorizations } }';
    expect((await asked(plane, end, { id: accountId })).endSessions.authorizations).toBe(1);
    expect(await isRevoked(second.family)).toBe(true);
    expect(await isRevoked((await get()).family)).toBe(false);
  });
});
