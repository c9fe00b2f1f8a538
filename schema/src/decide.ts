/**
 * The decision: default deny → an explicit deny wins → an allow must match. One pure function of (grants, principal,
 * target, time); lists and calls, the data plane and `explain` all ask this one.
 */
import { compileGlob, type Matcher } from './glob.ts';
import type { GrantEntry, GrantSubject, PrincipalRecord } from './snapshot.ts';

export const targetKinds = ['tool', 'prompt', 'resource'] as const;
export type TargetKind = (typeof targetKinds)[number];

export interface AccessTarget {
  readonly kind: TargetKind;
  /** Name of the tool or prompt; URI of the resource or its template. */
  readonly name: string;
}

export type DecisionReason =
  | 'GRANTED'
  | 'DENIED_BY_GRANT'
  | 'NO_GRANT'
  | 'DEFINITION_NOT_APPROVED'
  | 'PRINCIPAL_DISABLED'
  | 'CONFIG_STALE';

export interface Decision {
  readonly effect: 'allow' | 'deny';
  readonly reason: DecisionReason;
  /** The grants that decided: the denying ones, else the allowing ones. Sorted. */
  readonly grantIds: readonly string[];
}

export interface CompiledGrant {
  readonly entry: GrantEntry;
  readonly matchers: Readonly<Record<TargetKind, readonly Matcher[]>>;
}

export function compileGrant(entry: GrantEntry): CompiledGrant {
  return {
    entry,
    matchers: {
      tool: entry.tools.map(compileGlob),
      prompt: entry.prompts.map(compileGlob),
      resource: entry.resources.map(compileGlob),
    },
  };
}

export function subjectMatches(
  subject: GrantSubject,
  principal: Pick<PrincipalRecord, 'id' | 'kind' | 'groups'>,
): boolean {
  switch (subject.kind) {
    case 'everyone':
      return true;
    case 'group':
      return principal.groups.includes(subject.id);
    case 'user':
    case 'serviceAccount':
      return principal.kind === subject.kind && principal.id === subject.id;
    default:
      return subject satisfies never;
  }
}

function inWindow(entry: GrantEntry, nowMs: number): boolean {
  return (entry.notBefore === null || entry.notBefore <= nowMs) && (entry.notAfter === null || nowMs < entry.notAfter);
}

/**
 * Decides over grants whose subject already matches the principal (see `applicableGrants`).
 * Checks subject-independent parts only: window, effect, selector. Does NOT check the principal's status or the
 * definition's approval; the caller does, before asking.
 * @param nowMs the control plane's time, in milliseconds since the epoch
 */
export function decide(applicable: readonly CompiledGrant[], target: AccessTarget, nowMs: number): Decision {
  const denying: string[] = [];
  const allowing: string[] = [];
  for (const grant of applicable) {
    if (!inWindow(grant.entry, nowMs)) continue;
    if (!grant.matchers[target.kind].some((matches) => matches(target.name))) continue;
    (grant.entry.effect === 'deny' ? denying : allowing).push(grant.entry.id);
  }
  if (denying.length > 0) return { effect: 'deny', reason: 'DENIED_BY_GRANT', grantIds: denying.sort() };
  if (allowing.length > 0) return { effect: 'allow', reason: 'GRANTED', grantIds: allowing.sort() };
  return { effect: 'deny', reason: 'NO_GRANT', grantIds: [] };
}

/**
 * Whether the principal may know that the server exists: some allow grant for anything on it is in its window.
 * A deny does not hide the server, since it need not cover all that the allow does.
 */
export function decideServer(applicable: readonly CompiledGrant[], nowMs: number): Decision {
  const allowing = applicable
    .filter(({ entry }) => entry.effect === 'allow' && inWindow(entry, nowMs))
    .filter(({ entry }) => entry.tools.length + entry.prompts.length + entry.resources.length > 0)
    .map(({ entry }) => entry.id);
  if (allowing.length > 0) return { effect: 'allow', reason: 'GRANTED', grantIds: allowing.sort() };
  return { effect: 'deny', reason: 'NO_GRANT', grantIds: [] };
}

export function applicableGrants(
  grants: readonly CompiledGrant[],
  principal: Pick<PrincipalRecord, 'id' | 'kind' | 'groups'>,
): readonly CompiledGrant[] {
  return grants.filter(({ entry }) => subjectMatches(entry.subject, principal));
}
