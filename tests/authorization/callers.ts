/** Every kind of caller of a node, made through the public API, with what the grants of a server come to for it. */
import { z } from 'zod';
import type { Harness } from '../kit/harness.ts';

/**
 * What a caller gets of a server: `unauthenticated` before anything is looked at, `hidden` as if the server did not
 * exist, `granted` what its grants open.
 */
export type Standing = 'unauthenticated' | 'hidden' | 'granted';

export interface Caller {
  readonly name: string;
  /** Undefined: no credential at all. */
  readonly key: string | undefined;
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

export interface Servers {
  /** The one that is asked for. */
  readonly serverId: string;
  /** Another one, on which somebody else has a grant. */
  readonly otherServerId: string;
  /** What the grants open on either. */
  readonly selectors: { readonly tools: string[]; readonly prompts: string[]; readonly resources: string[] };
}

/** Makes the callers; the configuration has converged when they are returned. */
export async function makeCallers({ administrator }: Harness, servers: Servers): Promise<readonly Caller[]> {
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
  const [granted, expired, deactivated, other] = await Promise.all(
    ['granted', 'expired grant', 'deactivated', 'other principal'].map(account),
  );
  if (!granted || !expired || !deactivated || !other) throw new Error('an account was not made');
  await grant(granted.id, servers.serverId);
  await grant(deactivated.id, servers.serverId);
  await grant(other.id, servers.otherServerId);
  await grant(expired.id, servers.serverId, { notBefore: inDays(-2), notAfter: inDays(-1) });
  const deactivatedKey = await keyOf(deactivated.id);
  const disable = { id: deactivated.id, status: 'DISABLED' };
  await administrator.mutate('updateServiceAccount', disable, 'id', identified);
  const callers: Caller[] = [
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
