import type { DefinitionKind, DefinitionState, DiscoveryResult } from '@sallyport/schema';
import { type AutoApproval, type DefinitionRow, type DriftClass, driftClasses } from './catalog.tables.ts';
import { worst } from './drift-class.ts';

/** A definition as the last discovery saw it, in all its wordings, that of the newest protocol revision first. */
export interface SeenDefinition {
  readonly kind: DefinitionKind;
  readonly name: string;
  readonly digests: readonly string[];
}

/** What becomes of a definition. */
export interface Standing {
  readonly state: DefinitionState;
  /** Null where nothing is approved, or nothing differs from it. */
  readonly driftClass: DriftClass | null;
  /** More than before where something was approved by itself. */
  readonly approvedDigests: readonly string[];
}

export interface DefinitionChanges {
  readonly added: readonly (SeenDefinition & Standing)[];
  /** Rows whose digests, state or presence changed, with what they become. */
  readonly changed: readonly (Standing & {
    readonly row: DefinitionRow;
    readonly digests: readonly string[];
    readonly reportedDigests: readonly string[];
  })[];
  readonly removed: readonly DefinitionRow[];
}

type Held = Pick<DefinitionRow, 'kind' | 'name' | 'state' | 'approvedDigests' | 'rejectedDigests' | 'driftClass'>;

/** What is known of wordings, for the state that follows from them. */
export interface Judge {
  /** Whether the scan has severe findings. */
  readonly isSevere: (digest: string) => boolean;
  /** How far a wording is from the nearest approved one. */
  readonly driftOf: (held: Held, digest: string) => DriftClass;
  /** Whether a tool that nobody approved yet suggests a high risk. */
  readonly isRisky: (held: Pick<Held, 'kind'>, digest: string) => boolean;
  /** What webhooks say of a wording: `clear` where each that is in force said yes, or none is asked. */
  readonly webhooksOn: (held: Pick<Held, 'kind' | 'name'>, digest: string) => 'clear' | 'unanswered' | 'denied';
  /** Of the server, while it is served; else none. */
  readonly autoApproval: AutoApproval;
}

/** Digests approved for one name at a time. */
export const approvedDigestsMax = 16;

function classOf(held: Held, digest: string, judge: Judge): DriftClass {
  if (judge.isSevere(digest) || held.rejectedDigests.includes(digest)) return 'quarantine';
  if (judge.webhooksOn(held, digest) === 'denied') return 'quarantine';
  return held.approvedDigests.length === 0 ? 'review' : judge.driftOf(held, digest);
}

function approvesItself(held: Held, unapproved: readonly string[], drift: DriftClass, judge: Judge): boolean {
  const isNew = held.approvedDigests.length === 0;
  if (isNew && unapproved.some((digest) => judge.isRisky(held, digest))) return false;
  if (unapproved.some((digest) => judge.webhooksOn(held, digest) !== 'clear')) return false;
  const upTo = judge.autoApproval === 'none' ? 'same' : judge.autoApproval;
  return driftClasses.indexOf(drift) <= driftClasses.indexOf(upTo);
}

/**
 * What becomes of a definition that is seen in these wordings. All of them must be approved, since which one a client
 * gets is the upstream's choice. What was out of service stays so, also where the upstream goes back to what was approved:
 * somebody looks at it first. Only what differs in nothing that says anything is approved by itself, and what drifts, and
 * drifted, no further than the server's setting lets it; never what the scan finds severe, somebody rejected, or a webhook
 * has not said yes to.
 */
export function standingOf(held: Held, digests: readonly string[], judge: Judge): Standing {
  const { approvedDigests } = held;
  const unapproved = digests.filter((digest) => !approvedDigests.includes(digest));
  const remembered = held.state === 'drifted' ? [held.driftClass ?? 'review'] : [];
  const isNew = approvedDigests.length === 0;
  if (unapproved.length === 0 && held.state === 'quarantined') {
    return { state: 'quarantined', driftClass: held.driftClass, approvedDigests };
  }
  if (unapproved.length === 0 && remembered.length === 0) {
    return { state: 'approved', driftClass: null, approvedDigests };
  }
  const drift = worst([...remembered, ...unapproved.map((digest) => classOf(held, digest, judge))]);
  const driftClass = isNew ? null : drift;
  if (held.state === 'quarantined' || drift === 'quarantine') {
    return { state: 'quarantined', driftClass, approvedDigests };
  }
  if (approvesItself(held, unapproved, drift, judge)) {
    const approved = [...new Set([...digests, ...approvedDigests])].slice(0, approvedDigestsMax);
    return { state: 'approved', driftClass: null, approvedDigests: approved };
  }
  return { state: isNew ? 'pending' : 'drifted', driftClass, approvedDigests };
}

/** What was never seen before. */
function unknown({ kind, name }: Pick<SeenDefinition, 'kind' | 'name'>): Held {
  return { kind, name, state: 'pending', approvedDigests: [], rejectedDigests: [], driftClass: null };
}

function keyOf(definition: Pick<SeenDefinition, 'kind' | 'name'>): string {
  return `${definition.kind} ${definition.name}`;
}

export function seenDefinitions(found: DiscoveryResult['definitions']): readonly SeenDefinition[] {
  const seen = new Map<string, { kind: DefinitionKind; name: string; digests: string[] }>();
  for (const { kind, name, digest } of found) {
    const entry = seen.get(keyOf({ kind, name })) ?? { kind, name, digests: [] };
    if (!entry.digests.includes(digest)) entry.digests.push(digest);
    seen.set(keyOf(entry), entry);
  }
  return [...seen.values()];
}

function sameDigests(left: readonly string[], right: readonly string[]): boolean {
  return left.length === right.length && left.every((digest, index) => digest === right[index]);
}

/**
 * What a discovery changes in the catalog. New definitions are `pending`: nothing is served unseen. What is severe by the
 * scan, and not approved, is `quarantined`, so that approving a server does not approve it along with the rest.
 */
export function planDefinitionChanges(
  held: readonly DefinitionRow[],
  seen: readonly SeenDefinition[],
  judge: Judge,
): DefinitionChanges {
  const heldByKey = new Map(held.map((row) => [keyOf(row), row]));
  const seenKeys = new Set(seen.map(keyOf));
  const changed = seen.flatMap((definition) => {
    const row = heldByKey.get(keyOf(definition));
    if (row === undefined) return [];
    const { digests } = definition;
    const earlier = row.discovered ? [] : row.digests;
    const reportedDigests = [...row.reportedDigests, ...earlier].filter(
      (digest) => !digests.includes(digest) && !row.approvedDigests.includes(digest),
    );
    const standing = standingOf(row, [...digests, ...reportedDigests], judge);
    const same =
      row.removedAt === null &&
      row.discovered &&
      row.state === standing.state &&
      row.driftClass === standing.driftClass &&
      sameDigests(row.digests, digests) &&
      sameDigests(row.reportedDigests, reportedDigests);
    return same ? [] : [{ row, digests, reportedDigests, ...standing }];
  });
  return {
    added: seen
      .filter((definition) => !heldByKey.has(keyOf(definition)))
      .map((definition) => ({ ...definition, ...standingOf(unknown(definition), definition.digests, judge) })),
    changed,
    removed: held.filter((row) => row.removedAt === null && row.discovered && !seenKeys.has(keyOf(row))),
  };
}

/** Further wordings of one definition that await a decision; more say nothing more. */
export const reportedDigestsMax = 8;

/**
 * What changes by what nodes saw in lists: a list may vary by who asks, so it adds to what discovery sees, and only a
 * person takes it away again.
 * @param held those that are seen
 * @param judged digests of which webhooks said something new: known ones are looked at again
 */
export function planSightings(
  held: readonly DefinitionRow[],
  seen: readonly SeenDefinition[],
  judge: Judge,
  judged: ReadonlySet<string> = new Set(),
): DefinitionChanges {
  const heldByKey = new Map(held.map((row) => [keyOf(row), row]));
  const changed = seen.flatMap(({ digests, ...definition }) => {
    const row = heldByKey.get(keyOf(definition));
    if (row === undefined) return [];
    const isBack = row.removedAt !== null;
    const known = [...row.digests, ...row.reportedDigests, ...row.approvedDigests];
    const fresh = digests.filter((digest) => !known.includes(digest));
    const room = Math.max(0, reportedDigestsMax - row.reportedDigests.length);
    const told = fresh.slice(0, room);
    const isJudged = digests.some((digest) => judged.has(digest));
    if (told.length === 0 && !isBack && !isJudged) return [];
    const reportedDigests = isBack ? [] : [...row.reportedDigests, ...told];
    const now = isBack ? digests.slice(0, reportedDigestsMax) : row.digests;
    const standing = standingOf(row, [...now, ...reportedDigests], judge);
    const isSame = row.state === standing.state && row.driftClass === standing.driftClass;
    return told.length === 0 && !isBack && isSame ? [] : [{ row, digests: now, reportedDigests, ...standing }];
  });
  const added = seen.flatMap((definition) => {
    if (heldByKey.has(keyOf(definition))) return [];
    const digests = definition.digests.slice(0, reportedDigestsMax);
    return [{ ...definition, digests, ...standingOf(unknown(definition), digests, judge) }];
  });
  return { added, changed, removed: [] };
}
