import {
  type ApiKeyScope,
  apiKeyScopes,
  isPermission,
  parseCidr,
  type Permission,
  permissions,
  type PrincipalRecord,
  readPermissions,
} from '@sallyport/schema';
import { checkSelector, type LabelInput } from '../access/grant-form.ts';
import { isUuid } from '../database/mutation.ts';
import type { Violations } from '../database/violations.ts';
import type { ApiKeyRow } from './identity.tables.ts';

/** Most servers one key names. */
export const keyServersMax = 200;
/** Most networks one key may be used from. */
export const keyNetworksMax = 50;

/** What a key opens less than its holder may do. Absent: no limit of that kind. */
export interface KeyLimitsInput {
  readonly scopes: readonly ApiKeyScope[];
  readonly permissions?: readonly string[] | null | undefined;
  readonly serverIds?: readonly string[] | null | undefined;
  readonly serverLabels?: readonly LabelInput[] | null | undefined;
  readonly networks?: readonly string[] | null | undefined;
}

export type KeyLimits = Pick<ApiKeyRow, 'scopes' | 'permissions' | 'serverIds' | 'serverLabels' | 'networks'>;

/** The limits as they are stored; everything that is wrong with them is added to `found`. */
export function keyLimitsOf(found: Violations, input: KeyLimitsInput): KeyLimits {
  const scopes = apiKeyScopes.filter((scope) => input.scopes.includes(scope));
  if (scopes.length === 0) found.add('input.scopes', `must name at least one of ${apiKeyScopes.join(', ')}`);
  if (scopes.includes('api') && scopes.includes('apiRead')) {
    found.add('input.scopes', 'API includes API_READ: give one of them');
  }
  return {
    scopes,
    permissions: permissionsOf(found, input.permissions ?? null, scopes),
    ...serversOf(found, input, scopes),
    networks: networksOf(found, input.networks ?? null),
  };
}

/** The limits that nodes see to, as they are published. */
export function publishedLimits(
  row: Pick<ApiKeyRow, 'serverIds' | 'serverLabels' | 'networks'>,
): Pick<PrincipalRecord['keys'][number], 'servers' | 'networks'> {
  const { serverIds, serverLabels, networks } = row;
  return {
    ...(serverIds === null ? {} : { servers: { ids: serverIds.toSorted() } }),
    ...(serverLabels === null ? {} : { servers: { labels: serverLabels } }),
    ...(networks === null ? {} : { networks: networks.toSorted() }),
  };
}

function permissionsOf(
  found: Violations,
  given: readonly string[] | null,
  scopes: readonly ApiKeyScope[],
): Permission[] | null {
  if (given === null) return null;
  const path = 'input.permissions';
  const isApi = scopes.includes('api');
  if (!isApi && !scopes.includes('apiRead')) found.add(path, 'are for keys with the scope API or API_READ');
  if (given.length === 0) found.add(path, 'must name at least one permission; leave it out for all');
  if (given.length > permissions.length) found.add(path, 'names more permissions than there are');
  for (const [index, permission] of given.slice(0, permissions.length).entries()) {
    if (!isPermission(permission)) found.add(`${path}[${index}]`, 'is no permission; the role owner lists them all');
    else if (!isApi && !readPermissions.includes(permission)) {
      found.add(`${path}[${index}]`, 'changes something: the scope API_READ only looks');
    }
  }
  return permissions.filter((permission) => given.includes(permission));
}

function serversOf(
  found: Violations,
  { serverIds, serverLabels }: KeyLimitsInput,
  scopes: readonly ApiKeyScope[],
): Pick<KeyLimits, 'serverIds' | 'serverLabels'> {
  const ids = serverIds ?? null;
  const path = ids === null ? 'input.serverLabels' : 'input.serverIds';
  if ((ids !== null || (serverLabels ?? null) !== null) && scopes.some((scope) => scope !== 'mcp')) {
    found.add(path, 'limits what a key opens through nodes: make a key of its own for the API');
  }
  if (ids !== null && (serverLabels ?? null) !== null) {
    found.add('input.serverLabels', 'must be absent where serverIds are given');
  }
  if (ids?.length === 0) found.add('input.serverIds', 'must name at least one server; leave it out for all');
  if ((ids?.length ?? 0) > keyServersMax) found.add('input.serverIds', `must name at most ${keyServersMax} servers`);
  const known = new Set<string>();
  for (const [index, id] of (ids ?? []).slice(0, keyServersMax).entries()) {
    if (isUuid(id)) known.add(id.toLowerCase());
    else found.add(`input.serverIds[${index}]`, 'there is no such server');
  }
  return {
    serverIds: ids === null ? null : [...known].sort(),
    serverLabels: checkSelector(found, 'input.serverLabels', serverLabels ?? null),
  };
}

function networksOf(found: Violations, given: readonly string[] | null): string[] | null {
  if (given === null) return null;
  const path = 'input.networks';
  if (given.length === 0) found.add(path, 'must name at least one network; leave it out for anywhere');
  if (given.length > keyNetworksMax) found.add(path, `must name at most ${keyNetworksMax} networks`);
  for (const [index, text] of given.slice(0, keyNetworksMax).entries()) {
    if (parseCidr(text) === undefined)
      found.add(`${path}[${index}]`, 'must be a CIDR, such as 10.0.0.0/8 or 10.1.2.3/32');
  }
  return [...new Set(given)].sort();
}
