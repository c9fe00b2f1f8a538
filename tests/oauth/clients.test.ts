import { forgetUnusedClients, openDatabase } from '@sallyport/control-plane/fleet';
import { systemClock } from '@sallyport/schema/platform';
import { decodeJwt, exportJWK, generateKeyPair, SignJWT } from 'jose';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Browser } from './browser.ts';
import {
  asked,
  authorizationRequest,
  authorize,
  createClient,
  createUser,
  exchange,
  type OAuthPlane,
  redirectUri,
  resource,
  startOAuthPlane,
  type TestClient,
  tokenRequest,
  tokensFor,
} from './oauth-kit.ts';

let plane: OAuthPlane;
let sql: postgres.Sql;
let account: string;

const seconds = (): number => Math.floor(systemClock.now() / 1000);

beforeAll(async () => {
  plane = await startOAuthPlane();
  sql = postgres(plane.databaseUrl, { max: 1 });
  const expiresAt = new Date(systemClock.now() + 86_400_000).toISOString();
  const query = `mutation ($at: DateTimeISO!) {
    createServiceAccount(input: { name: "ci", expiresAt: $at }) { id }
  }`;
  account = (await asked(plane, query, { at: expiresAt })).createServiceAccount.id;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const setting = (input: string) =>
  asked(plane, `mutation { updateAuthorizationServer(input: { ${input} }) { dynamicRegistration clientDomains } }`);

/** Settings reach a process within a second. */
async function until<T>(probe: () => Promise<T>, isRight: (value: T) => boolean): Promise<T> {
  const deadline = systemClock.now() + 10_000;
  for (;;) {
    const value = await probe();
    if (isRight(value) || systemClock.now() > deadline) return value;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

describe('a service account', () => {
  test('gets tokens by its client’s secret, for the one endpoint it names', async () => {
    const client = await createClient(plane, { authentication: 'SECRET', redirectUris: [], serviceAccountId: account });
    const grant = { grant_type: 'client_credentials', resource, scope: 'mcp:tools' };
    const { status, body } = await tokenRequest(plane, grant, client);
    expect({ status, body }).toMatchObject({ status: 200, body: { scope: 'mcp:tools', expires_in: 600 } });
    const claims = decodeJwt(body.access_token);
    expect(claims).toMatchObject({ sub: account, client_id: client.id, aud: resource, epoch: 0 });
    expect((await tokenRequest(plane, { ...grant, resource: undefined }, client)).body.error).toBe('invalid_target');
    expect((await tokenRequest(plane, grant, { ...client, secret: 'sps_wrong' })).body.error).toBe('invalid_client');
    expect((await sql`select secret_hash from oauth_clients where id = ${client.id}`)[0]?.['secret_hash']).toMatch(
      /^[0-9a-f]{64}$/,
    );
  });

  test('gets tokens by private_key_jwt, each assertion once', async () => {
    const { publicKey, privateKey } = await generateKeyPair('ES256');
    const jwks = JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: 'k', alg: 'ES256', use: 'sig' }] });
    const keyed = { authentication: 'PRIVATE_KEY_JWT', redirectUris: [], serviceAccountId: account, jwks };
    const client = await createClient(plane, keyed);
    const assertion = (claims: Record<string, unknown> = {}) =>
      new SignJWT({
        iss: client.id,
        sub: client.id,
        aud: plane.issuer,
        jti: `${systemClock.monotonic()}`,
        iat: seconds(),
        exp: seconds() + 60,
        ...claims,
      })
        .setProtectedHeader({ alg: 'ES256', kid: 'k' })
        .sign(privateKey);
    const grant = async (text: string) =>
      tokenRequest(plane, {
        grant_type: 'client_credentials',
        resource,
        client_id: client.id,
        client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
        client_assertion: text,
      });
    const once = await assertion();
    expect((await grant(once)).status).toBe(200);
    expect((await grant(once)).status).not.toBe(200);
    expect((await grant(await assertion({ aud: 'https://other.example' }))).status).not.toBe(200);
    expect((await grant(await assertion({ sub: 'other' }))).status).not.toBe(200);
  });

  test('gets none when it is disabled, its secret was replaced or its client deleted, and nodes are told', async () => {
    const client = await createClient(plane, { authentication: 'SECRET', redirectUris: [], serviceAccountId: account });
    const grant = (by: TestClient) => tokenRequest(plane, { grant_type: 'client_credentials', resource }, by);
    const first = decodeJwt((await grant(client)).body.access_token);
    const rotate = 'mutation ($id: ID!) { rotateOAuthClientSecret(input: { id: $id }) { secret } }';
    const { secret } = (await asked(plane, rotate, { id: client.id })).rotateOAuthClientSecret;
    expect((await grant(client)).body.error).toBe('invalid_client');
    const second = await grant({ ...client, secret });
    expect(decodeJwt(second.body.access_token)['family']).not.toBe(first['family']);
    expect(await sql`select 1 from oauth_revoked_families where family = ${String(first['family'])}`).toHaveLength(1);
    const set = (status: string) =>
      asked(plane, `mutation ($id: ID!) { updateServiceAccount(input: { id: $id, status: ${status} }) { id } }`, {
        id: account,
      });
    await set('DISABLED');
    expect((await grant({ ...client, secret })).status).toBe(400);
    await set('ACTIVE');
    await asked(plane, 'mutation ($id: ID!) { deleteOAuthClient(input: { id: $id }) { id } }', { id: client.id });
    expect((await grant({ ...client, secret })).body.error).toBe('invalid_client');
  });

  test('a client with redirect addresses alone cannot act by itself', async () => {
    const client = await createClient(plane, { authentication: 'SECRET' });
    expect((await tokenRequest(plane, { grant_type: 'client_credentials', resource }, client)).status).toBe(400);
  });

  test('a private key is not taken for a public one', async () => {
    const { privateKey } = await generateKeyPair('ES256', { extractable: true });
    const jwks = JSON.stringify({ keys: [await exportJWK(privateKey)] });
    const keyed = { authentication: 'PRIVATE_KEY_JWT', redirectUris: [], serviceAccountId: account, jwks };
    await expect(createClient(plane, keyed)).rejects.toThrow('holds a private key');
  });
});

describe('registration by clients themselves', () => {
  const register = async (metadata: Record<string, unknown>) => {
    const response = await fetch(`${plane.issuer}/oauth/register`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(metadata),
    });
    const text = await response.text();
    return { status: response.status, body: text.startsWith('{') ? JSON.parse(text) : {} };
  };
  const metadata = {
    client_name: 'Inspector',
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
    scope: 'mcp:tools',
  };

  test('is off until an administrator turns it on; then the client can log a user in', async () => {
    expect((await register(metadata)).status).toBe(404);
    await setting('dynamicRegistration: true');
    const { status, body } = await until(
      () => register(metadata),
      (answer) => answer.status !== 404,
    );
    expect({ status, body }).toMatchObject({ status: 201, body: { client_name: 'Inspector' } });
    const tokens = await tokensFor(plane, body.client_id, await createUser(plane, 'Ada'));
    expect(tokens.claims).toMatchObject({ client_id: body.client_id });
    const server = await fetch(`${plane.issuer}/.well-known/oauth-authorization-server`);
    expect(await server.json()).toMatchObject({ registration_endpoint: `${plane.issuer}/oauth/register` });
  });

  test.each([
    ['plain http to another machine', ['http://attacker.example/callback']],
    ['a script', ['javascript:alert(1)']],
    ['nowhere', []],
  ])('does not take a client that answers to %s', async (_name, redirectUris) => {
    const answer = await register({ ...metadata, redirect_uris: redirectUris, application_type: 'native' });
    expect(answer.status).toBe(400);
  });

  test('takes no client with keys, which would be one that anybody can pass for', async () => {
    const { publicKey } = await generateKeyPair('ES256');
    const jwks = { keys: [await exportJWK(publicKey)] };
    const { status, body } = await register({ ...metadata, token_endpoint_auth_method: 'private_key_jwt', jwks });
    expect({ status, error: body.error }).toEqual({ status: 400, error: 'invalid_client_metadata' });
  });

  test('to name a client is not to use it', async () => {
    const { body } = await register(metadata);
    await new Browser().follow(authorizationRequest(plane, body.client_id).url);
    const used = async () => (await sql`select last_used_at from oauth_clients where id = ${body.client_id}`)[0];
    expect((await used())?.['last_used_at']).toBeNull();
    await tokensFor(plane, body.client_id, await createUser(plane, 'Eve'));
    expect((await used())?.['last_used_at']).toBeInstanceOf(Date);
  });

  test('gives no client that acts by itself, whatever it asks for', async () => {
    const asking = {
      ...metadata,
      grant_types: ['authorization_code', 'client_credentials'],
      token_endpoint_auth_method: 'client_secret_basic',
    };
    const { body } = await register(asking);
    const client = { id: body.client_id, secret: body.client_secret };
    expect((await tokenRequest(plane, { grant_type: 'client_credentials', resource }, client)).status).toBe(400);
  });

  test('keeps an unused client for a day', async () => {
    const { body } = await register(metadata);
    await sql`update oauth_clients set last_used_at = null, created_at = now() - interval '25 hours' where id = ${body.client_id}`;
    const database = openDatabase({ url: plane.databaseUrl, connectionsMax: 1 });
    await forgetUnusedClients(database.db, systemClock.now());
    await database.close();
    expect(await sql`select 1 from oauth_clients where id = ${body.client_id}`).toHaveLength(0);
  });
});

describe('a client named by the URL of its metadata document', () => {
  test.each([
    ['https://127.0.0.1/client.json'],
    ['https://[::1]/client.json'],
    ['https://169.254.169.254/latest/meta-data/iam'],
    ['https://10.0.0.1/client.json'],
    ['https://localhost/client.json'],
    ['http://client.example.com/client.json'],
  ])('at %s is refused, and nothing is fetched there [P61]', async (clientId) => {
    const answer = await new Browser().request(authorizationRequest(plane, clientId).url);
    expect({ status: answer.status, location: answer.location }).toEqual({ status: 400, location: null });
  });

  test('outside the allowed domains is refused', async () => {
    await setting('clientDomains: ["claude.ai"]');
    const answer = await new Browser().request(authorizationRequest(plane, 'https://client.example.com/c.json').url);
    expect(answer.status).toBe(400);
    await setting('clientDomains: ["*"]');
    const wrong = await plane.ask(
      'mutation { updateAuthorizationServer(input: { clientDomains: ["https://x"] }) { issuer } }',
    );
    expect(wrong.errors[0]?.extensions.violations?.[0]?.path).toBe('input.clientDomains[0]');
  });
});

test('of two administrators who change its settings at once, the second is told that they are no longer what he saw', async () => {
  const revisionNow = async () =>
    (await asked(plane, '{ authorizationServer { revision } }')).authorizationServer.revision;
  const seen = await revisionNow();
  const over = (revision: number, more = '') =>
    plane.ask(
      `mutation { updateAuthorizationServer(input: { clientDomains: ["*"], expectedRevision: ${revision} ${more} }) { revision } }`,
    );
  const dry = await over(seen, 'dryRun: true');
  expect([dry.data.updateAuthorizationServer.revision, await revisionNow()]).toEqual([seen + 1, seen]);
  const both = await Promise.all([over(seen), over(seen)]);
  const codes = both.map(({ errors }) => errors[0]?.extensions.code ?? 'done').sort();
  expect([codes, await revisionNow()]).toEqual([['CONFLICT', 'done'], seen + 1]);
});

test('a user’s own consents and sessions are the user’s to end', async () => {
  const client = (await createClient(plane)).id;
  const [ada, bob] = [await createUser(plane, 'Ada'), await createUser(plane, 'Bob')];
  const request = authorizationRequest(plane, client);
  await exchange(plane, client, request, await authorize(plane, new Browser(), request, ada));
  const keyOf = async (userId: string) => {
    const at = new Date(systemClock.now() + 3_600_000).toISOString();
    const query = `mutation ($id: ID!, $at: DateTimeISO!) {
      createApiKey(input: { principalId: $id, name: "own", scopes: [API], expiresAt: $at }) { secret }
    }`;
    return (await asked(plane, query, { id: userId, at })).createApiKey.secret;
  };
  const list = 'query ($id: ID) { oauthConsents(principalId: $id) { edges { node { id clientId } } } }';
  const own = await plane.ask(list, { id: ada }, await keyOf(ada));
  const [consent] = own.data.oauthConsents.edges;
  const revoke = 'mutation ($id: ID!) { revokeOAuthConsent(input: { id: $id }) { id } }';
  const bobs = await keyOf(bob);
  expect((await plane.ask(list, { id: ada }, bobs)).errors[0]?.extensions.code).toBe('FORBIDDEN');
  expect((await plane.ask(list, { id: null }, bobs)).errors[0]?.extensions.code).toBe('FORBIDDEN');
  // Of a consent of another he is not even told that there is one.
  const hidden = await plane.ask(revoke, { id: consent.node.id }, bobs);
  expect(hidden.errors[0]?.extensions.code).toBe('NOT_FOUND');
  expect(hidden).toEqual(await plane.ask(revoke, { id: '01890000-0000-7000-8000-0000000000ff' }, bobs));
  const end = 'mutation ($id: ID!) { endSessions(input: { principalId: $id }) { authorizations } }';
  expect((await plane.ask(end, { id: ada }, bobs)).errors[0]?.extensions.code).toBe('FORBIDDEN');
  expect((await plane.ask(revoke, { id: consent.node.id }, await keyOf(ada))).errors).toEqual([]);
});
