import { z } from 'zod';
import { detectorNames, findingSeverities } from '../detectors/finding.ts';
import { detectorsVersion } from '../detectors/inspect-text.ts';
import { pointerPart } from '../json-pointer.ts';
import type { DetectionResult, MessageFinding, TextPlace } from './find-in-texts.ts';
import type { CompiledPolicy } from './match-policies.ts';
import type { MessageText } from './message-texts.ts';
import { policyActions, type PolicyDirection, policyDirections, type PolicyRule, severityRank } from './policy.ts';

/** Verdicts of one exchange, and places of one verdict, that its record names. */
export const verdictsMax = 64;
export const verdictPlacesMax = 16;
/** Of the path of a place, in characters. */
export const verdictPathLengthMax = 256;

/** What came of one policy's look at a message: never what was found itself. */
export const verdictSchema = z.strictObject({
  /** Null where no policy decided, but what holds for every server. */
  policyId: z.string().nullable(),
  mode: z.enum(['enforce', 'shadow']),
  direction: z.enum(policyDirections),
  /** A detector of ours; `size` and `failure` where there was no look at it; `upstreamRequest` for what servers ask. */
  detector: z.enum([...detectorNames, 'size', 'failure', 'upstreamRequest', 'webhook']),
  /** Who was asked; absent unless a webhook was. */
  webhookId: z.string().optional(),
  /** Of the detectors, or the revision of the webhook. */
  version: z.string(),
  /** `allow`: it went on though nobody looked at it. `pass`, `modify`: a webhook let it go on, as it was or changed. */
  decision: z.enum([...policyActions, 'allow', 'pass', 'modify']),
  /** Kind of what was found, such as `githubToken`; or why. */
  reason: z.string(),
  severity: z.enum(findingSeverities).nullable(),
  /** How many were found, and where, the first `verdictPlacesMax`: in UTF-16 units of the text at the JSON pointer. */
  count: z.number().int().nonnegative(),
  places: z.array(
    z.strictObject({ path: z.string(), start: z.number().int().nonnegative(), end: z.number().int().nonnegative() }),
  ),
  /** Milliseconds that the detector took for the message, for all policies together. */
  durationMs: z.number().nonnegative(),
});
export type Verdict = z.infer<typeof verdictSchema>;

/** Whether a message does not go on because of the verdict. */
export function isBlocking({ decision, mode }: Pick<Verdict, 'decision' | 'mode'>): boolean {
  return decision === 'block' && mode === 'enforce';
}

/** What stands in the place of a text: the whole of it, anew. */
export interface TextChange {
  /** Index of the text. */
  readonly text: number;
  readonly replacement: string;
}

export interface Judgement {
  /** Whether the message may not go on. */
  readonly isBlocked: boolean;
  readonly verdicts: readonly Verdict[];
  /** Empty where the message goes on as it is, and where it does not go on. */
  readonly changes: readonly TextChange[];
  /** The detectors whose label the message has, in order. */
  readonly labels: readonly string[];
}

interface Decided {
  readonly policy: CompiledPolicy;
  readonly rule: PolicyRule;
  readonly finding: MessageFinding;
}

/**
 * What becomes of a message by what was found in it. Of the policies that act, the first in order with a rule that
 * covers a finding decides it; those in shadow are asked each for itself and change nothing. What cannot be taken out
 * without making another message of it (a name, a routing field, digits that would be none) is blocked where it was to
 * be redacted.
 */
export function judgeMessage(
  policies: readonly CompiledPolicy[],
  direction: PolicyDirection,
  texts: readonly MessageText[],
  { findings, durations }: DetectionResult,
): Judgement {
  // As with nearly every message.
  if (findings.length === 0) return { isBlocked: false, verdicts: [], labels: [], changes: [] };
  const enforcing = policies.filter(({ entry }) => entry.mode === 'enforce');
  const decided = findings.flatMap((finding) => decide(enforcing, finding));
  const shadowed = policies
    .filter(({ entry }) => entry.mode === 'shadow')
    .flatMap((policy) => findings.flatMap((finding) => decide([policy], finding)));
  const acting = decided.map((one) => (isRedactable(one, texts) ? one : blocking(one)));
  const isBlocked = acting.some(({ rule }) => rule.action === 'block');
  const paths = pathsOf(texts, findings);
  const verdicts = [...verdictsOf(acting), ...verdictsOf(shadowed)].map(
    ({ policy, rule, group }): Verdict => ({
      policyId: policy.entry.id,
      mode: policy.entry.mode,
      direction,
      detector: rule.detector,
      version: detectorsVersion,
      decision: rule.action,
      reason: group[0]?.category ?? '',
      severity: group[0]?.severity ?? null,
      count: group.length,
      places: group
        .flatMap(({ places }) => places)
        .slice(0, verdictPlacesMax)
        .map(({ text, start, end }) => ({ path: paths(text), start, end })),
      durationMs: durations[rule.detector] ?? 0,
    }),
  );
  const labels = detectorNames.filter((name) =>
    acting.some(({ rule }) => rule.detector === name && rule.action === 'label'),
  );
  const redacted = acting.filter(({ rule }) => rule.action === 'redact').map(({ finding }) => finding);
  return { isBlocked, verdicts, labels, changes: isBlocked ? [] : changesOf(redacted, texts) };
}

function decide(policies: readonly CompiledPolicy[], finding: MessageFinding): Decided[] {
  const rank = findingSeverities.indexOf(finding.severity);
  for (const policy of policies) {
    const rule = policy.entry.rules.find(
      (one) =>
        one.detector === finding.detector &&
        rank >= severityRank(one) &&
        (one.categories.length === 0 || one.categories.includes(finding.category)),
    );
    if (rule !== undefined) return [{ policy, rule, finding }];
  }
  return [];
}

function isRedactable({ rule, finding }: Decided, texts: readonly MessageText[]): boolean {
  if (rule.action !== 'redact') return true;
  return finding.places.every(({ text }) => {
    const found = texts[text];
    return found !== undefined && !found.isFixed && found.encoding !== 'opaque';
  });
}

function blocking(decided: Decided): Decided {
  return { ...decided, rule: { ...decided.rule, action: 'block' } };
}

/** Findings of one kind that one rule decided are one verdict. */
function verdictsOf(
  decided: readonly Decided[],
): { readonly policy: CompiledPolicy; readonly rule: PolicyRule; readonly group: readonly MessageFinding[] }[] {
  const groups = Map.groupBy(
    decided,
    ({ policy, rule, finding }) => `${policy.entry.id} ${rule.action} ${rule.detector} ${finding.category}`,
  );
  return [...groups.values()].flatMap((group) => {
    const [first] = group;
    return first === undefined ? [] : [{ ...first, group: group.map(({ finding }) => finding) }];
  });
}

/** The names in a path are the sender's: one in which something was found is not told. */
function pathsOf(texts: readonly MessageText[], findings: readonly MessageFinding[]): (text: number) => string {
  const flagged = new Set(findings.flatMap(({ places }) => places.map(({ text }) => text)));
  const names = [...flagged].flatMap((index) => {
    const found = texts[index];
    return found?.role === 'name' ? [found.text] : [];
  });
  const hidden = new Set(names.map(pointerPart));
  return (index) => {
    const path = texts[index]?.path ?? '';
    const told =
      hidden.size === 0
        ? path
        : path
            .split('/')
            .map((part) => (hidden.has(part) ? '*' : part))
            .join('/');
    return told.slice(0, verdictPathLengthMax);
  };
}

function changesOf(findings: readonly MessageFinding[], texts: readonly MessageText[]): TextChange[] {
  const places = findings.flatMap(({ places: all, category }) => all.map((place) => ({ ...place, category })));
  return [...Map.groupBy(places, ({ text }) => text)].flatMap(([index, parts]) => {
    const found = texts[index];
    return found === undefined ? [] : [{ text: index, replacement: redacted(found, parts) }];
  });
}

/** Overlapping parts become one mark. Of a number nothing can be left that is one and tells nothing: it becomes 0. */
export function redacted(
  found: Pick<MessageText, 'text' | 'role'>,
  parts: readonly (Pick<TextPlace, 'start' | 'end'> & { readonly category: string })[],
): string {
  if (found.role === 'number') return '0';
  let result = '';
  let at = 0;
  for (const { start, end, category } of [...parts].sort((a, b) => a.start - b.start || b.end - a.end)) {
    if (end <= at) continue;
    if (start >= at) result += `${found.text.slice(at, start)}[redacted ${category}]`;
    at = end;
  }
  return result + found.text.slice(at);
}

/** The message with the changes made: every character outside of them stays, and each value keeps its JSON type. */
export function applyChanges(message: string, texts: readonly MessageText[], changes: readonly TextChange[]): string {
  let result = '';
  let at = 0;
  const edits = changes.flatMap(({ text, replacement }) => {
    const found = texts[text];
    return found === undefined || found.role === 'header' ? [] : [{ found, value: jsonOf(found, replacement) }];
  });
  for (const { found, value } of edits.sort((a, b) => a.found.start - b.found.start)) {
    result += message.slice(at, found.start) + value;
    at = found.end;
  }
  return result + message.slice(at);
}

function jsonOf(found: MessageText, replacement: string): string {
  if (found.role === 'number') return replacement;
  return JSON.stringify(found.encoding === 'base64' ? Buffer.from(replacement).toString('base64') : replacement);
}

/** The member of `_meta` in an answer that names the detectors whose label it has. */
export const labelsMember = 'io.sallyport/labels';

/** A verdict about a message that no detector looked at. */
export function unlookedVerdict(
  policy: CompiledPolicy,
  direction: PolicyDirection,
  detector: 'size' | 'failure',
  reason: string,
): Verdict {
  const isAllowed = detector === 'size' && policy.entry.onTooLarge === 'allow';
  return {
    policyId: policy.entry.id,
    mode: policy.entry.mode,
    direction,
    detector,
    version: detectorsVersion,
    decision: isAllowed ? 'allow' : 'block',
    reason,
    severity: null,
    count: 1,
    places: [],
    durationMs: 0,
  };
}
