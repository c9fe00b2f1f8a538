import { createServer, type Server } from 'node:http';
import {
  AuthorizationServers,
  createKeyProvider,
  CredentialVault,
  openDatabase,
  UpstreamClients,
  UpstreamKeys,
} from '@sallyport/control-plane/credentials';
import { createEgress, parseEgressAllowList, systemClock as clock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { startOAuthPlane, type OAuthPlane } from '../oauth/oauth-kit.ts';
import { keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const publicUrl = 'https://gateway.example';
const redirectUri = `${publicUrl}/oauth/connect/callback`;
const file = keyFile();
const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow });
const as = new FakeAuthorizationServer();
const serverUrl = 'https://mcp.example/mcp';
let plane: OAuthPlane;
let database: ReturnType<typeof openDatabase>;
let keys: UpstreamKeys;
/** Servers by the way they are to be known. */
let registered: string;
let unregistered: string;

beforeAll(async () => {
  await as.start();
  plane = await startOAuthPlane({ environment: { SALLYPORT_CREDENTIAL_KEY_FILE: file } });
  database = openDatabase({ url: plane.databaseUrl, connectionsMax: 3 });
  keys = new UpstreamKeys({ database, vault: vaultOf(), clock });
  registered = await serverWith('registered', { issuer: as.url, clientId: 'by-hand', secret: 'a secret' });
  unregistered = await serverWith('unregistered', {});
}, 60_000);
beforeEach(async () => {
  as.metadata = {};
  as.requests.length = 0;
  await database.raw`delete from upstream_clients`;
});
afterAll(async () => {
  await database.close();
  await plane.stop();
  await as.stop();
  await egress.close();
});

const vaultOf = () => new CredentialVault(createKeyProvider({ file }, clock));

async function serverWith(slug: string, userOAuth: object): Promise<string> {
  const create = 'mutation ($input: CreateServerInput!) { createServer(input: $input) { id } }';
  const { data } = await plane.ask(create, { input: { slug, url: serverUrl } });
  const set = 'mutation ($input: SetServerCredentialInput!) { setServerCredential(input: $input) { mode } }';
  const { errors } = await plane.ask(set, { input: { serverId: data.createServer.id, userOAuth } });
  expect(errors).toEqual([]);
  return data.createServer.id;
}

/** As a process that has read no metadata yet. */
function clientsOf(issuer = publicUrl): UpstreamClients {
  const servers = new AuthorizationServers(egress, clock);
  return new UpstreamClients({ database, vault: vaultOf(), servers, keys, issuer, clock });
}

function clientFor(id: string, issuer = as.url) {
  return clientsOf().clientFor({ id, url: serverUrl }, issuer, redirectUri);
}

test('what an administrator registered comes first, then a document that is taken, then registering oneself', async () => {
  as.metadata = { client_id_metadata_document_supported: true };
  expect((await clientFor(registered)).clientId).toBe('by-hand');
  expect((await clientFor(unregistered)).clientId).toBe(`${publicUrl}/oauth/upstream-client`);
  expect(as.asked('/register')).toBe(0);
  as.metadata = {};
  expect((await clientFor(unregistered)).clientId).toMatch(/^dcr_/);
  expect(as.asked('/register')).toBe(1);
});

test('a client is known to one issuer: another one is told neither its id nor its secret, and registers anew', async () => {
  const other = await new FakeAuthorizationServer().start();
  await expect(clientFor(registered, other.url)).rejects.toMatchObject({ code: 'CREDENTIAL_MISSING' });
  const [first, second] = [await clientFor(unregistered), await clientFor(unregistered, other.url)];
  expect(first.clientId).not.toBe(second.clientId);
  expect([as.asked('/register'), other.asked('/register')]).toEqual([1, 1]);
  expect((await clientFor(unregistered)).clientId).toBe(first.clientId);
  expect(as.asked('/register')).toBe(1);
  await other.stop();
});

test('under another public URL the gateway registers anew, and renews and revokes by the client that it was', async () => {
  as.metadata = { token_endpoint_auth_methods_supported: ['client_secret_basic'] };
  const first = await clientFor(unregistered);
  const moved = 'https://moved.example';
  const elsewhere = () =>
    clientsOf(moved).clientFor({ id: unregistered, url: serverUrl }, as.url, `${moved}/oauth/connect/callback`);
  const second = await elsewhere();
  expect(second.clientId).not.toBe(first.clientId);
  expect([await elsewhere(), await clientFor(unregistered), as.asked('/register')]).toEqual([second, first, 2]);
  const use = { serverId: unregistered, issuer: as.url, clientId: first.clientId };
  expect(await clientsOf(moved).clientOf(use)).toEqual(first);
});

test('the document that signs is named where the authorization server takes signatures, and there alone', async () => {
  for (const [methods, id, authentication] of [
    [['none', 'private_key_jwt'], `${publicUrl}/oauth/upstream-client/signed`, 'privateKeyJwt'],
    [['none'], `${publicUrl}/oauth/upstream-client`, 'none'],
  ] as const) {
    as.metadata = { client_id_metadata_document_supported: true, token_endpoint_auth_methods_supported: methods };
    expect(await clientFor(unregistered)).toMatchObject({ clientId: id, authentication });
  }
});

test('a client that registers itself proves itself as the authorization server takes it, and as it answered', async () => {
  for (const [methods, authentication] of [
    [['client_secret_post'], 'clientSecretPost'],
    [['client_secret_basic'], 'clientSecretBasic'],
    [['client_secret_basic', 'none'], 'none'],
  ] as const) {
    await database.raw`delete from upstream_clients`;
    as.metadata = { token_endpoint_auth_methods_supported: methods };
    expect((await clientFor(unregistered)).authentication).toBe(authentication);
  }
});

test('each document says that it is the one at its very address, and where its keys are', async () => {
  const document = z.looseObject({ client_id: z.string(), redirect_uris: z.array(z.string()) });
  for (const path of ['/oauth/upstream-client', '/oauth/upstream-client/signed']) {
    const response = await fetch(`${plane.issuer}${path}`);
    const said = document.parse(await response.json());
    expect(said.client_id).toBe(`${plane.issuer}${path}`);
    expect(said.redirect_uris).toEqual([`${plane.issuer}/oauth/connect/callback`]);
    expect(said).not.toHaveProperty('client_secret');
    const isSigned = path.endsWith('/signed');
    expect(said['token_endpoint_auth_method']).toBe(isSigned ? 'private_key_jwt' : 'none');
    expect(said['jwks_uri']).toBe(isSigned ? `${plane.issuer}/oauth/upstream/jwks` : undefined);
  }
});

/** A server without any metadata, and what was asked of it. */
async function silent(): Promise<{ readonly url: string; readonly paths: string[]; readonly server: Server }> {
  const paths: string[] = [];
  const server = createServer((request, response) => {
    if (request.method === 'GET') paths.push(request.url ?? '');
    response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`,
    paths,
    server,
  };
}

test('metadata is looked for in the order of the specification, and nowhere else', async () => {
  const { url, paths, server } = await silent();
  const servers = new AuthorizationServers(egress, clock);
  await expect(servers.protectedResource(`${url}/team/mcp`)).rejects.toMatchObject({ code: 'UPSTREAM_PROTOCOL' });
  expect(paths.splice(0)).toEqual([
    '/.well-known/oauth-protected-resource/team/mcp',
    '/.well-known/oauth-protected-resource',
  ]);
  await expect(servers.metadata(`${url}/tenant`)).rejects.toMatchObject({ code: 'UPSTREAM_PROTOCOL' });
  expect(paths.splice(0)).toEqual([
    '/.well-known/oauth-authorization-server/tenant',
    '/.well-known/openid-configuration/tenant',
    '/tenant/.well-known/openid-configuration',
  ]);
  await expect(servers.metadata(url)).rejects.toMatchObject({ code: 'UPSTREAM_PROTOCOL' });
  expect(paths).toEqual(['/.well-known/oauth-authorization-server', '/.well-known/openid-configuration']);
  server.close();
});

test('tokens are asked for in clear at the word of no server that is behind TLS', async () => {
  const said = { resource: '', authorization_servers: ['http://login.example'] };
  const issuerOf = async (url: string): Promise<string> => {
    const answer = (asked: string | URL): Response =>
      String(asked).includes('well-known')
        ? Response.json({ ...said, resource: url })
        : new Response(null, { status: 404 });
    const servers = new AuthorizationServers({ fetch: (asked) => Promise.resolve(answer(asked)) }, clock);
    return (await servers.protectedResource(url)).issuer;
  };
  await expect(issuerOf('https://mcp.example/mcp')).rejects.toMatchObject({ code: 'UPSTREAM_PROTOCOL' });
  expect(await issuerOf('http://mcp.example/mcp')).toBe('http://login.example');
});

test('calls go on while the user is away where that is offered, and it is not asked for where it is not', async () => {
  const client = { clientId: 'x', secret: null, authentication: 'none' } as const;
  const request = { redirectUri, scopes: ['tools'], resource: serverUrl, state: 's', verifier: 'v', hosts: [] };
  for (const [scopes, wanted] of [
    [['tools', 'offline_access'], 'tools offline_access'],
    [['tools'], 'tools'],
  ] as const) {
    as.metadata = { scopes_supported: scopes };
    const url = await new AuthorizationServers(egress, clock).authorizationUrl(as.url, client, request);
    expect(url.searchParams.get('scope')).toBe(wanted);
    expect(url.searchParams.get('resource')).toBe(serverUrl);
    expect(url.searchParams.get('code_challenge_method')).toBe('S256');
  }
});
