import type { DefinitionKind, DefinitionState, DiscoveryResult } from '@sallyport/schema';
import type { DefinitionRow } from './catalog.tables.ts';

/** A definition as the last discovery saw it, in all its wordings, that of the newest protocol revision first. */
export interface SeenDefinition {
  readonly kind: DefinitionKind;
  readonly name: string;
  readonly digests: readonly string[];
}

export interface DefinitionChanges {
  readonly added: readonly (SeenDefinition & { readonly state: DefinitionState })[];
  /** Rows whose digests, state or presence changed, with what they become. */
  readonly changed: readonly {
    readonly row: DefinitionRow;
    readonly digests: readonly string[];
    readonly reportedDigests: readonly string[];
    readonly state: DefinitionState;
  }[];
  readonly removed: readonly DefinitionRow[];
}

/**
 * The state of a definition that is served in these wordings. All of them must be approved, since which one a client
 * gets is the upstream's choice. Quarantine ends only by hand.
 */
export function stateOf(
  held: Pick<DefinitionRow, 'state' | 'approvedDigests'>,
  digests: readonly string[],
  severe: ReadonlySet<string>,
): DefinitionState {
  if (held.state === 'quarantined') return 'quarantined';
  const unapproved = digests.filter((digest) => !held.approvedDigests.includes(digest));
  if (unapproved.length === 0) return 'approved';
  if (unapproved.some((digest) => severe.has(digest))) return 'quarantined';
  return held.approvedDigests.length > 0 ? 'drifted' : 'pending';
}

/** What was never seen before. */
const unknown = { state: 'pending', approvedDigests: [] as string[] } as const;

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
 * @param severe digests of definitions with severe findings
 */
export function planDefinitionChanges(
  held: readonly DefinitionRow[],
  seen: readonly SeenDefinition[],
  severe: ReadonlySet<string>,
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
    const state = stateOf(row, [...digests, ...reportedDigests], severe);
    const same =
      row.removedAt === null &&
      row.discovered &&
      row.state === state &&
      sameDigests(row.digests, digests) &&
      sameDigests(row.reportedDigests, reportedDigests);
    return same ? [] : [{ row, digests, reportedDigests, state }];
  });
  return {
    added: seen
      .filter((definition) => !heldByKey.has(keyOf(definition)))
      .map((definition) => ({ ...definition, state: stateOf(unknown, definition.digests, severe) })),
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
 */
export function planSightings(
  held: readonly DefinitionRow[],
  seen: readonly SeenDefinition[],
  severe: ReadonlySet<string>,
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
    if (told.length === 0 && !isBack) return [];
    const reportedDigests = isBack ? [] : [...row.reportedDigests, ...told];
    const now = isBack ? digests.slice(0, reportedDigestsMax) : row.digests;
    return [{ row, digests: now, reportedDigests, state: stateOf(row, [...now, ...reportedDigests], severe) }];
  });
  const added = seen.flatMap((definition) => {
    if (heldByKey.has(keyOf(definition))) return [];
    const digests = definition.digests.slice(0, reportedDigestsMax);
    return [{ ...definition, digests, state: stateOf(unknown, digests, severe) }];
  });
  return { added, changed, removed: [] };
}
