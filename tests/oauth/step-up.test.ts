import { freePort } from '@sallyport/cli';
import { systemClock } from '@sallyport/schema/platform';
import { decodeJwt } from 'jose';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Browser } from './browser.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from './fake-identity-provider.ts';
import { createProvider, follow, linkTo } from './federation-kit.ts';
import {
  asked,
  authorizationRequest,
  createClient,
  createUser,
  exchange,
  loginCode,
  type OAuthPlane,
  refresh,
  startOAuthPlane,
  submit,
} from './oauth-kit.ts';

let offsetMs = 0;
const clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
const seconds = (): number => Math.floor(systemClock.now() / 1000);
let plane: OAuthPlane;
let idp: FakeIdentityProvider;
let client: string;
let serverId: string;

const demand = (rules: readonly object[]) =>
  asked(
    plane,
    'mutation ($rules: [StepUpRuleInput!]) { updateAuthorizationServer(input: { stepUp: $rules }) { stepUp { serverId acrValues maxAgeSeconds } } }',
    {
      rules,
    },
  );

beforeAll(async () => {
  const port = await freePort();
  idp = await startFakeIdentityProvider(`http://127.0.0.1:${port}/oauth/callback`);
  const environment = { SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${idp.port},127.0.0.1/32:9` };
  plane = await startOAuthPlane({ port, environment, clock });
  client = (await createClient(plane)).id;
  await createProvider(plane, idp, 'Example');
  const query = 'mutation { createServer(input: { slug: "github", url: "http://127.0.0.1:9/mcp" }) { id } }';
  serverId = (await asked(plane, query)).createServer.id;
});
afterAll(async () => {
  await plane.stop();
  await idp.stop();
});
beforeEach(async () => {
  offsetMs = 0;
  idp.claims = { name: 'Ada', acr: 'pwd' };
  await demand([]);
});

/** Logs in by the provider, and allows. */
async function tokens(browser: Browser) {
  const { request, link } = await linkTo(plane, client, browser, 'Example');
  const shown = await follow(browser, link);
  const location = shown.location ?? (await submit(browser, shown, { decision: 'allow' })).location;
  const { body } = await exchange(plane, client, request, location ?? new URL('about:blank'));
  return { location, body };
}

test('an endpoint that demands a context gets tokens of such a login alone, whether the client asks for it or not', async () => {
  const browser = new Browser();
  const { body } = await tokens(browser);
  expect(decodeJwt(body.access_token)).toMatchObject({ acr: 'pwd' });
  await demand([{ serverId, acrValues: ['mfa'] }]);
  // What the weaker login got is not refreshed, and its browser session is not enough.
  expect((await refresh(plane, client, body.refresh_token)).body.error).toBe('invalid_grant');
  const weak = await tokens(browser);
  expect(idp.lastRequest.get('acr_values')).toBe('mfa');
  expect(weak.location?.searchParams.get('error')).toBe('unmet_authentication_requirements');
  idp.claims = { name: 'Ada', acr: 'mfa' };
  const strong = await tokens(browser);
  expect(decodeJwt(strong.body.access_token)['acr']).toBe('mfa');
  expect((await refresh(plane, client, strong.body.refresh_token)).status).toBe(200);
  // A login code is of no context.
  const by = new Browser();
  const page = await by.follow(authorizationRequest(plane, client).url);
  const { location } = await submit(by, page, { code: await loginCode(plane, await createUser(plane, 'Bob')) });
  expect(location?.searchParams.get('error')).toBe('unmet_authentication_requirements');
});

test('an endpoint that demands a fresh login has users log in anew, there too, and refreshes no older one', async () => {
  const browser = new Browser();
  idp.claims = { name: 'Ada', auth_time: seconds() };
  const { body } = await tokens(browser);
  await demand([{ serverId, maxAgeSeconds: 300 }]);
  expect((await refresh(plane, client, body.refresh_token)).status).toBe(200);
  offsetMs = 301_000;
  expect((await refresh(plane, client, body.refresh_token)).body.error).toBe('invalid_grant');
  expect((await browser.follow(authorizationRequest(plane, client).url)).text).toContain('name="code"');
  idp.claims = { name: 'Ada', auth_time: seconds() - 3_600 };
  const { link } = await linkTo(plane, client, browser, 'Example');
  expect((await follow(browser, link)).status).toBe(400);
  expect(Object.fromEntries(idp.lastRequest)).toMatchObject({ prompt: 'login', max_age: '0' });
});

test('a login at a provider that had a session of its own is as old as that session, and one of unknown age is too old', async () => {
  const told = seconds() - 3_600;
  let browser = new Browser();
  for (const claims of [{ auth_time: told }, {}]) {
    browser = new Browser();
    await demand([]);
    idp.claims = { name: 'Ada', ...claims };
    const { body } = await tokens(browser);
    expect(decodeJwt(body.access_token)['auth_time']).toBe(claims.auth_time === told ? told : undefined);
    await demand([{ serverId, maxAgeSeconds: 300 }]);
    expect((await refresh(plane, client, body.refresh_token)).body.error).toBe('invalid_grant');
    // The browser has just been here, and is sent to the provider all the same.
    expect((await browser.follow(authorizationRequest(plane, client).url)).text).toContain('name="code"');
  }
  // What was asked for anew must be newer than the question, not newer than the longest time a question may take.
  idp.claims = { name: 'Ada', auth_time: seconds() - 120 };
  const { link } = await linkTo(plane, client, browser, 'Example');
  expect((await follow(browser, link)).status).toBe(400);
  idp.claims = { name: 'Ada', auth_time: seconds() };
  expect((await tokens(browser)).body.access_token).toBeTruthy();
});

test('a client may ask for a context and an age by itself', async () => {
  const browser = new Browser();
  await tokens(browser);
  const allowed = await browser.follow(authorizationRequest(plane, client, { acr_values: 'pwd mfa' }).url);
  expect(allowed.location?.searchParams.get('code')).toBeTruthy();
  const stronger = await browser.follow(authorizationRequest(plane, client, { acr_values: 'mfa' }).url);
  expect(stronger.text).toContain('name="code"');
  offsetMs = 61_000;
  const fresher = await browser.follow(authorizationRequest(plane, client, { max_age: '60' }).url);
  expect(fresher.text).toContain('name="code"');
});

test.each([
  ['a server that is none', { serverId: crypto.randomUUID(), maxAgeSeconds: 60 }, 'input.stepUp[0].serverId'],
  ['no demand', {}, 'input.stepUp[0]'],
  ['a context with a quote', { acrValues: ['a"b'] }, 'input.stepUp[0].acrValues'],
  ['an age below a minute', { maxAgeSeconds: 1 }, 'input.stepUp[0].maxAgeSeconds'],
])('%s is refused, with the field', async (_what, rule, path) => {
  const query =
    'mutation ($rules: [StepUpRuleInput!]) { updateAuthorizationServer(input: { stepUp: $rules }) { issuer } }';
  const answer = await plane.ask(query, { rules: [{ serverId, ...rule }] });
  expect(answer.errors[0]?.extensions.violations?.[0]?.path).toBe(path);
});

test('two rules for one server are refused, in capitals too', async () => {
  const query =
    'mutation ($rules: [StepUpRuleInput!]) { updateAuthorizationServer(input: { stepUp: $rules }) { issuer } }';
  const rules = [serverId, serverId.toUpperCase()].map((id) => ({ serverId: id, maxAgeSeconds: 60 }));
  const answer = await plane.ask(query, { rules });
  expect(answer.errors[0]?.extensions.violations).toEqual([
    { path: 'input.stepUp[1].serverId', message: 'is given twice' },
  ]);
});
