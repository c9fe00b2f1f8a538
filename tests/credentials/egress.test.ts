import { AuthorizationServers } from '@sallyport/control-plane/credentials';
import { type IdentityProviderRow, OidcConnections } from '@sallyport/control-plane/idp';
import { AppError } from '@sallyport/schema';
import {
  createEgress,
  type Egress,
  parseEgressAllowList,
  systemClock,
  WebhookSender,
} from '@sallyport/schema/platform';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

/** Listens where nobody may dial; what connects is a failure. */
const trap = createServer((_request, response) => response.end());
let trapPort = 0;
let trapped = 0;
/** May be dialled, and answers as a test says. */
let answer: RequestListener = (_request, response) => response.end();
let reached = 0;
const rim = createServer((request, response) => answer(request, response));
let rimUrl = '';
const as = new FakeAuthorizationServer();
/** An identity provider, whose metadata says this instead of the truth. */
let providerSays: Readonly<Record<string, string>> = {};
let providerUrl = '';
const provider = createServer(({ url }, response) => {
  const endpoints = { authorization_endpoint: '/authorize', token_endpoint: '/token', jwks_uri: '/jwks' };
  const truth = Object.entries(endpoints).map(([name, path]) => [name, `${providerUrl}${path}`] as const);
  const documents: Readonly<Record<string, object>> = {
    '/.well-known/openid-configuration': { issuer: providerUrl, ...Object.fromEntries(truth), ...providerSays },
    '/token': { access_token: 'token', token_type: 'Bearer', expires_in: 60 },
  };
  const document = documents[url ?? ''];
  response.writeHead(document === undefined ? 404 : 200, { 'content-type': 'application/json' });
  response.end(JSON.stringify(document));
});
const client = { clientId: 'gateway', secret: 'x', authentication: 'clientSecretPost' } as const;

async function listening(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

beforeAll(async () => {
  await as.start();
  trap.on('connection', () => (trapped += 1));
  rim.on('connection', () => (reached += 1));
  trapPort = await listening(trap);
  providerUrl = `http://127.0.0.1:${await listening(provider)}`;
  rimUrl = `http://127.0.0.1:${await listening(rim)}`;
});
afterAll(async () => {
  rim.closeAllConnections();
  for (const server of [trap, rim, provider]) await new Promise((resolve) => server.close(resolve));
  await as.stop();
});
beforeEach(() => {
  [trapped, reached] = [0, 0];
  as.metadata = {};
  providerSays = {};
});

/** Where an upstream, or its authorization server, would have us go. */
const hostile: Readonly<Record<string, () => string>> = {
  loopback: () => `http://127.0.0.1:${trapPort}`,
  'loopback by name': () => `http://localhost:${trapPort}`,
  'loopback as a number': () => `http://2130706433:${trapPort}`,
  'loopback in IPv6': () => `http://[::1]:${trapPort}`,
  'loopback mapped into IPv6': () => `http://[::ffff:127.0.0.1]:${trapPort}`,
  'loopback mapped and compressed': () => `http://[::ffff:7f00:1]:${trapPort}`,
  'loopback in NAT64': () => `http://[64:ff9b::7f00:1]:${trapPort}`,
  'loopback in 6to4': () => `http://[2002:7f00:1::1]:${trapPort}`,
  'IPv6 with a zone': () => `http://[fe80::1%25lo]:${trapPort}`,
  'the unspecified address': () => `http://0.0.0.0:${trapPort}`,
  'a private address': () => 'http://10.0.0.1',
  'a private address in IPv6': () => 'http://[fd12:3456::1]',
  'a link-local address': () => 'http://169.254.10.10',
  'a link-local address in IPv6': () => 'http://[fe80::1]',
  'the metadata service': () => 'http://169.254.169.254',
  'the metadata service in IPv6': () => 'http://[fd00:ec2::254]',
  'the metadata service in NAT64': () => 'http://[64:ff9b::a9fe:a9fe]',
  'a name that leads inside': () => `http://inside.example:${trapPort}`,
  'a name that rebinds': () => `http://rebinding.example:${trapPort}`,
  'mixed answers': () => `http://mixed.example:${trapPort}`,
  'a password': () => `http://user:password@127.0.0.1:${trapPort}`,
  'another scheme': () => 'file:///etc/passwd',
};

interface Parties {
  readonly egress: Egress;
  readonly known: AuthorizationServers;
  readonly idp: OidcConnections;
}

function parties(): Parties {
  let lookups = 0;
  const resolve = (name: string): Promise<readonly string[]> => {
    if (name === 'mixed.example') return Promise.resolve(['93.184.216.34', '127.0.0.1']);
    // Outside when it is looked at, inside when it is dialled: whoever looked twice would be had.
    if (name === 'rebinding.example') return Promise.resolve(lookups++ === 0 ? ['127.0.0.2'] : ['127.0.0.1']);
    return Promise.resolve(['127.0.0.1']);
  };
  const ports = [as.url, rimUrl, providerUrl].map((url) => `127.0.0.1/32:${new URL(url).port}`);
  const { allow } = parseEgressAllowList([...ports, `127.0.0.2/32:${trapPort}`].join());
  const timeouts = { connectTimeoutMs: 500, headersTimeoutMs: 500, bodyTimeoutMs: 500 };
  const egress = createEgress({ allow, resolve, ...timeouts });
  const idp = new OidcConnections({ egress, clock: systemClock, secretOf: () => 'x' });
  return { egress, idp, known: new AuthorizationServers(egress, systemClock) };
}

/** A provider of identities of which one endpoint may be elsewhere. */
function providerOf(issuer: string, more: Partial<IdentityProviderRow> = {}): IdentityProviderRow {
  const row = { id: 'corp', issuer, clientId: 'gateway', scopes: ['openid'], revision: 1, groupsUrl: null, ...more };
  return { groupsUrlScope: null, acrValues: [], ...row } as unknown as IdentityProviderRow;
}

const tokenRequest = { resource: 'https://mcp.example', scopes: [] };
const idToken = `${Buffer.from('{"alg":"RS256","kid":"one"}').toString('base64url')}.e30.AAAA`;

/** Each place that dials an address which somebody else named. Resolves where what answered there was taken. */
const contexts: Readonly<Record<string, (parties: Parties, url: string) => Promise<unknown>>> = {
  'a server that is asked who issues tokens for it': ({ known }, url) => known.protectedResource(`${url}/mcp`),
  'a server, on the sockets of a node': async ({ egress }, url) => {
    const socket = await egress.dialler(new URL(`${url}/mcp`))();
    socket.destroy();
    throw new Error('a socket alone says nothing');
  },
  'a server, by the libraries of a node': async ({ egress }, url) => {
    const { statusCode, body } = await egress.pool(new URL(url)).request({ path: '/mcp', method: 'POST', body: '{}' });
    await body.dump();
    if (statusCode !== 200) throw new Error('not answered');
  },
  'the resource metadata that a server names': ({ known }, url) => {
    const named = `Bearer resource_metadata="${url}/metadata"`;
    const given = answer;
    answer = (request, response) => {
      if (request.url !== '/challenged') return given(request, response);
      response.writeHead(401, { 'www-authenticate': named }).end();
    };
    return known.protectedResource(`${rimUrl}/challenged`).finally(() => (answer = given));
  },
  'the issuer that resource metadata names': ({ known }, url) => known.metadata(url),
  'a token endpoint': async ({ known }, url) => {
    as.metadata = { token_endpoint: `${url}/token` };
    const outcome = await known.clientCredentials(as.url, client, tokenRequest);
    if (outcome.kind !== 'tokens') throw new Error(outcome.kind);
  },
  'a registration endpoint': ({ known }, url) => {
    as.metadata = { registration_endpoint: `${url}/register` };
    return known.register(as.url, 'https://gateway.example/callback');
  },
  'a revocation endpoint': async ({ known }, url) => {
    as.metadata = { revocation_endpoint: `${url}/revoke` };
    if (!(await known.revoke(as.url, client, 'token'))) throw new Error('not revoked');
  },
  'the metadata of an identity provider': ({ idp }, url) => idp.keys(providerOf(url)),
  'the keys of an identity provider': async ({ idp }, url) => {
    providerSays = { jwks_uri: `${url}/jwks` };
    const keys = await idp.keys(providerOf(providerUrl));
    const [header = '', payload = '', signature = ''] = idToken.split('.');
    return keys({ alg: 'RS256', kid: 'one' }, { protected: header, payload, signature });
  },
  'the token endpoint of an identity provider': ({ idp }, url) => {
    providerSays = { token_endpoint: `${url}/token` };
    return idp.groups(providerOf(providerUrl, { groupsUrl: `${providerUrl}/groups` }), 'ada');
  },
  'the groups of an identity provider': ({ idp }, url) =>
    idp.groups(providerOf(providerUrl, { groupsUrl: `${url}/groups` }), 'ada'),
  'a webhook': async ({ egress }, url) => {
    const sender = new WebhookSender({
      egress,
      now: () => systemClock.now(),
      monotonic: () => systemClock.monotonic(),
    });
    const key = { id: 'one', secret: Buffer.alloc(32, 1).toString('base64'), notAfter: null };
    const target = {
      id: 'w',
      version: 1,
      url: `${url}/hook`,
      algorithm: 'hmac' as const,
      signingKeys: [key],
      deadlineMs: 900,
    };
    const { failure } = await sender.deliver(target, { id: 'msg_1', body: Buffer.from('{}') });
    if (failure !== null) throw new Error(failure);
  },
};

/** What comes of dialling: undefined where an answer was taken. */
async function refusalOf(dial: (parties: Parties, url: string) => Promise<unknown>, url: string): Promise<unknown> {
  const own = parties();
  const outcome = await dial(own, url).then(
    () => undefined,
    (error: unknown) => error,
  );
  await own.egress.close();
  return outcome;
}

/** What a user would read of it. */
function publicTextOf(error: unknown): string {
  return error instanceof AppError ? error.publicMessage : '';
}

/** Whose bodies nobody reads. */
const takesStatusAlone: ReadonlySet<string> = new Set([
  'a server, by the libraries of a node',
  'a revocation endpoint',
  'a webhook',
]);

describe.each(Object.entries(contexts))('by %s', (context, dial) => {
  test.each(Object.entries(hostile))('nothing reaches %s', async (_name, urlOf) => {
    const url = urlOf();
    const error = await refusalOf(dial, url);
    expect(error).toBeInstanceOf(Error);
    expect(trapped).toBe(0);
    const { hostname, port } = URL.parse(url) ?? { hostname: url, port: '' };
    for (const part of [hostname, port].filter((text) => text.length > 2))
      expect(publicTextOf(error)).not.toContain(part);
  });

  test('a redirect is followed by nobody', async () => {
    answer = (_request, response) => {
      response.writeHead(307, { location: `http://127.0.0.1:${trapPort}/` }).end();
    };
    expect(await refusalOf(dial, rimUrl)).toBeInstanceOf(Error);
    // It is the given address that was dialled, or the refusals above would say nothing.
    expect(reached).toBeGreaterThan(0);
    expect(trapped).toBe(0);
  });

  test('an answer without an end is given up', async () => {
    let sent = 0;
    const part = Buffer.alloc(64 * 1024, ' ');
    answer = (_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      const more = (): void => {
        while (!response.destroyed && response.write(part)) sent += part.length;
        sent += part.length;
      };
      response.on('drain', more);
      more();
    };
    const error = await refusalOf(dial, rimUrl);
    expect(error instanceof Error || takesStatusAlone.has(context)).toBe(true);
    expect(sent).toBeLessThan(32 * 1024 * 1024);
  });

  test('whoever says nothing is not waited for', async () => {
    answer = () => undefined;
    expect(await refusalOf(dial, rimUrl)).toBeInstanceOf(Error);
  });
});
