import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type ListingUpstream, startListingUpstream } from '../kit/listing-upstream.ts';
import { Browser } from '../oauth/browser.ts';
import { asked, authorizationRequest, type OAuthPlane, startOAuthPlane } from '../oauth/oauth-kit.ts';

/** Listens where nobody may dial; what connects is a failure. */
const trap = createServer((_request, response) => response.end());
let trapPort = 0;
let trapped = 0;
let upstream: ListingUpstream;
let plane: OAuthPlane;

beforeAll(async () => {
  trap.on('connection', () => (trapped += 1));
  await new Promise<void>((resolve) => trap.listen(0, '127.0.0.1', resolve));
  trapPort = (trap.address() as AddressInfo).port;
  upstream = await startListingUpstream();
  const allowed = `127.0.0.1/32:${new URL(upstream.url).port}`;
  plane = await startOAuthPlane({ environment: { SALLYPORT_EGRESS_ALLOW: allowed } });
});
afterAll(async () => {
  await plane.stop();
  await upstream.stop();
  await new Promise((resolve) => trap.close(resolve));
});

test('the document that a client names is fetched from nowhere inside', async () => {
  await asked(plane, 'mutation { updateAuthorizationServer(input: { clientDomains: ["*"] }) { revision } }');
  for (const host of [
    `127.0.0.1:${trapPort}`,
    `localhost:${trapPort}`,
    `2130706433:${trapPort}`,
    `[::1]:${trapPort}`,
    `[::ffff:127.0.0.1]:${trapPort}`,
    `[64:ff9b::7f00:1]:${trapPort}`,
    `user:password@127.0.0.1:${trapPort}`,
    '10.0.0.1',
    '169.254.169.254',
    '[fd00:ec2::254]',
    '[fe80::1]',
  ]) {
    const { url } = authorizationRequest(plane, `https://${host}/client.json`);
    const { status, location, text: body } = await new Browser().request(url);
    expect([host, status, location]).toEqual([host, 400, null]);
    expect(body).not.toMatch(/ECONNREFUSED|private|loopback|link-local|denied/);
  }
  expect(trapped).toBe(0);
});

test('what definitions name, schemas and icons, is fetched by nobody', async () => {
  const named = `http://127.0.0.1:${trapPort}`;
  upstream.lists = {
    tools: [
      {
        name: 'pay',
        icons: [{ src: `${named}/icon.png`, mimeType: 'image/png' }],
        inputSchema: { type: 'object', $schema: `${named}/meta`, properties: { to: { $ref: `${named}/schema.json` } } },
        outputSchema: { type: 'object', $ref: `${named}/output.json` },
      },
    ],
    prompts: [],
    resources: [{ uri: `${named}/resource`, name: 'elsewhere', icons: [{ src: `${named}/icon.png` }] }],
    resourceTemplates: [],
  };
  const create = 'mutation ($url: String!) { createServer(input: { slug: "named", url: $url }) { id } }';
  const { id } = (await asked(plane, create, { url: upstream.url })).createServer;
  const query = 'query ($id: ID!) { server(id: $id) { discoveredAt definitions { edges { node { name } } } } }';
  const found = await waitFor('the server is discovered', async () => {
    const { server } = await asked(plane, query, { id });
    return server.discoveredAt === null ? undefined : server.definitions.edges;
  });
  expect(found.map(({ node }: { node: { name: string } }) => node.name)).toContain('pay');
  expect(trapped).toBe(0);
});
