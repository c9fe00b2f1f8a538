import { AppError, type Permission } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';

/** Who acts in the control plane. `system` is the program itself: reconcilers, the discovery job. */
export interface Actor {
  readonly principalId: string;
  readonly name: string;
  readonly kind: 'user' | 'serviceAccount' | 'system';
  /** The API key used; null for the system. */
  readonly keyId: string | null;
  readonly permissions: ReadonlySet<Permission>;
}

/** What every service method gets first. An unauthenticated request has no Context at all. */
export interface Context {
  readonly actor: Actor;
  /** Throws FORBIDDEN unless the actor's roles give the permission. */
  authorize(permission: Permission): void;
  readonly clock: Clock;
  readonly log: Log;
}

export function createContext(actor: Actor, deps: { readonly clock: Clock; readonly log: Log }): Context {
  return {
    actor,
    authorize: (permission) => {
      if (!actor.permissions.has(permission)) {
        throw new AppError('FORBIDDEN', { internal: `${actor.principalId} lacks ${permission}` });
      }
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
    permissions: new Set(),
  };
  return createContext(actor, deps);
}

export function isAuthenticated(ctx: Pick<Context, 'actor'>): boolean {
  return ctx.actor.principalId !== anonymousActorId;
}
