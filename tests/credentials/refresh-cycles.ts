/** Cycles: a user's token is to be renewed, and many calls on three nodes want it at once. For a test and the benchmark. */
import { waitFor } from '../kit/condition.ts';
import type { Connected, RefreshFleet } from './refresh-fleet.ts';

export const callsPerNode = 50;
const callsPerCycle = 3 * callsPerNode;
/** Users whose cycles overlap: while one waits for his token, the other calls. */
const usersAtOnce = 2;
/** Of access tokens. Longer than a round takes by far: nothing but the moved clock brings them to their end. */
const lifeSeconds = 600;
const lifeMs = lifeSeconds * 1_000;
/** Nodes renew in the background in the last minute. */
const endingMs = 50_000;

/** Why the token is renewed: it has ended, it ends soon, or the upstream refuses it. */
export const cycleKinds = ['ended', 'ending', 'refused'] as const;
export type CycleKind = (typeof cycleKinds)[number];

export interface CyclesFound {
  cycles: number;
  /** Calls that did not come out well, by what was answered. */
  readonly failed: string[];
  /** Cycles with another number of refreshes than one. */
  notOnce: number;
  /** Cycles in which the upstream was sent a token that had ended. */
  sentEnded: number;
}

/** A fleet with users whose accounts are connected. */
export class RefreshCycles {
  readonly #fleet: RefreshFleet;
  readonly #users: readonly Connected[];
  readonly #witness: Connected;

  private constructor(fleet: RefreshFleet, users: readonly Connected[], witness: Connected) {
    this.#fleet = fleet;
    this.#users = users;
    this.#witness = witness;
  }

  static async prepare(fleet: RefreshFleet, userCount: number): Promise<RefreshCycles> {
    fleet.as.expiresIn = lifeSeconds;
    const users: Connected[] = [];
    for (let at = 0; at < userCount; at++) users.push(await fleet.connected(`User ${at}`));
    const witness = await fleet.connected('Witness');
    await fleet.administrator.converged();
    // The nodes hold their tokens from now on.
    for (const user of users) await fleet.call(user, 1);
    return new RefreshCycles(fleet, users, witness);
  }

  /** A cycle of each user. Tokens end, or nearly do, for all of them at once, by the clock. */
  async round(kind: CycleKind): Promise<CyclesFound> {
    const fleet = this.#fleet;
    const found: CyclesFound = { cycles: 0, failed: [], notOnce: 0, sentEnded: 0 };
    if (kind !== 'refused') await fleet.moveClock(kind === 'ended' ? lifeMs : lifeMs - endingMs, this.#witness);
    fleet.upstream.refused.clear();
    const waiting = this.#users.values();
    const turns = async (): Promise<void> => {
      for (const user of waiting) await this.#cycle(kind, user, found);
    };
    await Promise.all(Array.from({ length: usersAtOnce }, turns));
    return found;
  }

  async #cycle(kind: CycleKind, user: Connected, found: CyclesFound): Promise<void> {
    const { as, upstream } = this.#fleet;
    const { access, refreshes } = user.family;
    if (kind !== 'ending') as.live.delete(access);
    const answers = await this.#fleet.call(user, callsPerNode);
    // Calls do not wait for what is renewed ahead of time.
    if (kind === 'ending') await waitFor('the token is renewed', () => this.#isStored(user, refreshes + 1));
    found.cycles++;
    found.failed.push(...answers.filter((answer) => answer !== 'answered'));
    if (answers.length !== callsPerCycle || user.family.refreshes !== refreshes + 1) found.notOnce++;
    if (kind === 'ended' && upstream.refused.has(access)) found.sentEnded++;
  }

  async #isStored({ id }: Connected, refreshes: number): Promise<boolean> {
    const rows = await this.#fleet.sql`
      select 1 from connections where principal_id = ${id} and token_revision > ${refreshes}`;
    return rows.length > 0;
  }
}
