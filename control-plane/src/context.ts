import { AppError, type Permission } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import {
  isPermitted,
  isPermittedSomewhere,
  noRights,
  type Rights,
  type ServerFacts,
  type ServerScope,
  serverScope,
} from './access/rights.ts';

/** Who acts in the control plane. `system` is the program itself: reconcilers, the discovery job. */
export interface Actor extends Rights {
  readonly principalId: string;
  readonly name: string;
  readonly kind: 'user' | 'serviceAccount' | 'system';
  /** The API key used; null for the system. */
  readonly keyId: string | null;
}

/** What every service method gets first. An unauthenticated request has no Context at all. */
export interface Context {
  readonly actor: Actor;
  /**
   * Throws unless the actor's roles give the permission: everywhere, or on the server that is given. FORBIDDEN, and
   * NOT_FOUND for a server that the actor may not see.
   */
  authorize(permission: Permission, server?: ServerFacts): void;
  /** The servers on which the actor has the permission, for lists. Throws FORBIDDEN where there can be none. */
  serverScope(permission: Permission): ServerScope;
  readonly clock: Clock;
  readonly log: Log;
}

export function createContext(actor: Actor, deps: { readonly clock: Clock; readonly log: Log }): Context {
  const lacks = (permission: Permission, server?: ServerFacts): AppError => {
    const isHidden = server !== undefined && !isPermitted(actor, 'server:read', server);
    return new AppError(isHidden ? 'NOT_FOUND' : 'FORBIDDEN', { internal: `${actor.principalId} lacks ${permission}` });
  };
  return {
    actor,
    authorize: (permission, server) => {
      if (!isPermitted(actor, permission, server)) throw lacks(permission, server);
    },
    serverScope: (permission) => {
      if (!isPermittedSomewhere(actor, permission)) throw lacks(permission);
      return serverScope(actor, permission);
    },
    clock: deps.clock,
    log: deps.log,
  };
}

/** Stands in audit events for what the program does by itself. Not a principal: no key can ever resolve to it. */
export const systemActorId = '00000000-0000-0000-0000-000000000000';

export function systemContext(
  name: string,
  permissions: readonly Permission[],
  deps: { readonly clock: Clock; readonly log: Log },
): Context {
  const actor: Actor = {
    principalId: systemActorId,
    name,
    kind: 'system',
    keyId: null,
    ...noRights,
    permissions: new Set(permissions),
  };
  return createContext(actor, deps);
}

const anonymousActorId = '00000000-0000-0000-0000-000000000001';

/** A request without credentials: it reaches nothing but fields marked public, and may do nothing there by itself. */
export function anonymousContext(deps: { readonly clock: Clock; readonly log: Log }): Context {
  const actor: Actor = {
    principalId: anonymousActorId,
    name: 'anonymous',
    kind: 'system',
    keyId: null,
    ...noRights,
  };
  return createContext(actor, deps);
}

export function isAuthenticated(ctx: Pick<Context, 'actor'>): boolean {
  return ctx.actor.principalId !== anonymousActorId;
}
