import { systemClock } from '@sallyport/schema/platform';
import { generateKeyPair, SignJWT } from 'jose';
import postgres from 'postgres';
import { freePort } from '@sallyport/cli';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Browser } from './browser.ts';
import { answerFrom, createProvider, follow, linkTo } from './federation-kit.ts';
import { type FakeIdentityProvider, idpClient, startFakeIdentityProvider } from './fake-identity-provider.ts';
import {
  asked,
  authorizationRequest,
  createClient,
  exchange,
  loginCode,
  nodesUrl,
  type OAuthPlane,
  refresh,
  resource,
  startOAuthPlane,
  submit,
  tokenRequest,
} from './oauth-kit.ts';

let plane: OAuthPlane;
let idp: FakeIdentityProvider;
let other: FakeIdentityProvider;
let sql: postgres.Sql;
let client: string;
let providerId: string;
let engineers: string;

const seconds = (): number => Math.floor(systemClock.now() / 1000);

function updateProvider(input: Record<string, unknown>) {
  const query = 'mutation ($input: UpdateIdentityProviderInput!) { updateIdentityProvider(input: $input) { id } }';
  return asked(plane, query, { input: { id: providerId, ...input } });
}

beforeAll(async () => {
  const port = await freePort();
  const callback = `http://127.0.0.1:${port}/oauth/callback`;
  idp = await startFakeIdentityProvider(callback);
  other = await startFakeIdentityProvider(callback);
  const allowed = [idp, other].map((one) => `127.0.0.1/32:${one.port}`).join(',');
  plane = await startOAuthPlane({ port, environment: { SALLYPORT_EGRESS_ALLOW: allowed } });
  sql = postgres(plane.databaseUrl, { max: 1 });
  client = (await createClient(plane)).id;
  engineers = (await asked(plane, 'mutation { createGroup(input: { name: "engineers" }) { id } }')).createGroup.id;
  const provider = await createProvider(plane, idp, 'Example', {
    groupsClaim: 'groups',
    groupsUrl: `${idp.issuer}/groups/{subject}`,
    groupRules: [{ value: 'eng-object-id', groupId: engineers }],
    acceptsAssertions: true,
  });
  providerId = provider.id;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
  await idp.stop();
  await other.stop();
});
beforeEach(() => {
  idp.subject = 'ada';
  idp.claims = { name: 'Ada', groups: ['eng-object-id', 'another'] };
});

/** Begins an authorization and chooses the provider: what the browser shows after it comes back. */
async function logIn(browser: Browser, name = 'Example') {
  const { request, link } = await linkTo(plane, client, browser, name);
  return { request, shown: await follow(browser, link) };
}

async function tokensByProvider(browser = new Browser()) {
  const { request, shown } = await logIn(browser);
  const sentBack = shown.location === null ? await submit(browser, shown, { decision: 'allow' }) : shown;
  if (sentBack.location === null) throw new Error(sentBack.text);
  return (await exchange(plane, client, request, sentBack.location)).body;
}

async function groupsOf(subject: string, issuer = idp.issuer): Promise<string[]> {
  const rows = await sql`select g.name from group_members m join groups g on g.id = m.group_id
    join principals p on p.id = m.principal_id where p.issuer = ${issuer} and p.subject = ${subject} order by 1`;
  return rows.map((row) => String(row['name']));
}

async function usersOf(subject: string): Promise<number> {
  return (await sql`select 1 from principals where subject = ${subject}`).length;
}

describe('login', () => {
  test('makes the user of issuer and subject, fills its groups, and asks by PKCE, nonce and state', async () => {
    const { shown } = await logIn(new Browser());
    expect(shown.text).toContain('You are logged in as <strong>Ada</strong>');
    expect(await groupsOf('ada')).toEqual(['engineers']);
    expect(Object.fromEntries(idp.lastRequest)).toMatchObject({
      code_challenge_method: 'S256',
      nonce: expect.stringMatching(/.{43}/),
      state: expect.stringMatching(/.{43}/),
    });
    idp.claims = { name: 'Ada Lovelace', groups: [] };
    await logIn(new Browser());
    expect(await usersOf('ada')).toBe(1);
    expect(await groupsOf('ada')).toEqual([]);
    expect((await sql`select name from principals where subject = 'ada'`)[0]?.['name']).toBe('Ada Lovelace');
  });

  test('the same subject at another provider is another user, whatever its e-mail address', async () => {
    await createProvider(plane, other, 'Other');
    Object.assign(other, { subject: 'ada', claims: { name: 'Ada', email: 'ada@example.com' } });
    idp.claims = { name: 'Ada', email: 'ada@example.com' };
    await logIn(new Browser());
    await logIn(new Browser(), 'Other');
    expect(await usersOf('ada')).toBe(2);
  });

  test('more groups than a token holds are read at the configured place, never where the token says', async () => {
    idp.subject = 'many';
    idp.claims = {
      name: 'Many',
      groups: undefined,
      _claim_names: { groups: 'src1' },
      _claim_sources: { src1: { endpoint: `${idp.issuer}/named-by-the-token/groups` } },
    };
    idp.groups = ['eng-object-id', ...Array.from({ length: 300 }, (_, index) => `g${index}`)];
    const { shown } = await logIn(new Browser());
    expect(shown.text).toContain('<strong>Many</strong>');
    expect(await groupsOf('many')).toEqual(['engineers']);
    expect(idp.groupRequests).toEqual(['/groups/many Bearer']);
    expect(idp.foreignRequests).toEqual([]);
  });

  test('with groups that cannot be read nobody gets in', async () => {
    idp.subject = 'unread';
    idp.claims = { hasgroups: true, groups: undefined };
    idp.groups = 'not a list' as unknown as string[];
    expect((await logIn(new Browser())).shown.status).toBe(400);
    expect(await usersOf('unread')).toBe(0);
  });

  test.each([
    ['no groups claim', { groups: undefined }, []],
    ['one group as a string', { groups: 'eng-object-id' }, ['engineers']],
    ['groups of another type', { groups: [1, null, { id: 'eng-object-id' }] }, []],
    ['a value that differs in case', { groups: ['ENG-OBJECT-ID'] }, []],
  ])('%s is taken for what it says and no more', async (name, claims, expected) => {
    idp.subject = `quirk-${name}`;
    idp.claims = { name, ...claims };
    await logIn(new Browser());
    expect(await groupsOf(`quirk-${name}`)).toEqual(expected);
  });

  test.each([
    ['of another issuer', { iss: 'https://evil.example' }],
    ['for another client', { aud: 'somebody-else' }],
    ['with another nonce', { nonce: 'another' }],
    ['that has expired', { exp: seconds() - 3_600 }],
    ['of the future', { iat: seconds() + 3_600, nbf: seconds() + 3_600 }],
    ['without a subject', { sub: undefined }],
  ])('an ID token %s lets nobody in', async (name, claims) => {
    idp.subject = `bad ${name}`;
    idp.claims = claims;
    const { shown } = await logIn(new Browser());
    expect(shown.status).toBe(400);
    expect(shown.text).not.toContain('evil');
    expect(await usersOf(`bad ${name}`)).toBe(0);
  });

  test('a clock that is off by less than a minute is borne', async () => {
    idp.subject = 'skewed';
    idp.claims = { iat: seconds() + 45, exp: seconds() + 600 };
    expect((await logIn(new Browser())).shown.text).toContain('name="decision"');
  });

  test('an answer is taken once, in the browser that was sent, and never where it names another issuer [P59]', async () => {
    const begin = async (browser: Browser) =>
      answerFrom(plane, browser, (await linkTo(plane, client, browser, 'Example')).link);
    const browser = new Browser();
    const answer = await begin(browser);
    expect((await new Browser().request(answer)).status).toBe(400);
    const mixedUp = new URL(answer);
    mixedUp.searchParams.set('iss', 'https://evil.example');
    const refused = await browser.request(mixedUp);
    expect({ status: refused.status, location: refused.location }).toEqual({ status: 400, location: null });
    const again = await begin(browser);
    const first = await browser.request(again);
    expect(first.status).toBe(303);
    expect((await browser.request(again)).status).toBe(400);
    const elsewhere = new Browser();
    await elsewhere.follow(authorizationRequest(plane, client).url);
    expect((await elsewhere.request(first.location ?? again)).status).toBe(400);
  });

  test('an answer of one provider to a login at another is none, though it names no issuer (mix-up)', async () => {
    const begun = async (name: string, browser: Browser) =>
      (await browser.request((await linkTo(plane, client, browser, name)).link)).location ?? new URL('about:blank');
    const browser = new Browser();
    // The hostile provider, where the user began, sends the browser on to the honest one with our parameters.
    const atHostile = await begun('Other', browser);
    expect(atHostile.origin).toBe(other.issuer);
    const atHonest = new URL(`${(await begun('Example', new Browser())).origin}/auth${atHostile.search}`);
    const honestCallback = `${plane.issuer}/oauth/callback/${providerId}`;
    atHonest.searchParams.set('redirect_uri', honestCallback);
    const answer = await answerFrom(plane, browser, atHonest);
    expect(answer.href.startsWith(honestCallback)).toBe(true);
    expect(answer.searchParams.get('code')).toBeTruthy();
    answer.searchParams.delete('iss');
    const before = [idp.tokenRequests, other.tokenRequests];
    const refused = await browser.request(answer);
    expect({ status: refused.status, location: refused.location }).toEqual({ status: 400, location: null });
    expect([idp.tokenRequests, other.tokenRequests]).toEqual(before);
    expect((await browser.request(new URL(`/oauth/callback${answer.search}`, plane.issuer))).status).toBe(404);
  });

  test('what a provider says of an error is not shown', async () => {
    const browser = new Browser();
    const url = new URL(
      `/oauth/callback/${providerId}?error=access_denied&error_description=call+0900&state=x`,
      plane.issuer,
    );
    const shown = await browser.request(url);
    expect(shown.status).toBe(400);
    expect(shown.text).not.toContain('0900');
  });

  test('step-up: a login of a lesser authentication context is refused where one is required', async () => {
    await updateProvider({ acrValues: ['mfa'] });
    idp.subject = 'stepped';
    idp.claims = { acr: 'pwd' };
    expect((await logIn(new Browser())).shown.status).toBe(400);
    expect(idp.lastRequest.get('acr_values')).toBe('mfa');
    idp.claims = { acr: 'mfa' };
    expect((await logIn(new Browser())).shown.text).toContain('name="decision"');
    await updateProvider({ acrValues: [] });
  });

  test('required claims pin the organization, and the subject is the claim that was chosen', async () => {
    await updateProvider({ requiredClaims: [{ name: 'tid', value: 'ours' }], subjectClaim: 'oid' });
    idp.claims = { tid: 'theirs', oid: 'object-1' };
    expect((await logIn(new Browser())).shown.status).toBe(400);
    idp.claims = { tid: 'ours', oid: 'object-1' };
    expect((await logIn(new Browser())).shown.status).toBe(200);
    expect(await usersOf('object-1')).toBe(1);
    await updateProvider({ requiredClaims: [], subjectClaim: 'sub' });
  });

  test('a user who is disabled, or whom the provider may not make, does not get in', async () => {
    await logIn(new Browser());
    const [user] = await sql`select id from principals where subject = 'ada' and issuer = ${idp.issuer}`;
    const set = (status: string) =>
      asked(plane, `mutation ($id: ID!) { updateUser(input: { id: $id, status: ${status} }) { id } }`, {
        id: user?.['id'],
      });
    await set('DISABLED');
    expect((await logIn(new Browser())).shown.status).toBe(400);
    await set('ACTIVE');
    await updateProvider({ createsUsers: false });
    expect((await logIn(new Browser())).shown.status).toBe(200);
    idp.subject = 'stranger';
    expect((await logIn(new Browser())).shown.status).toBe(400);
    await updateProvider({ createsUsers: true });
  });
});

test('an administrator reads what to register at the provider, and never its secret', async () => {
  const query = 'query ($id: ID!) { identityProvider(id: $id) { hasClientSecret redirectUri backChannelLogoutUri } }';
  expect((await asked(plane, query, { id: providerId })).identityProvider).toEqual({
    hasClientSecret: true,
    redirectUri: `${plane.issuer}/oauth/callback/${providerId}`,
    backChannelLogoutUri: `${plane.issuer}/oauth/backchannel-logout/${providerId}`,
  });
});

describe('groups of a provider', () => {
  test('are read-only here, and belong to one provider', async () => {
    const query = `mutation ($id: ID!, $who: ID!) {
      addGroupMembers(input: { id: $id, principalIds: [$who] }) { id }
    }`;
    const answer = await plane.ask(query, { id: engineers, who: plane.userId });
    expect(answer.errors[0]?.extensions.violations?.[0]?.message).toContain('identity provider');
    const taking = `mutation ($input: CreateIdentityProviderInput!) { createIdentityProvider(input: $input) { id } }`;
    const rules = [{ value: 'x', groupId: engineers }];
    const taken = await plane.ask(taking, {
      input: { name: 'Thief', issuer: 'https://thief.example', clientId: 'x', groupRules: rules },
    });
    expect(taken.errors[0]?.extensions.violations?.[0]?.path).toBe('input.groupRules[0].groupId');
  });
});

describe('logout at the provider', () => {
  const event = { 'http://schemas.openid.net/event/backchannel-logout': {} };
  const logOut = async (token: string) => {
    const url = `${plane.issuer}/oauth/backchannel-logout/${providerId}`;
    return (await fetch(url, { method: 'POST', body: new URLSearchParams({ logout_token: token }) })).status;
  };
  const claimsOf = (changes: Record<string, unknown> = {}) => ({
    iss: idp.issuer,
    aud: idpClient.id,
    iat: seconds(),
    exp: seconds() + 120,
    jti: `${Math.trunc(systemClock.monotonic() * 1000)}`,
    events: event,
    ...changes,
  });

  test('ends the sessions and tokens of that login, on nodes too, and no others', async () => {
    idp.claims = { sid: 'session-1' };
    const browser = new Browser();
    const tokens = await tokensByProvider(browser);
    idp.claims = { sid: 'session-2' };
    const others = await tokensByProvider();
    const token = await idp.sign(claimsOf({ sid: 'session-1' }), { typ: 'logout+jwt' });
    expect(await logOut(token)).toBe(200);
    expect((await refresh(plane, client, tokens.refresh_token)).body.error).toBe('invalid_grant');
    expect((await browser.follow(authorizationRequest(plane, client).url)).text).toContain('name="code"');
    expect((await refresh(plane, client, others.refresh_token)).status).toBe(200);
    const revoked = await sql`select 1 from oauth_revoked_families f join principals p on p.id = f.principal_id
      where p.subject = 'ada' and p.issuer = ${idp.issuer}`;
    expect(revoked.length).toBeGreaterThan(0);
    expect(await logOut(token)).toBe(400);
  });

  test('reaches a login that named no session, by its subject', async () => {
    idp.claims = {};
    const tokens = await tokensByProvider();
    expect(await logOut(await idp.sign(claimsOf({ sub: 'ada', sid: 'any' }), { typ: 'logout+jwt' }))).toBe(200);
    expect((await refresh(plane, client, tokens.refresh_token)).body.error).toBe('invalid_grant');
  });

  /** Logs in by the provider as far as the address, which the browser has not been at yet. */
  const loginUpTo = async (browser: Browser, isReached: (at: URL) => boolean): Promise<URL> => {
    let { link: at } = await linkTo(plane, client, browser, 'Example');
    while (!isReached(at)) {
      const { location } = await browser.request(at);
      if (location === null) throw new Error(`no way on from ${at.href}`);
      at = location;
    }
    return at;
  };

  test('ends a login whose browser has not come back from the provider yet', async () => {
    idp.claims = { sid: 'session-late' };
    const browser = new Browser();
    const ticket = await loginUpTo(browser, ({ pathname }) => pathname.endsWith('/logged-in'));
    expect(await logOut(await idp.sign(claimsOf({ sid: 'session-late' }), { typ: 'logout+jwt' }))).toBe(200);
    expect((await browser.request(ticket)).status).toBe(400);
  });

  test('ends a login between its ticket and the session', async () => {
    idp.claims = { sid: 'session-later' };
    const browser = new Browser();
    const resume = await loginUpTo(browser, ({ pathname }) => pathname.startsWith('/oauth/authorize/'));
    expect(await logOut(await idp.sign(claimsOf({ sid: 'session-later' }), { typ: 'logout+jwt' }))).toBe(200);
    const shown = await follow(browser, resume);
    // Neither a consent page nor, by a consent that is remembered, a code.
    expect(shown.text).not.toContain('name="decision"');
    expect(shown.location?.searchParams.get('code') ?? null).toBeNull();
  });

  test.each([
    ['with a nonce, as an ID token has', { nonce: 'n' }, {}],
    ['without the event', { events: {} }, {}],
    ['for another client', { aud: 'other' }, {}],
    ['of another issuer', { iss: 'https://evil.example' }, {}],
    ['that is old', { iat: 1_700_000_000, exp: undefined }, {}],
    ['that names nobody', { sub: undefined, sid: undefined }, {}],
    ['of another type', {}, { typ: 'at+jwt' }],
  ])('a token %s ends nothing', async (_name, changes, header) => {
    const claims = { ...claimsOf({ sub: 'ada' }), ...changes };
    expect(await logOut(await idp.sign(claims as never, { typ: 'logout+jwt', ...header }))).toBe(400);
  });

  test('a token of a foreign key ends nothing, and many such ask for the keys once', async () => {
    const { privateKey } = await generateKeyPair('RS256');
    const before = idp.keyRequests;
    const forged = (kid: string) =>
      new SignJWT(claimsOf({ sub: 'ada' }))
        .setProtectedHeader({ alg: 'RS256', typ: 'logout+jwt', kid, jku: `${other.issuer}/jwks` })
        .sign(privateKey);
    const answers = await Promise.all(
      Array.from({ length: 50 }, async (_, index) => logOut(await forged(`k${index}`))),
    );
    expect(new Set(answers)).toEqual(new Set([400]));
    expect(idp.keyRequests - before).toBeLessThanOrEqual(1);
  });
});

describe('an identity assertion (ID-JAG)', () => {
  let machine: { id: string; secret: string | null };
  beforeAll(async () => {
    machine = await createClient(plane, { authentication: 'SECRET' });
  });
  const assertion = (changes: Record<string, unknown> = {}, typ = 'oauth-id-jag+jwt') => {
    const claims = {
      iss: idp.issuer,
      aud: plane.issuer,
      sub: 'ada',
      client_id: machine.id,
      resource,
      scope: 'mcp:tools mcp:prompts',
      iat: seconds(),
      exp: seconds() + 60,
      jti: `${Math.trunc(systemClock.monotonic() * 1_000_000)}`,
      ...changes,
    };
    return idp.sign(claims as never, { typ });
  };
  const grant = (token: string, more: Record<string, string> = {}, by = machine) =>
    tokenRequest(plane, { grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion: token, ...more }, by);

  test('gives an access token for its user and resource, without a page or a refresh token', async () => {
    await logIn(new Browser());
    const { status, body } = await grant(await assertion(), { scope: 'mcp:tools' });
    expect({ status, body }).toMatchObject({ status: 200, body: { scope: 'mcp:tools', token_type: 'Bearer' } });
    expect(body).not.toHaveProperty('refresh_token');
    const [user] = await sql`select id from principals where subject = 'ada' and issuer = ${idp.issuer}`;
    const claims = JSON.parse(Buffer.from(body.access_token.split('.')[1], 'base64url').toString());
    expect(claims).toMatchObject({ sub: user?.['id'], aud: resource, client_id: machine.id });
  });

  test('works once', async () => {
    const token = await assertion();
    expect((await grant(token)).status).toBe(200);
    expect((await grant(token)).body.error).toBe('invalid_grant');
  });

  test.each<readonly [string, Record<string, unknown>, string | undefined]>([
    ['of another type', {}, 'at+jwt'],
    ['that is an ID token', {}, 'JWT'],
    ['for another server', { aud: 'https://as.example.com' }, undefined],
    ['for several servers', { aud: ['placeholder', 'https://as.example.com'] }, undefined],
    ['for another client', { client_id: 'another' }, undefined],
    ['for a resource elsewhere', { resource: 'https://evil.example/mcp/github' }, undefined],
    ['that has expired', { exp: 1_700_000_000 }, undefined],
    ['that is old', { iat: 1_700_000_000 }, undefined],
    ['without an id', { jti: undefined }, undefined],
    ['of an unknown issuer', { iss: 'https://unknown.example' }, undefined],
  ])('%s gives nothing', async (_name, changes, typ) => {
    const isForSeveral = Array.isArray(changes['aud']);
    const told = isForSeveral ? { aud: [plane.issuer, 'https://as.example.com'] } : changes;
    expect((await grant(await assertion(told, typ))).body.error).toBe('invalid_grant');
  });

  test('gives nothing for another resource than its own, to a public client, for a disabled user, or where not accepted', async () => {
    const elsewhere = { resource: `${nodesUrl}/mcp/other` };
    expect((await grant(await assertion(), elsewhere)).body.error).toBe('invalid_grant');
    const open = await tokenRequest(plane, {
      grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
      assertion: await assertion({ client_id: client }),
      client_id: client,
    });
    expect(open.status).toBe(400);
    await updateProvider({ acceptsAssertions: false });
    expect((await grant(await assertion())).body.error).toBe('invalid_grant');
    await updateProvider({ acceptsAssertions: true });
    const [user] = await sql`select id from principals where subject = 'ada' and issuer = ${idp.issuer}`;
    const set = (status: string) =>
      asked(plane, `mutation ($id: ID!) { updateUser(input: { id: $id, status: ${status} }) { id } }`, {
        id: user?.['id'],
      });
    await set('DISABLED');
    expect((await grant(await assertion())).body.error).toBe('invalid_grant');
    await set('ACTIVE');
  });
});

describe('when the provider is away', () => {
  test('the login page still works, says so, and a login code and the API go on working', async () => {
    const answer = await createProvider(plane, { ...other, issuer: 'http://127.0.0.1:9' }, 'Away').then(
      () => 'made',
      (error: Error) => error.message,
    );
    expect(answer).toContain('SALLYPORT_EGRESS_ALLOW');
    await other.stop();
    await asked(plane, 'mutation ($id: ID!) { updateIdentityProvider(input: { id: $id, name: "Gone" }) { id } }', {
      id: (await sql`select id from identity_providers where issuer = ${other.issuer}`)[0]?.['id'],
    });
    const browser = new Browser();
    const page = await browser.follow(authorizationRequest(plane, client).url);
    const link = /href="([^"]+)">Log in with Gone</.exec(page.text)?.[1]?.replaceAll('&amp;', '&') ?? '';
    expect((await browser.request(new URL(link, plane.issuer))).status).toBe(502);
    const code = await loginCode(plane, plane.userId);
    expect((await submit(browser, page, { code })).text).toContain('name="decision"');
  });
});

test('a provider’s secret is in no answer, no audit event and nowhere in clear', async () => {
  const dump = JSON.stringify([
    await sql`select * from identity_providers`,
    await sql`select * from audit_events`,
    await sql`select * from login_attempts`,
  ]);
  expect(dump).not.toContain(idpClient.secret);
});
