import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDirectory } from '../identity/scim-kit.ts';
import { Browser } from './browser.ts';
import {
  asked,
  authorizationRequest,
  createClient,
  type OAuthPlane,
  resource,
  startOAuthPlane,
  submit,
} from './oauth-kit.ts';

let plane: OAuthPlane;
let attempts = 0;

/** What a proxy says of who asks; each test is of its own network. */
const from = (network: number) => ({ 'x-forwarded-for': `203.0.${network}.7` });

beforeAll(async () => {
  plane = await startOAuthPlane({
    environment: {
      SALLYPORT_TRUSTED_PROXIES: '127.0.0.1',
      SALLYPORT_NETWORK_REQUESTS_PER_SECOND: '2',
      SALLYPORT_HOLDER_REQUESTS_PER_SECOND: '1',
    },
  });
});
afterAll(() => plane.stop());

/** Asks until it is refused; how often it was let in before, and the refusal. */
async function untilRefused(ask: () => Promise<Response>) {
  for (attempts = 0; attempts < 1_000; attempts++) {
    const response = await ask();
    if (response.status === 429) return { letIn: attempts, response };
    await response.text();
  }
  throw new Error('it is never refused');
}

test('a network that asks too much is told to wait, as JSON or as a page, and others go on', async () => {
  const jwks = (network: number, headers: Record<string, string> = {}) =>
    fetch(`${plane.issuer}/oauth/jwks`, { headers: { ...from(network), ...headers } });
  const { letIn, response } = await untilRefused(() => jwks(1));
  expect(letIn).toBeGreaterThanOrEqual(120);
  expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  expect(await response.json()).toMatchObject({ error: 'temporarily_unavailable' });
  const page = (await untilRefused(() => jwks(1, { accept: 'text/html' }))).response;
  expect(page.headers.get('content-security-policy')).toContain("frame-ancestors 'none'");
  expect((await jwks(2)).status).toBe(200);
});

test('registrations of one network are few', async () => {
  await asked(plane, 'mutation { updateAuthorizationServer(input: { dynamicRegistration: true }) { issuer } }');
  const register = () =>
    fetch(`${plane.issuer}/oauth/register?x`, {
      method: 'POST',
      headers: { ...from(3), 'content-type': 'application/json' },
      body: '{}',
    });
  const { letIn, response } = await untilRefused(register);
  expect(letIn).toBeLessThanOrEqual(21);
  expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(5);
});

test('tokens of one client for one account are limited once it has proved who it is; others cannot use it up', async () => {
  const at = new Date(systemClock.now() + 86_400_000).toISOString();
  const create = 'mutation ($at: DateTimeISO!) { createServiceAccount(input: { name: "ci", expiresAt: $at }) { id } }';
  const serviceAccountId = (await asked(plane, create, { at })).createServiceAccount.id;
  const client = await createClient(plane, { authentication: 'SECRET', redirectUris: [], serviceAccountId });
  let network = 10;
  const ask = (secret: string | null) => () =>
    fetch(`${plane.issuer}/oauth/token`, {
      method: 'POST',
      // From everywhere: it is the client that is limited.
      headers: { ...from(network++ % 200), authorization: `Basic ${btoa(`${client.id}:${secret}`)}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', resource, scope: 'mcp:tools' }),
    });
  for (let guess = 0; guess < 70; guess++) expect((await ask('guessed')()).status).toBe(401);
  const { letIn, response } = await untilRefused(ask(client.secret));
  expect(letIn).toBeGreaterThanOrEqual(60);
  expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
  expect(await response.json()).toMatchObject({ error: 'temporarily_unavailable' });
});

test('a directory is limited by itself, and one network tries few SCIM tokens that open nothing', async () => {
  const { secret } = await createDirectory(plane, 'limited');
  let network = 10;
  const ask = (token: string, address = from(network++ % 200)) =>
    fetch(`${plane.issuer}/scim/v2/Users?count=0`, { headers: { ...address, authorization: `Bearer ${token}` } });
  const { letIn, response } = await untilRefused(() => ask(secret));
  expect(letIn).toBeGreaterThanOrEqual(60);
  expect(await response.json()).toMatchObject({ status: '429', schemas: [expect.stringContaining('Error')] });
  expect(response.headers.get('retry-after')).not.toBeNull();
  // Fewer than of requests that open.
  expect((await untilRefused(() => ask('spscim_guessed', from(201)))).letIn).toBeLessThan(110);
});

test('login codes that open nothing are limited by network', async () => {
  const client = (await createClient(plane)).id;
  const browser = new Browser();
  const page = await browser.follow(authorizationRequest(plane, client).url);
  const refused = await untilRefused(async () => {
    const { status } = await submit(browser, page, { code: 'spl_guessed' });
    return new Response(null, { status });
  });
  expect(refused.letIn).toBeLessThan(110);
});
