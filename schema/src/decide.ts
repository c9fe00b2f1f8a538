/**
 * The decision: default deny → an explicit deny wins → an allow must match → what must be done besides (an approval) is
 * united. One pure function of (grants, principal, request, target); lists and calls, the data plane and `explain` all
 * ask this one.
 */
import {
  type CallFacts,
  compileCondition,
  type Condition,
  conditionArguments,
  type ConditionFacts,
  type ConditionKind,
  conditionProblem,
  type Match,
} from './condition.ts';
import { compileGlob, globProblem, type Matcher } from './glob.ts';
import {
  type GrantEffect,
  type GrantEntry,
  type GrantLimits,
  type GrantSubject,
  type PrincipalRecord,
  toolAnnotations,
  type ToolLabels,
  type ToolRisk,
  toolRisks,
} from './snapshot.ts';

export const targetKinds = ['tool', 'prompt', 'resource'] as const;
export type TargetKind = (typeof targetKinds)[number];

export interface AccessTarget {
  readonly kind: TargetKind;
  /** Name of the tool or prompt; URI of the resource or its template. */
  readonly name: string;
}

/** A target with what an administrator says of it; null where nothing is said. */
export interface LabelledTarget extends AccessTarget {
  readonly labels: ToolLabels | null;
}

export type DecisionReason =
  | 'GRANTED'
  | 'APPROVAL_NEEDED'
  | 'DENIED_BY_GRANT'
  | 'NO_GRANT'
  | 'DEFINITION_NOT_APPROVED'
  | 'PRINCIPAL_DISABLED'
  | 'INSUFFICIENT_SCOPE'
  | 'INSUFFICIENT_AUTHENTICATION'
  | 'KEY_NOT_FOR_SERVER'
  | 'CONFIG_STALE';

export interface Decision {
  readonly effect: GrantEffect;
  readonly reason: DecisionReason;
  /** The grants that decided: the denying ones, else those that need an approval, else the allowing ones. Sorted. */
  readonly grantIds: readonly string[];
  /** What it would have been with the matching shadow grants in force; null where none matched. */
  readonly shadow: ShadowDecision | null;
}

export interface ShadowDecision {
  readonly effect: GrantEffect;
  /** The shadow grants that matched. Sorted. */
  readonly grantIds: readonly string[];
}

/** The part of a grant that a request failed, for `explain`; checked in this order. */
export const grantParts = ['subject', 'selector', 'window', 'staleness', 'limits', 'when', 'whenArguments'] as const;
export type GrantPart = (typeof grantParts)[number];

export interface GrantVerdict {
  readonly match: Match;
  /** The first part that did not match or is unknown; null where all match. */
  readonly failed: GrantPart | null;
}

export interface CompiledGrant {
  readonly entry: GrantEntry;
  readonly matchers: Readonly<Record<TargetKind, readonly Matcher[]>>;
  readonly conditions: Readonly<Record<ConditionKind, Condition | null>>;
}

/** @throws Error where `grantProblems` finds any */
export function compileGrant(entry: GrantEntry): CompiledGrant {
  return {
    entry,
    matchers: {
      tool: entry.tools.map(compileGlob),
      prompt: entry.prompts.map(compileGlob),
      resource: entry.resources.map(compileGlob),
    },
    conditions: {
      when: entry.when === null ? null : compileCondition('when', entry.when),
      whenArguments: entry.whenArguments === null ? null : compileCondition('whenArguments', entry.whenArguments),
    },
  };
}

/** What of a grant does not depend on who it is for. */
export type GrantTerms = Pick<
  GrantEntry,
  'effect' | 'tools' | 'prompts' | 'resources' | 'limits' | 'when' | 'whenArguments' | 'configStalenessMaxMs'
>;

export interface GrantProblem {
  /** `tools.3`, `when`, … */
  readonly path: string;
  readonly message: string;
}

/** Everything that keeps a grant from being used. Asked where it is written, published and received. */
export function grantProblems(grant: GrantTerms): GrantProblem[] {
  const found: GrantProblem[] = [];
  for (const selector of ['tools', 'prompts', 'resources'] as const) {
    grant[selector].forEach((pattern, index) => {
      const message = globProblem(pattern);
      if (message !== undefined) found.push({ path: `${selector}.${index}`, message });
    });
  }
  for (const kind of ['when', 'whenArguments'] as const) {
    const text = grant[kind];
    const problem = text === null ? undefined : conditionProblem(kind, text);
    if (problem === undefined) continue;
    found.push({ path: kind, message: `${problem.message} (line ${problem.line}, column ${problem.column})` });
  }
  const selectsOthers = grant.prompts.length + grant.resources.length > 0;
  if (grant.limits !== null && selectsOthers) {
    found.push({ path: 'limits', message: 'are about tools: prompts and resources need a grant of their own' });
  }
  if (grant.limits !== null && Object.values(grant.limits).every((limit) => limit === null)) {
    found.push({ path: 'limits', message: 'limit nothing; leave them out' });
  }
  if (grant.whenArguments !== null && grant.resources.length > 0) {
    found.push({
      path: 'whenArguments',
      message: 'resources are read without arguments: they need a grant of their own',
    });
  }
  if (grant.effect === 'deny' && grant.configStalenessMaxMs !== null) {
    found.push({ path: 'configStalenessMaxMs', message: 'a deny holds however old the configuration is' });
  }
  return found;
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

export function applicableGrants(
  grants: readonly CompiledGrant[],
  principal: Pick<PrincipalRecord, 'id' | 'kind' | 'groups'>,
): readonly CompiledGrant[] {
  return grants.filter(({ entry }) => subjectMatches(entry.subject, principal));
}

export interface RequestFacts extends Omit<ConditionFacts, 'now'> {
  /** The control plane's time, in milliseconds since the epoch. */
  readonly nowMs: number;
  /** Milliseconds since the node's last contact with the control plane; 0 in the control plane itself. */
  readonly contactAgeMs: number;
}

/**
 * One request, or one list that is being filtered, as grants see it. Remembers what `when` came to, since a list asks
 * for each of its items.
 */
export class AccessRequest {
  readonly nowMs: number;
  readonly contactAgeMs: number;
  readonly #facts: ConditionFacts;
  readonly #when = new Map<CompiledGrant, Match>();
  readonly #readArguments: (() => string | undefined) | null;
  #arguments: Pick<CallFacts, 'arguments' | 'argumentsLength'> | null | undefined;

  /**
   * @param readArguments gives the JSON of a call's `arguments` (undefined where it has none), without repeated keys;
   * null where nothing is called: lists, and what only asks about a target
   */
  constructor(facts: RequestFacts, readArguments: (() => string | undefined) | null) {
    const { nowMs, contactAgeMs, ...seen } = facts;
    this.nowMs = nowMs;
    this.contactAgeMs = contactAgeMs;
    this.#facts = { ...seen, now: new Date(nowMs) };
    this.#readArguments = readArguments;
  }

  when(grant: CompiledGrant): Match {
    const { when } = grant.conditions;
    if (when === null) return 'yes';
    let match = this.#when.get(grant);
    if (match === undefined) {
      match = when.evaluate(this.#facts);
      this.#when.set(grant, match);
    }
    return match;
  }

  /** What is not a call has no arguments to deny it by, and is opened by `when` alone. */
  whenArguments(grant: CompiledGrant, target: AccessTarget): Match {
    const condition = grant.conditions.whenArguments;
    if (condition === null) return 'yes';
    if (this.#readArguments === null) return grant.entry.effect === 'deny' ? 'no' : 'yes';
    if (this.#arguments === undefined) {
      const text = this.#readArguments();
      const read = conditionArguments(text);
      this.#arguments = read === undefined ? null : { arguments: read, argumentsLength: text?.length ?? 0 };
    }
    if (this.#arguments === null) return 'unknown';
    const { kind, name } = target;
    return condition.evaluate(this.#facts, { target: { kind, name }, ...this.#arguments });
  }
}

function inWindow(entry: GrantEntry, nowMs: number): boolean {
  return (entry.notBefore === null || entry.notBefore <= nowMs) && (entry.notAfter === null || nowMs < entry.notAfter);
}

function riskMatch(limits: GrantLimits, risk: ToolRisk | null): Match {
  if (limits.riskMin === null && limits.riskMax === null) return 'yes';
  if (risk === null) return 'unknown';
  const rank = toolRisks.indexOf(risk);
  const tooLow = limits.riskMin !== null && rank < toolRisks.indexOf(limits.riskMin);
  const tooHigh = limits.riskMax !== null && rank > toolRisks.indexOf(limits.riskMax);
  return tooLow || tooHigh ? 'no' : 'yes';
}

function limitsMatch(limits: GrantLimits | null, labels: ToolLabels | null): Match {
  if (limits === null) return 'yes';
  const matches = [
    riskMatch(limits, labels?.risk ?? null),
    ...toolAnnotations.map((annotation): Match => {
      const wanted = limits[annotation];
      const said = labels?.[annotation] ?? null;
      if (wanted === null) return 'yes';
      if (said === null) return 'unknown';
      return said === wanted ? 'yes' : 'no';
    }),
  ];
  if (matches.includes('no')) return 'no';
  return matches.includes('unknown') ? 'unknown' : 'yes';
}

/**
 * The parts of a grant that neither the request nor its time changes. What is `no` here is so for every request, until
 * the configuration changes.
 */
export function matchesTarget(grant: CompiledGrant, target: LabelledTarget): boolean {
  return (
    grant.matchers[target.kind].some((matches) => matches(target.name)) &&
    limitsMatch(grant.entry.limits, target.labels) !== 'no'
  );
}

/** Whether what the grant comes to may differ from one request to the next within its window. */
export function isConditional({ entry }: CompiledGrant): boolean {
  return entry.when !== null || entry.whenArguments !== null || entry.configStalenessMaxMs !== null;
}

/** What a grant, whose subject matches, comes to for a request. */
export function matchGrant(grant: CompiledGrant, target: LabelledTarget, request: AccessRequest): GrantVerdict {
  const { entry } = grant;
  const failing = (failed: GrantPart, match: Match = 'no'): GrantVerdict => ({ match, failed });
  if (!grant.matchers[target.kind].some((matches) => matches(target.name))) return failing('selector');
  if (!inWindow(entry, request.nowMs)) return failing('window');
  if (isTooStale(entry, request)) return failing('staleness');
  // A part that is unknown stands back behind one that is not: `no` is certain whatever the unknown one would be.
  let unknown: GrantPart | null = null;
  const limits = limitsMatch(entry.limits, target.labels);
  if (limits === 'no') return failing('limits');
  if (limits === 'unknown') unknown ??= 'limits';
  const when = request.when(grant);
  if (when === 'no') return failing('when');
  if (when === 'unknown') unknown ??= 'when';
  const whenArguments = request.whenArguments(grant, target);
  if (whenArguments === 'no') return failing('whenArguments');
  if (whenArguments === 'unknown') unknown ??= 'whenArguments';
  return unknown === null ? { match: 'yes', failed: null } : failing(unknown, 'unknown');
}

function isTooStale(entry: GrantEntry, request: AccessRequest): boolean {
  return entry.configStalenessMaxMs !== null && request.contactAgeMs > entry.configStalenessMaxMs;
}

interface Matched {
  readonly entry: GrantEntry;
  readonly match: Match;
}

/** An unknown allow opens nothing, an unknown deny denies, an unknown approval is needed where something else opens. */
function conclude(matched: readonly Matched[]): Omit<Decision, 'shadow'> {
  const ids = (effect: GrantEffect, ...matches: readonly Match[]): string[] =>
    matched
      .filter(({ entry, match }) => entry.effect === effect && matches.includes(match))
      .map(({ entry }) => entry.id)
      .sort();
  const denying = ids('deny', 'yes', 'unknown');
  if (denying.length > 0) return { effect: 'deny', reason: 'DENIED_BY_GRANT', grantIds: denying };
  const allowing = ids('allow', 'yes');
  if (allowing.length + ids('requireApproval', 'yes').length === 0) {
    return { effect: 'deny', reason: 'NO_GRANT', grantIds: [] };
  }
  const approving = ids('requireApproval', 'yes', 'unknown');
  if (approving.length > 0) return { effect: 'requireApproval', reason: 'APPROVAL_NEEDED', grantIds: approving };
  return { effect: 'allow', reason: 'GRANTED', grantIds: allowing };
}

function counts({ entry, match }: Matched): boolean {
  return match === 'yes' || (match === 'unknown' && entry.effect !== 'allow');
}

function withShadow(matched: readonly Matched[]): Decision {
  const decision = conclude(matched.filter(({ entry }) => entry.mode === 'enforce'));
  const shadows = matched.filter((one) => one.entry.mode === 'shadow' && counts(one));
  if (shadows.length === 0) return { ...decision, shadow: null };
  const { effect } = conclude(matched);
  return { ...decision, shadow: { effect, grantIds: shadows.map(({ entry }) => entry.id).sort() } };
}

/**
 * Decides over grants whose subject already matches the principal (see `applicableGrants`). Does NOT check the
 * principal's status or the definition's approval; the caller does, before asking.
 */
export function decide(applicable: readonly CompiledGrant[], target: LabelledTarget, request: AccessRequest): Decision {
  return withShadow(
    applicable.map((grant) => ({ entry: grant.entry, match: matchGrant(grant, target, request).match })),
  );
}

/**
 * Whether the principal may know that the server exists: some grant that opens anything on it matches by window and
 * `when`. A deny does not hide the server, since it need not cover all that the others open.
 */
export function decideServer(applicable: readonly CompiledGrant[], request: AccessRequest): Decision {
  const matched = applicable
    .filter(({ entry }) => entry.effect !== 'deny')
    .filter(({ entry }) => entry.tools.length + entry.prompts.length + entry.resources.length > 0)
    .filter(({ entry }) => inWindow(entry, request.nowMs) && !isTooStale(entry, request))
    .map((grant): Matched => ({ entry: { ...grant.entry, effect: 'allow' }, match: request.when(grant) }));
  return withShadow(matched);
}

/** A request that was refused for another reason than a grant. */
export function refusal(reason: Exclude<DecisionReason, 'GRANTED' | 'APPROVAL_NEEDED'>): Decision {
  return { effect: 'deny', reason, grantIds: [], shadow: null };
}
