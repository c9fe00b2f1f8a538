import { AuthorizationServers } from '@sallyport/control-plane/credentials';
import { createEgress, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import { createServer, type Server } from 'node:http';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

/** Listens where nobody may dial; what connects is a failure. */
let trap: Server;
let trapPort = 0;
let trapped = 0;
const as = new FakeAuthorizationServer();
const client = { clientId: 'gateway', secret: 'x', authentication: 'clientSecretPost' } as const;

beforeAll(async () => {
  await as.start();
  trap = createServer((_request, response) => response.end());
  trap.on('connection', () => (trapped += 1));
  await new Promise<void>((resolve) => trap.listen(0, '127.0.0.1', resolve));
  const address = trap.address();
  trapPort = typeof address === 'object' && address !== null ? address.port : 0;
});
afterAll(async () => {
  await new Promise((resolve) => trap.close(resolve));
  await as.stop();
});
beforeEach(() => {
  trapped = 0;
  as.metadata = {};
});

/** Where an upstream, or its authorization server, would have us go. */
const hostile: Readonly<Record<string, () => string>> = {
  loopback: () => `http://127.0.0.1:${trapPort}`,
  'loopback by name': () => `http://localhost:${trapPort}`,
  'loopback as a number': () => `http://2130706433:${trapPort}`,
  'loopback in IPv6': () => `http://[::ffff:127.0.0.1]:${trapPort}`,
  'a private address': () => 'http://10.0.0.1',
  'a link-local address': () => 'http://169.254.10.10',
  'the metadata service': () => 'http://169.254.169.254',
  'the metadata service in IPv6': () => 'http://[fd00:ec2::254]',
  'a name that rebinds': () => `http://rebinding.example:${trapPort}`,
  'mixed answers': () => `http://mixed.example:${trapPort}`,
  'a password': () => `http://user:password@127.0.0.1:${trapPort}`,
  'another scheme': () => 'file:///etc/passwd',
};

function servers() {
  const port = new URL(as.url).port;
  const resolve = (name: string): Promise<readonly string[]> =>
    Promise.resolve(name === 'mixed.example' ? ['93.184.216.34', '127.0.0.1'] : ['127.0.0.1']);
  const egress = createEgress({
    allow: parseEgressAllowList(`127.0.0.1/32:${port}`).allow,
    resolve,
    connectTimeoutMs: 500,
  });
  return { egress, known: new AuthorizationServers(egress, systemClock) };
}

/** Each place that dials an address which somebody else named. */
const contexts: Readonly<Record<string, (known: AuthorizationServers, url: string) => Promise<unknown>>> = {
  'the server': (known, url) => known.protectedResource(`${url}/mcp`),
  'the issuer': (known, url) => known.metadata(url),
  'the token endpoint': async (known, url) => {
    as.metadata = { token_endpoint: `${url}/token` };
    const outcome = await known.clientCredentials(as.url, client, { resource: 'https://mcp.example', scopes: [] });
    if (outcome.kind === 'tokens') throw new Error('tokens came');
    throw new Error(outcome.kind);
  },
  'the registration endpoint': (known, url) => {
    as.metadata = { registration_endpoint: `${url}/register` };
    return known.register(as.url, 'https://gateway.example/callback');
  },
  'the revocation endpoint': (known, url) => {
    as.metadata = { revocation_endpoint: `${url}/revoke` };
    return known.revoke(as.url, client, 'token');
  },
};

describe.each(Object.entries(contexts))('by %s', (_context, dial) => {
  test.each(Object.entries(hostile))('nothing reaches %s', async (_name, urlOf) => {
    const { egress, known } = servers();
    const outcome = await dial(known, urlOf()).then(
      () => 'it went through',
      (error: unknown) => (error instanceof Error ? error.name : 'refused'),
    );
    await egress.close();
    expect(outcome).not.toBe('it went through');
    expect(trapped).toBe(0);
  });
});
