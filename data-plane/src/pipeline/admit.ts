import { AppError, type LimitsDocument } from '@sallyport/schema';
import { isOpenEnded, type Admitted, type Authorized } from './exchange.ts';

/**
 * Of each limit, what streams may take on which nothing is asked: they last for hours, and whoever listens must not keep
 * calls out, be they his own or those of others.
 */
const openEndedShare = 0.5;

/** How many exchanges are under way on this node, in all, by principal and by server. */
export class ExchangeSlots {
  readonly #exchangesMax: number;
  readonly #all = new Counts();
  readonly #openEnded = new Counts();

  /** @param options.exchangesMax most exchanges at once on this node, streams included */
  constructor(options: { readonly exchangesMax: number }) {
    this.#exchangesMax = options.exchangesMax;
  }

  get total(): number {
    return this.#all.total;
  }

  /** @throws AppError RATE_LIMITED where the principal has too many, OVERLOADED where the server or the node has */
  take(slot: Slot, limits: LimitsDocument): void {
    this.#check(this.#all, slot, limits, 1);
    if (slot.isOpenEnded) {
      this.#check(this.#openEnded, slot, limits, openEndedShare);
      this.#openEnded.add(slot, 1);
    }
    this.#all.add(slot, 1);
  }

  giveBack(slot: Slot): void {
    this.#all.add(slot, -1);
    if (slot.isOpenEnded) this.#openEnded.add(slot, -1);
  }

  #check(counts: Counts, { principalId, serverId }: Slot, limits: LimitsDocument, share: number): void {
    const most = (max: number): number => Math.ceil(max * share);
    if (counts.ofPrincipal(principalId) >= most(limits.exchangesPerPrincipalMax)) throw new AppError('RATE_LIMITED');
    if (counts.ofServer(serverId) >= most(limits.exchangesPerServerMax) || counts.total >= most(this.#exchangesMax)) {
      throw new AppError('OVERLOADED');
    }
  }
}

/** Who takes a place for what. */
interface Slot {
  readonly principalId: string;
  readonly serverId: string;
  readonly isOpenEnded: boolean;
}

class Counts {
  readonly #byPrincipal = new Map<string, number>();
  readonly #byServer = new Map<string, number>();
  total = 0;

  ofPrincipal(principalId: string): number {
    return this.#byPrincipal.get(principalId) ?? 0;
  }

  ofServer(serverId: string): number {
    return this.#byServer.get(serverId) ?? 0;
  }

  add({ principalId, serverId }: Slot, change: 1 | -1): void {
    count(this.#byPrincipal, principalId, change);
    count(this.#byServer, serverId, change);
    this.total += change;
  }
}

function count(counts: Map<string, number>, key: string, change: 1 | -1): void {
  const next = (counts.get(key) ?? 0) + change;
  if (next <= 0) counts.delete(key);
  else counts.set(key, next);
}

/**
 * Lets an authorized exchange in if there is room for it. After authorize, so that strangers spend nobody's share.
 * The caller must run `release` exactly once when the exchange has ended.
 */
export function admit(authorized: Authorized, slots: ExchangeSlots): Admitted {
  const { runtime, server, authenticated, received } = authorized.routed;
  const slot: Slot = {
    principalId: authenticated.principal.id,
    serverId: server.document.id,
    isOpenEnded: isOpenEnded(received),
  };
  slots.take(slot, runtime.limits);
  return { authorized, release: () => slots.giveBack(slot) };
}
