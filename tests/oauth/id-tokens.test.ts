import { freePort } from '@sallyport/cli';
import { decodeJwt, generateKeyPair, SignJWT } from 'jose';
import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Browser } from './browser.ts';
import { type FakeIdentityProvider, idpClient, startFakeIdentityProvider } from './fake-identity-provider.ts';
import { createProvider, follow, linkTo } from './federation-kit.ts';
import { asked, createClient, type OAuthPlane, startOAuthPlane } from './oauth-kit.ts';

let plane: OAuthPlane;
let idp: FakeIdentityProvider;
let sql: postgres.Sql;
let client: string;

beforeAll(async () => {
  const port = await freePort();
  idp = await startFakeIdentityProvider(`http://127.0.0.1:${port}/oauth/callback`);
  plane = await startOAuthPlane({ port, environment: { SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${idp.port}` } });
  sql = postgres(plane.databaseUrl, { max: 1 });
  client = (await createClient(plane)).id;
  const groupId = (await asked(plane, 'mutation { createGroup(input: { name: "engineers" }) { id } }')).createGroup.id;
  await createProvider(plane, idp, 'Example', { groupsClaim: 'roles', groupRules: [{ value: 'Engineer', groupId }] });
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
  await idp.stop();
});
beforeEach(() => {
  idp.claims = { name: 'Ada' };
  idp.onTheWay = (token) => token;
});

async function logIn() {
  const browser = new Browser();
  return follow(browser, (await linkTo(plane, client, browser, 'Example')).link);
}

const base64url = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
/** The claims of a token, of another user. */
const changed = (token: string): string => base64url({ ...decodeJwt(token), sub: 'mallory' });

async function signedByAnother(token: string, header: object, secret?: string): Promise<string> {
  const alg = secret === undefined ? 'RS256' : 'HS256';
  const key = secret === undefined ? (await generateKeyPair(alg)).privateKey : Buffer.from(secret);
  return new SignJWT({ ...decodeJwt(token), sub: 'mallory' }).setProtectedHeader({ alg, ...header }).sign(key);
}

test.each<readonly [string, (token: string) => string | Promise<string>]>([
  ['whose claims were changed', (token) => token.replace(/\.[^.]+\./, `.${changed(token)}.`)],
  ['without a signature', (token) => `${base64url({ alg: 'none' })}.${changed(token)}.`],
  ['of another key under the same id', (token) => signedByAnother(token, { kid: 'idp-1' })],
  ['that brings its key along', (token) => signedByAnother(token, { kid: 'own', jku: `${idp.issuer}/jwks` })],
  ['with the client secret as key', (token) => signedByAnother(token, {}, idpClient.secret)],
])('an ID token %s lets nobody in', async (_name, onTheWay) => {
  idp.onTheWay = onTheWay;
  expect((await logIn()).status).toBe(400);
  expect(await sql`select 1 from principals where subject in ('ada', 'mallory')`).toHaveLength(0);
});

test('application roles are all in the token, though groups are not', async () => {
  idp.subject = 'with roles';
  idp.claims = { name: 'Grace', hasgroups: true, roles: ['Engineer'] };
  expect((await logIn()).text).toContain('<strong>Grace</strong>');
  const rows = await sql`select g.name from group_members m join groups g on g.id = m.group_id
    join principals p on p.id = m.principal_id where p.subject = 'with roles'`;
  expect(rows.map(({ name }) => String(name))).toEqual(['engineers']);
});
