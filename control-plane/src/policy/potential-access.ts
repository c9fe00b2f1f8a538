import {
  AccessRequest,
  type AccessTarget,
  applicableGrants,
  type CompiledGrant,
  type Condition,
  type Decision,
  type GrantEffect,
  isConditional,
  type PrincipalRecord,
} from '@sallyport/schema';
import type { ServerView } from './policy-view.ts';

/** What somebody may do with a target, before there is a request to decide. */
export interface PotentialAccess {
  /** The most that any request may come to; never `deny`. */
  readonly effect: Exclude<GrantEffect, 'deny'>;
  /** Whether some request comes to less: a condition has a say. */
  readonly isConditional: boolean;
  /** The grants that decide at the most. */
  readonly grantIds: readonly string[];
}

const always = (match: 'yes' | 'no' | 'unknown'): Condition => ({ evaluate: () => match });

/** The grant with its conditions replaced: by their best outcome for the caller, or by none at all. */
function assuming(grant: CompiledGrant, best: boolean): CompiledGrant {
  const outcome = always(best ? (grant.entry.effect === 'deny' ? 'no' : 'yes') : 'unknown');
  const { when, whenArguments } = grant.conditions;
  return {
    ...grant,
    conditions: { when: when && outcome, whenArguments: whenArguments && outcome },
  };
}

/** Nothing that a condition could look at: they are all replaced. */
function requestAt(nowMs: number): AccessRequest {
  const nobody = { id: '', kind: '', name: '', groups: [] };
  const facts = { principal: nobody, server: { slug: '', labels: {} }, client: { name: '', version: '', address: '' } };
  return new AccessRequest({ ...facts, nowMs, contactAgeMs: 0 }, () => undefined);
}

/** Answers for one principal, or for one that a subject stands for, what it may do on a server. */
export class PotentialAccessOf {
  readonly #server: ServerView;
  readonly #best: readonly CompiledGrant[];
  readonly #worst: readonly CompiledGrant[];
  readonly #hasConditions: boolean;
  readonly #request: AccessRequest;

  constructor(server: ServerView, principal: Pick<PrincipalRecord, 'id' | 'kind' | 'groups'>, nowMs: number) {
    const applicable = applicableGrants(server.grants, principal);
    this.#server = server;
    this.#hasConditions = applicable.some(isConditional);
    this.#best = applicable.map((grant) => assuming(grant, true));
    this.#worst = applicable.map((grant) => assuming(grant, false));
    this.#request = requestAt(nowMs);
  }

  /** Undefined where no request may do anything with it. */
  to(target: AccessTarget): PotentialAccess | undefined {
    const best = this.#decide(this.#best, target);
    if (best.effect === 'deny') return undefined;
    const worst = this.#hasConditions ? this.#decide(this.#worst, target) : best;
    return { effect: best.effect, isConditional: worst.effect !== best.effect, grantIds: best.grantIds };
  }

  #decide(grants: readonly CompiledGrant[], target: AccessTarget): Decision {
    return this.#server.definitions.decide(grants, target, this.#request);
  }
}

/** What a definition is to grants: a template is named like a resource. */
export function targetOf({ kind, name }: { readonly kind: string; readonly name: string }): AccessTarget {
  return { kind: kind === 'tool' || kind === 'prompt' ? kind : 'resource', name };
}
