import { type DefinitionFinding, isSevere, suggestRisk, type ToolRisk } from '@sallyport/schema';
import { and, eq, inArray } from 'drizzle-orm';
import type { Reader } from '../database/client.ts';
import type { StandingOf } from '../inspection/definition-hooks.service.ts';
import { type DefinitionRow, definitionBodies, type ServerRow } from './catalog.tables.ts';
import type { Judge, SeenDefinition } from './definition-changes.ts';
import { driftFrom, type Wording } from './drift-class.ts';
import { isServed } from './lifecycle.ts';

/** A wording that was just seen, with what the scan saw in it. */
export type SeenWordings = ReadonlyMap<string, Wording>;

const risky: ReadonlySet<ToolRisk | null> = new Set(['high', 'critical']);
const digestsPerQuery = 1_000;

/** The wordings of these digests, as they are stored. */
export async function readWordings(
  reader: Reader,
  serverId: string,
  digests: readonly string[],
): Promise<ReadonlyMap<string, Wording>> {
  const wordings = new Map<string, Wording>();
  for (let from = 0; from < digests.length; from += digestsPerQuery) {
    const rows = await reader
      .select({ digest: definitionBodies.digest, raw: definitionBodies.raw, findings: definitionBodies.findings })
      .from(definitionBodies)
      .where(
        and(
          eq(definitionBodies.serverId, serverId),
          inArray(definitionBodies.digest, digests.slice(from, from + digestsPerQuery)),
        ),
      );
    for (const { digest, raw, findings } of rows) {
      wordings.set(digest, { raw: JSON.parse(raw) as Wording['raw'], findings: findings ?? [] });
    }
  }
  return wordings;
}

/** Digests whose wordings have to be compared: what is approved and what is not, of each definition that drifted. */
function compared(held: readonly DefinitionRow[], seen: readonly SeenDefinition[]): string[] {
  const seenDigests = new Map(seen.map(({ kind, name, digests }) => [`${kind} ${name}`, digests]));
  return held.flatMap((row) => {
    const all = [...(seenDigests.get(`${row.kind} ${row.name}`) ?? []), ...row.digests, ...row.reportedDigests];
    const isDrifted = row.approvedDigests.length > 0 && all.some((digest) => !row.approvedDigests.includes(digest));
    return isDrifted ? [...row.approvedDigests, ...all] : [];
  });
}

/**
 * What is known of the wordings at hand, for the state that follows from them. What cannot be compared, since it is not
 * kept, counts as the worst.
 * @param scanned every wording of the server that was scanned
 */
export async function judgeOf(
  reader: Reader,
  server: ServerRow,
  held: readonly DefinitionRow[],
  {
    seen,
    fresh,
    scanned,
    standing,
  }: {
    readonly seen: readonly SeenDefinition[];
    readonly fresh: SeenWordings;
    readonly scanned: ReadonlyMap<string, { readonly findings: readonly DefinitionFinding[] }>;
    readonly standing: StandingOf;
  },
): Promise<Judge> {
  const unknown = [...new Set(compared(held, seen))].filter((digest) => !fresh.has(digest));
  const stored = await readWordings(reader, server.id, unknown);
  const wordingOf = (digest: string): Wording | undefined => fresh.get(digest) ?? stored.get(digest);
  return {
    isSevere: (digest) => isSevere(scanned.get(digest)?.findings ?? wordingOf(digest)?.findings ?? []),
    driftOf: ({ kind, approvedDigests }, digest) => {
      const wording = wordingOf(digest);
      const approved = approvedDigests.flatMap((each) => wordingOf(each) ?? []);
      return (wording === undefined ? undefined : driftFrom(kind, approved, wording)?.class) ?? 'quarantine';
    },
    isRisky: ({ kind }, digest) => {
      const wording = wordingOf(digest);
      return wording === undefined || risky.has(suggestRisk(kind, wording.raw));
    },
    webhooksOn: ({ kind, name }, digest) => standing({ kind, name, digest }).state,
    autoApproval: isServed(server.lifecycle) ? server.autoApproval : 'none',
  };
}
