import type { LabelSelector, Permission } from '@sallyport/schema';
import { canonicalJson, selectorMatches, serverPermissions } from '@sallyport/schema';

/** What the roles of somebody give, himself or through his groups. */
export interface Rights {
  /** Held on everything. */
  readonly permissions: ReadonlySet<Permission>;
  /** Held on servers that carry some labels, beside the above. */
  readonly limited: readonly LimitedRights[];
  /** Groups he belongs to: their servers are his own. */
  readonly groupIds: ReadonlySet<string>;
}

export interface LimitedRights {
  readonly selector: LabelSelector;
  readonly permissions: ReadonlySet<Permission>;
}

/** What of a server decides who may do something with it. */
export interface ServerFacts {
  readonly labels: Readonly<Record<string, string>>;
  readonly ownerGroupId: string | null;
}

export const noRights: Rights = { permissions: new Set(), limited: [], groupIds: new Set() };

/** Whether a set gives a permission by itself: to write all includes to write one's own. */
function gives(held: ReadonlySet<Permission>, permission: Permission): boolean {
  return held.has(permission) || (permission === 'server:writeOwn' && held.has('server:write'));
}

/** Where a role is limited to some servers, these are the own ones. */
function givesLimited(held: ReadonlySet<Permission>, permission: Permission): boolean {
  return gives(held, permission) || (permission === 'server:write' && held.has('server:writeOwn'));
}

/**
 * The one answer to what somebody may do in the control plane. Without a server the permission must hold everywhere;
 * with one, it may come from a role limited to servers like it, or from its owner group.
 */
export function isPermitted(rights: Rights, permission: Permission, server?: ServerFacts): boolean {
  if (gives(rights.permissions, permission)) return true;
  if (server === undefined || !serverPermissions.includes(permission)) return false;
  const isOwn = server.ownerGroupId !== null && rights.groupIds.has(server.ownerGroupId);
  if (isOwn && permission === 'server:write' && rights.permissions.has('server:writeOwn')) return true;
  return rights.limited.some(
    ({ selector, permissions }) => givesLimited(permissions, permission) && selectorMatches(selector, server.labels),
  );
}

/** Whether there may be anything at all on which the permission holds: what is looked at before an object is known. */
export function isPermittedSomewhere(rights: Rights, permission: Permission): boolean {
  if (gives(rights.permissions, permission)) return true;
  if (permission === 'server:write' && rights.permissions.has('server:writeOwn')) return true;
  return rights.limited.some(({ permissions }) => givesLimited(permissions, permission));
}

/** The servers on which a permission holds, for lists: all, or those that `isPermitted` says yes to. */
export type ServerScope =
  | 'all'
  | { readonly selectors: readonly LabelSelector[]; readonly ownerGroupIds: readonly string[] };

export function serverScope(rights: Rights, permission: Permission): ServerScope {
  if (gives(rights.permissions, permission)) return 'all';
  const limited = rights.limited.filter(({ permissions }) => givesLimited(permissions, permission));
  const own = permission === 'server:write' && rights.permissions.has('server:writeOwn');
  return { selectors: limited.map(({ selector }) => selector), ownerGroupIds: own ? [...rights.groupIds] : [] };
}

/** What is left of rights where only some permissions may be used. */
export function restrictRights(rights: Rights, allowed: ReadonlySet<Permission>): Rights {
  const left = (held: ReadonlySet<Permission>): ReadonlySet<Permission> =>
    new Set([...allowed].filter((permission) => gives(held, permission)));
  return {
    permissions: left(rights.permissions),
    limited: rights.limited
      .map(({ selector, permissions }) => ({ selector, permissions: left(permissions) }))
      .filter(({ permissions }) => permissions.size > 0),
    groupIds: rights.groupIds,
  };
}

/** Whether every server that `inner` selects is selected by `outer` too. */
function selectsWithin(inner: LabelSelector, outer: LabelSelector): boolean {
  return Object.entries(outer).every(([key, value]) => Object.hasOwn(inner, key) && inner[key] === value);
}

/** The first permission of `theirs` that `mine` lack somewhere where `theirs` have it; undefined where there is none. */
export function missingRight(mine: Rights, theirs: Rights): Permission | undefined {
  for (const permission of theirs.permissions) {
    const isSharedOwn =
      permission === 'server:writeOwn' && [...theirs.groupIds].every((groupId) => mine.groupIds.has(groupId));
    const needed = permission === 'server:writeOwn' && !isSharedOwn ? 'server:write' : permission;
    if (!gives(mine.permissions, needed)) return permission;
  }
  for (const { selector, permissions } of theirs.limited) {
    for (const permission of permissions) {
      const needed = permission === 'server:writeOwn' ? 'server:write' : permission;
      const isCovered =
        gives(mine.permissions, needed) ||
        mine.limited.some((own) => givesLimited(own.permissions, needed) && selectsWithin(selector, own.selector));
      if (!isCovered) return permission;
    }
  }
  return undefined;
}

export function sameRights(a: Rights, b: Rights): boolean {
  return fingerprintOf(a) === fingerprintOf(b);
}

function fingerprintOf({ permissions, limited, groupIds }: Rights): string {
  const parts = limited.map((one) => `${canonicalJson(one.selector)}:${[...one.permissions].sort().join()}`);
  return JSON.stringify([[...permissions].sort(), parts.sort(), [...groupIds].sort()]);
}
