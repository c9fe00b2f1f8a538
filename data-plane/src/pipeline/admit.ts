import { AppError, type LimitsDocument } from '@sallyport/schema';
import type { Admitted, Authorized } from './exchange.ts';

/** How many exchanges are under way on this node, in all, by principal and by server. */
export class ExchangeSlots {
  readonly #exchangesMax: number;
  readonly #byPrincipal = new Map<string, number>();
  readonly #byServer = new Map<string, number>();
  #total = 0;

  /** @param options.exchangesMax most exchanges at once on this node, streams included */
  constructor(options: { readonly exchangesMax: number }) {
    this.#exchangesMax = options.exchangesMax;
  }

  get total(): number {
    return this.#total;
  }

  /** @throws AppError RATE_LIMITED where the principal has too many, OVERLOADED where the server or the node has */
  take(principalId: string, serverId: string, limits: LimitsDocument): void {
    const ofPrincipal = this.#byPrincipal.get(principalId) ?? 0;
    if (ofPrincipal >= limits.exchangesPerPrincipalMax) throw new AppError('RATE_LIMITED');
    const ofServer = this.#byServer.get(serverId) ?? 0;
    if (ofServer >= limits.exchangesPerServerMax || this.#total >= this.#exchangesMax) throw new AppError('OVERLOADED');
    this.#byPrincipal.set(principalId, ofPrincipal + 1);
    this.#byServer.set(serverId, ofServer + 1);
    this.#total++;
  }

  giveBack(principalId: string, serverId: string): void {
    decrement(this.#byPrincipal, principalId);
    decrement(this.#byServer, serverId);
    this.#total--;
  }
}

function decrement(counts: Map<string, number>, key: string): void {
  const count = counts.get(key) ?? 0;
  if (count <= 1) counts.delete(key);
  else counts.set(key, count - 1);
}

/**
 * Lets an authorized exchange in if there is room for it. After authorize, so that strangers spend nobody's share.
 * The caller must run `release` exactly once when the exchange has ended.
 */
export function admit(authorized: Authorized, slots: ExchangeSlots): Admitted {
  const { runtime, server, authenticated } = authorized.routed;
  const principalId = authenticated.principal.id;
  const serverId = server.document.id;
  slots.take(principalId, serverId, runtime.limits);
  return { authorized, release: () => slots.giveBack(principalId, serverId) };
}
