import {
  type ConfigDocument,
  defaultLimits,
  documentSchema,
  type EncodedDocument,
  encodeDocument,
  globProblem,
  type GrantEntry,
  type GrantSubject,
  type PrincipalRecord,
  principalShard,
  type ServerDocument,
} from '@sallyport/schema';
import type { GrantRow } from '../access/access.tables.ts';
import type { DefinitionRow, ServerRow } from '../catalog/catalog.tables.ts';
import type { ApiKeyRow, PrincipalRow } from '../identity/identity.tables.ts';
import type { SealingKeyRow } from './fleet.tables.ts';

/** What `readConfiguration` reads in one transaction: nothing deleted, ended, revoked or not served. */
export interface ConfigurationRows {
  readonly generation: number;
  readonly servers: readonly ServerRow[];
  readonly definitions: readonly Pick<DefinitionRow, 'serverId' | 'kind' | 'name' | 'state' | 'approvedDigests'>[];
  readonly grants: readonly GrantRow[];
  readonly principals: readonly PrincipalRow[];
  readonly groups: readonly { readonly id: string }[];
  readonly groupMembers: readonly { readonly groupId: string; readonly principalId: string }[];
  readonly apiKeys: readonly ApiKeyRow[];
  /** The `limits` setting: what differs from the defaults; null where nothing does. */
  readonly limits: unknown;
  readonly sealingKeys: readonly SealingKeyRow[];
}

/** An object that cannot be published as it stands. */
export interface ObjectProblem {
  readonly objectKind: 'server' | 'grant' | 'principal' | 'limits' | 'keys';
  readonly objectId: string;
  /** Path into the object; empty for the object as a whole. */
  readonly path: string;
  readonly message: string;
}

export interface CompiledSnapshot {
  readonly documents: readonly EncodedDocument[];
  readonly problems: readonly ObjectProblem[];
}

/**
 * Compiles rows to documents. Pure: equal rows give equal bytes, whatever their order.
 *
 * An object that is inconsistent or does not fit its document is left out and named in `problems`. Leaving out only
 * ever narrows access, so that one broken object neither opens anything nor keeps a revocation from the fleet: a server
 * goes with its grants, an allow goes alone, a deny takes the server it protects with it.
 * @param openSecret the base64 secret of a sealing key, or undefined where it does not open
 */
export function compileSnapshot(
  rows: ConfigurationRows,
  openSecret: (row: SealingKeyRow) => string | undefined,
): CompiledSnapshot {
  const problems: ObjectProblem[] = [];
  const documents: ConfigDocument[] = [];
  const withheld = new Set<string>();
  const grantsOf = compileGrants(rows, problems, withheld);
  const definitionsOf = Map.groupBy(rows.definitions, (definition) => definition.serverId);
  for (const row of rows.servers) {
    if (withheld.has(row.id)) continue;
    const server = checked(serverDocument(row, definitionsOf.get(row.id) ?? []), 'server', row.id, problems);
    if (server === undefined) continue;
    documents.push(server);
    const grants = grantsOf.get(row.id);
    if (grants !== undefined) documents.push({ kind: 'grants', serverId: row.id, grants });
  }
  documents.push(...compilePrincipals(rows, problems));
  const limits = { ...defaultLimits, ...(typeof rows.limits === 'object' ? rows.limits : { limits: rows.limits }) };
  const keys = compileKeys(rows.sealingKeys, openSecret, problems);
  for (const document of [checked(limits, 'limits', 'limits', problems), checked(keys, 'keys', 'keys', problems)]) {
    if (document !== undefined) documents.push(document);
  }
  return {
    documents: documents.map(encodeDocument).sort((a, b) => (a.key < b.key ? -1 : 1)),
    problems,
  };
}

/** The candidate as a document, or undefined with every reason why it is none. */
function checked(
  candidate: unknown,
  objectKind: ObjectProblem['objectKind'],
  objectId: string,
  problems: ObjectProblem[],
): ConfigDocument | undefined {
  if (candidate === undefined) return undefined;
  const parsed = documentSchema.safeParse(candidate);
  if (parsed.success) return parsed.data;
  for (const issue of parsed.error.issues) {
    problems.push({ objectKind, objectId, path: issue.path.join('.'), message: issue.message });
  }
  return undefined;
}

function serverDocument(row: ServerRow, definitions: ConfigurationRows['definitions']): unknown {
  return {
    kind: 'server',
    id: row.id,
    slug: row.slug,
    // The query reads no other lifecycle; anything else fails the document's schema.
    lifecycle: row.lifecycle as ServerDocument['lifecycle'],
    url: row.url,
    protocolRevisions: row.protocolRevisions,
    labels: row.labels,
    definitions: definitions
      .map(({ kind, name, state, approvedDigests }) => ({
        kind,
        name,
        state,
        approvedDigests: approvedDigests.toSorted(),
      }))
      .sort((a, b) => compare(`${a.kind}\n${a.name}`, `${b.kind}\n${b.name}`)),
    auditMode: row.auditMode,
    configStalenessMaxMs: row.configStalenessMaxMs,
  };
}

/** Grants by server. A deny that cannot be published puts its server into `withheld`. */
function compileGrants(
  rows: ConfigurationRows,
  problems: ObjectProblem[],
  withheld: Set<string>,
): ReadonlyMap<string, GrantEntry[]> {
  const serverIds = new Set(rows.servers.map((server) => server.id));
  const groupIds = new Set(rows.groups.map((group) => group.id));
  const principalKinds = new Map(rows.principals.map((principal) => [principal.id, principal.kind]));
  const result = new Map<string, GrantEntry[]>();
  for (const row of rows.grants) {
    // A grant for a server that is not served waits for it; a grant for a subject that is gone can match nobody.
    if (!serverIds.has(row.serverId)) continue;
    const subject = subjectOf(row);
    if (subject !== undefined && !subjectExists(subject, groupIds, principalKinds)) continue;
    const found = grantProblems(row, subject, principalKinds);
    if (subject === undefined || found.length > 0) {
      problems.push(...found);
      if (row.effect === 'deny') {
        withheld.add(row.serverId);
        const message = `is withheld, since its deny grant ${row.id} cannot be published`;
        problems.push({ objectKind: 'server', objectId: row.serverId, path: '', message });
      }
      continue;
    }
    const entries = result.get(row.serverId) ?? [];
    entries.push(grantEntry(row, subject));
    result.set(row.serverId, entries);
  }
  for (const entries of result.values()) entries.sort((a, b) => compare(a.id, b.id));
  return result;
}

function subjectOf(row: GrantRow): GrantSubject | undefined {
  switch (row.subjectKind) {
    case 'everyone':
      return { kind: 'everyone' };
    case 'group':
      return row.subjectGroupId === null ? undefined : { kind: 'group', id: row.subjectGroupId };
    case 'user':
    case 'serviceAccount':
      return row.subjectPrincipalId === null ? undefined : { kind: row.subjectKind, id: row.subjectPrincipalId };
    default:
      return row.subjectKind satisfies never;
  }
}

function subjectExists(
  subject: GrantSubject,
  groupIds: ReadonlySet<string>,
  principalKinds: ReadonlyMap<string, PrincipalRow['kind']>,
): boolean {
  if (subject.kind === 'everyone') return true;
  return subject.kind === 'group' ? groupIds.has(subject.id) : principalKinds.has(subject.id);
}

function grantProblems(
  row: GrantRow,
  subject: GrantSubject | undefined,
  principalKinds: ReadonlyMap<string, PrincipalRow['kind']>,
): ObjectProblem[] {
  const problem = (path: string, message: string): ObjectProblem => ({
    objectKind: 'grant',
    objectId: row.id,
    path,
    message,
  });
  const found: ObjectProblem[] = [];
  if (subject === undefined) found.push(problem('subject', 'names nobody'));
  if (subject?.kind === 'user' || subject?.kind === 'serviceAccount') {
    if (principalKinds.get(subject.id) !== subject.kind) found.push(problem('subject', `is not a ${subject.kind}`));
  }
  for (const selector of ['tools', 'prompts', 'resources'] as const) {
    row[selector].forEach((pattern, index) => {
      const message = globProblem(pattern);
      if (message !== undefined) found.push(problem(`${selector}.${index}`, message));
    });
  }
  return found;
}

function grantEntry(row: GrantRow, subject: GrantSubject): GrantEntry {
  return {
    id: row.id,
    subject,
    effect: row.effect,
    tools: row.tools.toSorted(),
    prompts: row.prompts.toSorted(),
    resources: row.resources.toSorted(),
    notBefore: row.notBefore?.getTime() ?? null,
    notAfter: row.notAfter?.getTime() ?? null,
  };
}

function compilePrincipals(rows: ConfigurationRows, problems: ObjectProblem[]): ConfigDocument[] {
  const groupsOf = Map.groupBy(rows.groupMembers, (member) => member.principalId);
  const keysOf = Map.groupBy(rows.apiKeys, (key) => key.principalId);
  const shards = new Map<number, PrincipalRecord[]>();
  for (const row of rows.principals) {
    const record: PrincipalRecord = {
      id: row.id,
      kind: row.kind,
      name: row.name,
      status: row.status,
      groups: (groupsOf.get(row.id) ?? []).map((member) => member.groupId).sort(),
      epoch: row.epoch,
      expiresAt: row.expiresAt?.getTime() ?? null,
      keys: (keysOf.get(row.id) ?? [])
        .map((key) => ({
          id: key.id,
          hash: key.hash,
          scopes: key.scopes.toSorted(),
          expiresAt: key.expiresAt.getTime(),
        }))
        .sort((a, b) => compare(a.id, b.id)),
    };
    const shard = principalShard(row.id);
    const document = { kind: 'principals', shard, principals: [record] };
    if (checked(document, 'principal', row.id, problems) === undefined) continue;
    const records = shards.get(shard) ?? [];
    records.push(record);
    shards.set(shard, records);
  }
  return [...shards].map(([shard, principals]) => ({
    kind: 'principals',
    shard,
    principals: principals.sort((a, b) => compare(a.id, b.id)),
  }));
}

function compileKeys(
  rows: readonly SealingKeyRow[],
  openSecret: (row: SealingKeyRow) => string | undefined,
  problems: ObjectProblem[],
): unknown {
  const sealing = [];
  for (const row of rows.toSorted((a, b) => compare(a.id, b.id))) {
    const secret = openSecret(row);
    if (secret === undefined) {
      const message = `sealing key ${row.id} does not open with this SALLYPORT_SECRET_KEY`;
      problems.push({ objectKind: 'keys', objectId: 'keys', path: row.id, message });
      return undefined;
    }
    sealing.push({ id: row.id, secret, use: row.use });
  }
  if (sealing.filter((key) => key.use === 'seal').length !== 1) {
    problems.push({ objectKind: 'keys', objectId: 'keys', path: '', message: 'not exactly one key seals' });
    return undefined;
  }
  return { kind: 'keys', sealing };
}

function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** Keys of the documents every node needs to run at all; one that cannot be compiled stays as it was published last. */
export const indispensableKeys = ['limits', 'keys'] as const;
