/** Every kind of caller of a node, made through the public API, with what the grants of a server come to for it. */
import postgres from 'postgres';
import { z } from 'zod';
import { TokenIssuer } from '../kit/access-tokens.ts';
import type { Harness } from '../kit/harness.ts';

/**
 * What a caller gets of a server: `unauthenticated` before anything is looked at, `hidden` as if the server did not
 * exist, `granted` what its grants open.
 */
export type Standing = 'unauthenticated' | 'hidden' | 'granted';

export interface Caller {
  readonly name: string;
  /** An API key or an access token; undefined: no credential at all. */
  readonly key: string | undefined;
  /** What it has for an endpoint that does not exist, where that is something else: tokens are for one endpoint. */
  readonly keyForNowhere?: string;
  readonly standing: Standing;
}

/** Makes the planes believe where a request says it comes from: many that fail from one address would be put off. */
export const behindProxy = { SALLYPORT_TRUSTED_PROXIES: '127.0.0.1,::1' } as const;

let addresses = 0;
/** The header of a request from where none came before. */
export function fromElsewhere(): { readonly 'x-forwarded-for': string } {
  addresses += 1;
  return { 'x-forwarded-for': `198.18.${(addresses >> 8) % 256}.${addresses % 256}` };
}

const identified = z.object({ id: z.string() });
const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

/** A program that acts as an account, at the authorization server of the harness. */
export interface TestProgram {
  readonly id: string;
  readonly secret: string;
}

export function makeProgram({ administrator }: Harness, serviceAccountId: string): Promise<TestProgram> {
  const input = { name: 'program', authentication: 'SECRET', serviceAccountId };
  const answer = z
    .object({ client: identified, secret: z.string() })
    .transform(({ client, secret }) => ({ id: client.id, secret }));
  return administrator.mutate('createOAuthClient', input, 'client { id } secret', answer);
}

/** What the token endpoint answers a program that asks for a token for a server. */
export async function askToken(harness: Harness, { id, secret }: TestProgram, slug: string): Promise<Response> {
  const issuer = new URL(harness.controlPlane.graphqlUrl ?? '').origin;
  const resource = `${harness.entryOrigin}/mcp/${slug}`;
  return fetch(`${issuer}/oauth/token`, {
    method: 'POST',
    headers: { ...fromElsewhere(), authorization: `Basic ${btoa(`${id}:${secret}`)}` },
    body: new URLSearchParams({ grant_type: 'client_credentials', resource, scope: 'mcp' }),
  });
}

async function tokenOf(harness: Harness, program: TestProgram, slug: string): Promise<string> {
  const response = await askToken(harness, program, slug);
  return z.object({ access_token: z.string() }).parse(await response.json()).access_token;
}

/**
 * Tokens that open nothing, though most are by a key that nodes are told to believe; and one that is good, which shows that
 * they are.
 */
async function bentTokens(harness: Harness, principalId: string): Promise<readonly Caller[]> {
  const issuer = new URL(harness.controlPlane.graphqlUrl ?? '').origin;
  const signer = new TokenIssuer('key-of-the-matrix', { issuer, nodesUrl: harness.entryOrigin });
  const [key] = signer.document().keys;
  const sql = postgres(harness.databaseUrl);
  await sql`insert into oauth_signing_keys (id, x, y, sealed_private_key, use, created_at)
    values (${signer.kid}, ${key?.x ?? ''}, ${key?.y ?? ''}, '', 'verify', now())`;
  await sql.end();
  const hourAgo = Math.floor(Date.now() / 1000) - 3_600;
  const foreign = new TokenIssuer(signer.kid, { issuer, nodesUrl: harness.entryOrigin });
  const elsewhere = { header: { jku: 'https://evil.example/keys' } };
  const unsigned = { header: { alg: 'none' }, signature: () => Buffer.alloc(0) };
  const refused = {
    'that has expired': signer.token('asked', principalId, { claims: { iat: hourAgo - 600, exp: hourAgo } }),
    'that is an ID-JAG': signer.token('asked', principalId, { header: { typ: 'oauth-id-jag+jwt' } }),
    'with alg none': signer.token('asked', principalId, unsigned),
    'with the public key as secret': signer.confusedToken('asked', principalId),
    'that names a foreign jku': foreign.token('asked', principalId, elsewhere),
    'for a list of endpoints': signer.token('asked', principalId, {
      claims: { aud: [`${harness.entryOrigin}/mcp/asked`] },
    }),
  };
  return [
    { name: 'access token, signed by the test', key: signer.token('asked', principalId), standing: 'granted' },
    ...Object.entries(refused).map(([what, key]) => {
      return { name: `access token ${what}`, key, standing: 'unauthenticated' } as const;
    }),
  ];
}

export interface Servers {
  /** The one that is asked for. */
  readonly serverId: string;
  /** Another one, on which somebody else has a grant. */
  readonly otherServerId: string;
  /** What the grants open on either. */
  readonly selectors: { readonly tools: string[]; readonly prompts: string[]; readonly resources: string[] };
}

/** Callers with access tokens; the accounts are one with a grant, one with a grant elsewhere, and one to void. */
async function tokenCallers(
  harness: Harness,
  accounts: { readonly granted: string; readonly other: string; readonly voided: string },
): Promise<readonly Caller[]> {
  const program = await makeProgram(harness, accounts.granted);
  const token = await tokenOf(harness, program, 'asked');
  const elsewhere = await tokenOf(harness, program, 'other');
  const stranger = await makeProgram(harness, accounts.other);
  const [ungranted, forNowhere] = [
    await tokenOf(harness, stranger, 'asked'),
    await tokenOf(harness, stranger, 'nowhere'),
  ];
  const revoked = await tokenOf(harness, await makeProgram(harness, accounts.voided), 'asked');
  for (const status of ['DISABLED', 'ACTIVE']) {
    await harness.administrator.mutate('updateServiceAccount', { id: accounts.voided, status }, 'id', identified);
  }
  return [
    ...(await bentTokens(harness, accounts.granted)),
    { name: 'access token', key: token, standing: 'granted' },
    { name: 'access token for another server', key: elsewhere, standing: 'unauthenticated' },
    { name: 'access token that was revoked', key: revoked, standing: 'unauthenticated' },
    { name: 'access token without a grant', key: ungranted, keyForNowhere: forNowhere, standing: 'hidden' },
  ];
}

/** Makes the callers of `asked`, beside `other`; the configuration has converged when they are returned. */
export async function makeCallers(harness: Harness, servers: Servers): Promise<readonly Caller[]> {
  const { administrator } = harness;
  const account = (name: string): Promise<{ id: string }> =>
    administrator.mutate('createServiceAccount', { name, expiresAt: inDays(2) }, 'id', identified);
  const keyOf = async (principalId: string, more: object = {}): Promise<string> => {
    const input = { principalId, name: 'key', scopes: ['MCP'], expiresAt: inDays(1), ...more };
    return (await administrator.mutate('createApiKey', input, 'secret', z.object({ secret: z.string() }))).secret;
  };
  const grant = async (principalId: string, serverId: string, more: object = {}): Promise<void> => {
    const subject = { kind: 'SERVICE_ACCOUNT', id: principalId };
    const input = { name: 'matrix', subject, effect: 'ALLOW', serverId, ...servers.selectors, ...more };
    await administrator.mutate('createGrant', input, 'id', identified);
  };
  const withRole = async (role: string): Promise<string> => {
    const { id } = await account(role);
    const document = 'mutation ($input: RoleInput!) { assignRole(input: $input) { id } }';
    await administrator.api.ask(document, { input: { principalId: id, role } }, z.unknown());
    return keyOf(id);
  };
  const [granted, expired, deactivated, other, voided] = await Promise.all(
    ['granted', 'expired grant', 'deactivated', 'other principal', 'voided'].map(account),
  );
  if (!granted || !expired || !deactivated || !other || !voided) throw new Error('an account was not made');
  await grant(granted.id, servers.serverId);
  await grant(deactivated.id, servers.serverId);
  await grant(other.id, servers.otherServerId);
  await grant(voided.id, servers.serverId);
  await grant(expired.id, servers.serverId, { notBefore: inDays(-2), notAfter: inDays(-1) });
  const deactivatedKey = await keyOf(deactivated.id);
  const disable = { id: deactivated.id, status: 'DISABLED' };
  await administrator.mutate('updateServiceAccount', disable, 'id', identified);
  const callers: Caller[] = [
    ...(await tokenCallers(harness, { granted: granted.id, other: other.id, voided: voided.id })),
    { name: 'anonymous', key: undefined, standing: 'unauthenticated' },
    { name: 'unknown key', key: `sp_${'x'.repeat(43)}`, standing: 'unauthenticated' },
    { name: 'key without the scope', key: await keyOf(granted.id, { scopes: ['API'] }), standing: 'unauthenticated' },
    {
      name: 'key from elsewhere',
      key: await keyOf(granted.id, { networks: ['203.0.113.0/24'] }),
      standing: 'unauthenticated',
    },
    { name: 'deactivated', key: deactivatedKey, standing: 'unauthenticated' },
    { name: 'no grant', key: await keyOf((await account('no grant')).id), standing: 'hidden' },
    { name: 'expired grant', key: await keyOf(expired.id), standing: 'hidden' },
    { name: 'other principal', key: await keyOf(other.id), standing: 'hidden' },
    { name: 'viewer', key: await withRole('VIEWER'), standing: 'hidden' },
    { name: 'auditor', key: await withRole('AUDITOR'), standing: 'hidden' },
    { name: 'admin', key: await withRole('ADMIN'), standing: 'hidden' },
    {
      name: 'key for another server',
      key: await keyOf(granted.id, { serverIds: [servers.otherServerId] }),
      standing: 'hidden',
    },
    { name: 'granted', key: await keyOf(granted.id), standing: 'granted' },
  ];
  await administrator.converged();
  return callers;
}
