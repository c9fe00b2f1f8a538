import {
  canonicalJson,
  type ConfigDocument,
  defaultLimits,
  documentSchema,
  type EncodedDocument,
  encodeDocument,
  grantDefaults,
  type GrantEntry,
  grantProblems,
  type GrantSubject,
  type LabelSelector,
  type PrincipalRecord,
  principalShard,
  type ServerDocument,
  type ToolAnnotation,
  type ToolLabels,
  type StepUp,
} from '@sallyport/schema';
import type { GrantRow } from '../access/access.tables.ts';
import { grantEntry, subjectOf, termsOf } from '../access/grant-entry.ts';
import type { DefinitionRow, ServerRow } from '../catalog/catalog.tables.ts';
import { publishedLimits } from '../identity/api-key-form.ts';
import type { ApiKeyRow, PrincipalRow } from '../identity/identity.tables.ts';
import type { PolicyRow, WebhookRow } from '../inspection/inspection.tables.ts';
import { compilePolicyRow } from '../inspection/policy-entry.ts';
import { compileWebhookRow, type OpenSigningKey } from '../inspection/webhook-entry.ts';
import type { RevokedFamilyRow } from '../oauth/oauth.tables.ts';
import type { OAuthSigningKeyRow, SealingKeyRow } from './fleet.tables.ts';
import { headersOf, schemasOf, secretsOf } from './published-schemas.ts';

/**
 * What `readConfiguration` reads in one transaction: nothing deleted, ended, revoked or not served. May be a part of
 * the whole, as long as each server comes with all its definitions and grants, each principal with all its shard.
 */
export interface ConfigurationRows {
  readonly servers: readonly ServerRow[];
  readonly definitions: readonly PublishedDefinitionRow[];
  /** The definitions, as their servers sent them, that speak of headers for their parameters. */
  readonly headerBodies: readonly HeaderBodyRow[];
  /** Some webhook may change arguments: `headerBodies` then holds all definitions, whose schemas are published too. */
  readonly argumentsMayChange?: boolean;
  /** Some policy in force captures: `headerBodies` then holds all definitions, and which members are secret is published. */
  readonly captures?: boolean;
  readonly grants: readonly GrantRow[];
  /** The grants on labels and the names of groups; undefined where they are not compiled. */
  readonly access: AccessRows | undefined;
  /** Every principal and group that the grants name, where it exists. */
  readonly subjects: readonly Pick<PrincipalRow, 'id' | 'kind'>[];
  readonly groups: readonly { readonly id: string }[];
  readonly principals: readonly PrincipalRow[];
  readonly groupMembers: readonly { readonly groupId: string; readonly principalId: string }[];
  readonly apiKeys: readonly ApiKeyRow[];
  /** Of the shards of the principals; nodes are told no longer than a token of the family may live. */
  readonly revokedFamilies: readonly Pick<RevokedFamilyRow, 'family' | 'principalId'>[];
}

/** What `readFleet` reads in the same transaction: of the fleet as a whole. */
export interface FleetRows {
  /** The `limits` setting: what differs from the defaults; null where nothing does. */
  readonly limits: unknown;
  readonly sealingKeys: readonly SealingKeyRow[];
  /** What payloads are sealed to; undefined where none is there, or no policy in force captures. */
  readonly payloadKey: { readonly id: string; readonly publicKey: string } | undefined;
  /** Those that are off too. */
  readonly webhooks: readonly WebhookRow[];
  /** Where the planes are reached by clients; undefined where there is no authorization server. */
  readonly publicUrls: PublicUrls | undefined;
  readonly signingKeys: readonly OAuthSigningKeyRow[];
  readonly stepUp: readonly StepUp[];
}

/** Public URLs without a slash at the end, as the environment says. */
export interface PublicUrls {
  /** Of the control plane: the issuer of access tokens. */
  readonly issuer: string;
  /** Of the nodes: what access tokens are for lies under it. */
  readonly nodesUrl: string;
}

/** What is published of a definition. */
export type PublishedDefinitionRow = Pick<
  DefinitionRow,
  'serverId' | 'kind' | 'name' | 'state' | 'approvedDigests' | ToolAnnotation | 'risk'
>;

/** Canonical JSON of a definition. */
export interface HeaderBodyRow {
  readonly serverId: string;
  readonly digest: string;
  readonly raw: string;
}

export interface AccessRows {
  readonly labelGrants: readonly GrantRow[];
  /** Every group there is. */
  readonly groups: readonly { readonly id: string; readonly name: string }[];
  /** In the order in which they decide, those that are off too. */
  readonly policies: readonly PolicyRow[];
}

/** An object that cannot be published as it stands. */
export interface ObjectProblem {
  readonly objectKind:
    | 'server'
    | 'grant'
    | 'principal'
    | 'policy'
    | 'webhook'
    | 'limits'
    | 'keys'
    | 'oauth'
    | 'payloadKey';
  readonly objectId: string;
  /** Path into the object; empty for the object as a whole. */
  readonly path: string;
  readonly message: string;
}

/** Documents that come from the same rows: they are compiled again together or not at all. */
export interface CompiledUnit {
  readonly documents: readonly EncodedDocument[];
  readonly problems: readonly ObjectProblem[];
}

/** Names of units. */
export const fleetUnit = 'fleet';
export const accessUnit = 'access';
export function serverUnit(serverId: string): string {
  return `server/${serverId}`;
}
export function shardUnit(shard: number): string {
  return `principals/${shard}`;
}

/**
 * Compiles rows to documents, by unit. Pure: equal rows give equal bytes, whatever their order.
 *
 * An object that is inconsistent or does not fit its document is left out and named in `problems`. Leaving out only
 * ever narrows access, so that one broken object neither opens anything nor keeps a revocation from the fleet: a server
 * goes with its grants, an allow goes alone, a deny or a need of approval takes the server it protects with it.
 */
export function compileSnapshot(rows: ConfigurationRows): ReadonlyMap<string, CompiledUnit> {
  const units = new Map<string, CompiledUnit>();
  const definitionsOf = Map.groupBy(rows.definitions, (definition) => definition.serverId);
  const bodiesOf = Map.groupBy(rows.headerBodies, (body) => body.serverId);
  const grantsOf = Map.groupBy(rows.grants, (grant) => grant.serverId ?? '');
  const subjects: Subjects = {
    groupIds: new Set(rows.groups.map((group) => group.id)),
    principalKinds: new Map(rows.subjects.map((principal) => [principal.id, principal.kind])),
  };
  for (const row of rows.servers) {
    const parts = {
      definitions: definitionsOf.get(row.id) ?? [],
      bodies: bodiesOf.get(row.id) ?? [],
      withSchemas: rows.argumentsMayChange === true,
      withSecrets: rows.captures === true,
    };
    units.set(serverUnit(row.id), compileServer(row, parts, grantsOf.get(row.id) ?? [], subjects));
  }
  const groupsOf = Map.groupBy(rows.groupMembers, (member) => member.principalId);
  const keysOf = Map.groupBy(rows.apiKeys, (key) => key.principalId);
  const revokedOf = Map.groupBy(rows.revokedFamilies, (revoked) => revoked.principalId);
  const of: PrincipalParts = { groupsOf, keysOf, revokedOf };
  for (const [shard, principals] of Map.groupBy(rows.principals, (principal) => principalShard(principal.id))) {
    units.set(shardUnit(shard), compileShard(shard, principals, of));
  }
  if (rows.access !== undefined) units.set(accessUnit, compileAccess(rows.access, subjects));
  return units;
}

/** What belongs to one server. */
interface ServerParts {
  readonly definitions: readonly PublishedDefinitionRow[];
  readonly bodies: readonly HeaderBodyRow[];
  readonly withSchemas: boolean;
  readonly withSecrets: boolean;
}

function compileServer(
  row: ServerRow,
  parts: ServerParts,
  rows: readonly GrantRow[],
  subjects: Subjects,
): CompiledUnit {
  const problems: ObjectProblem[] = [];
  const grants = compileGrants(row.id, rows, subjects, problems);
  const server = checked(serverDocument(row, parts), 'server', row.id, problems);
  if (grants === undefined || server === undefined) return { documents: [], problems };
  const documents = [encodeDocument(server)];
  if (grants.length > 0) documents.push(encodeDocument({ kind: 'grants', serverId: row.id, grants }));
  return { documents, problems };
}

/**
 * Grants on labels, by selector, and the names of groups. What protects and cannot be published as it stands denies all
 * it could be about: which servers to withhold instead is for nodes to find, not here.
 */
function compileAccess({ labelGrants, groups, policies }: AccessRows, subjects: Subjects): CompiledUnit {
  const problems: ObjectProblem[] = [];
  const bySelector = new Map<string, { selector: LabelSelector; grants: GrantEntry[] }>();
  for (const row of labelGrants) {
    const subject = subjectOf(row);
    if (subject !== undefined && !subjectExists(subject, subjects)) continue;
    const found = problemsOf(row, subject, subjects);
    problems.push(...found);
    const entry = subject !== undefined && found.length === 0 ? grantEntry(row, subject) : denyingAll(row, subject);
    if (entry === undefined || row.serverLabels === null) continue;
    const of = canonicalJson(row.serverLabels);
    const compiled = bySelector.get(of) ?? { selector: row.serverLabels, grants: [] };
    compiled.grants.push(entry);
    bySelector.set(of, compiled);
  }
  const documents = [...bySelector.values()].flatMap(({ selector, grants }) => {
    const document = { kind: 'labelGrants', selector, grants: grants.sort((a, b) => compare(a.id, b.id)) };
    return checked(document, 'grant', grants[0]?.id ?? '', problems) ?? [];
  });
  const named = groups.map(({ id, name }) => ({ id, name })).sort((a, b) => compare(a.id, b.id));
  const inspected = compilePolicies(policies, problems);
  const encoded = [...documents, ...inspected, { kind: 'groups' as const, groups: named }].map(encodeDocument);
  return { documents: encoded, problems };
}

/** What is inspected; one that cannot be published as it stands lets nothing through of what it is about. */
function compilePolicies(rows: readonly PolicyRow[], problems: ObjectProblem[]): ConfigDocument[] {
  const policies = rows.flatMap((row) => {
    const compiled = compilePolicyRow(row);
    if (compiled === undefined) return [];
    for (const problem of compiled.problems) problems.push({ objectKind: 'policy', objectId: row.id, ...problem });
    return [compiled.entry];
  });
  return policies.length === 0 ? [] : [{ kind: 'policies', policies }];
}

/** Whether access would be wider without the grant. */
function protects({ effect, mode }: GrantRow): boolean {
  return effect !== 'allow' && mode === 'enforce';
}

function denyingAll(row: GrantRow, subject: GrantSubject | undefined): GrantEntry | undefined {
  if (!protects(row)) return undefined;
  const everything = { tools: ['*'], prompts: ['*'], resources: ['*'] };
  return { ...grantDefaults, ...everything, id: row.id, effect: 'deny', subject: subject ?? { kind: 'everyone' } };
}

/**
 * The unit of the fleet as a whole, likewise.
 * @param openSecret the base64 secret of a sealing key, or undefined where it does not open
 */
export function compileFleet(
  rows: FleetRows,
  openSecret: (row: SealingKeyRow) => string | undefined,
  openSigningKey: OpenSigningKey,
): CompiledUnit {
  const problems: ObjectProblem[] = [];
  const limits = { ...defaultLimits, ...(typeof rows.limits === 'object' ? rows.limits : { limits: rows.limits }) };
  const keys = compileKeys(rows.sealingKeys, openSecret, problems);
  const documents = [
    checked(limits, 'limits', 'limits', problems),
    checked(keys, 'keys', 'keys', problems),
    checked(oauthDocument(rows), 'oauth', 'oauth', problems),
    compileWebhooks(rows.webhooks, openSigningKey, problems),
    checked(payloadKeyDocument(rows), 'payloadKey', 'payloadKey', problems),
  ];
  return { documents: documents.flatMap((one) => (one === undefined ? [] : [encodeDocument(one)])), problems };
}

/** One that cannot be published is left out: policies that name it let nothing through then. */
function compileWebhooks(
  rows: readonly WebhookRow[],
  openSigningKey: OpenSigningKey,
  problems: ObjectProblem[],
): ConfigDocument | undefined {
  const webhooks = rows.flatMap((row) => {
    const compiled = compileWebhookRow(row, openSigningKey);
    for (const problem of compiled.problems) problems.push({ objectKind: 'webhook', objectId: row.id, ...problem });
    return compiled.entry ?? [];
  });
  return webhooks.length === 0
    ? undefined
    : { kind: 'webhooks', webhooks: webhooks.sort((a, b) => compare(a.id, b.id)) };
}

function payloadKeyDocument({ payloadKey }: FleetRows): unknown {
  if (payloadKey === undefined) return undefined;
  return { kind: 'payloadKey', id: payloadKey.id, publicKey: payloadKey.publicKey };
}

function oauthDocument({ publicUrls, signingKeys, stepUp }: FleetRows): unknown {
  if (publicUrls === undefined) return undefined;
  const keys = signingKeys.map(({ id, x, y }) => ({ kid: id, x, y })).sort((a, b) => compare(a.kid, b.kid));
  return {
    kind: 'oauth',
    issuer: publicUrls.issuer,
    nodesUrl: publicUrls.nodesUrl,
    keys,
    ...(stepUp.length === 0 ? {} : { stepUp }),
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

function serverDocument(row: ServerRow, { definitions, bodies, withSchemas, withSecrets }: ServerParts): unknown {
  const bodyByDigest = new Map(bodies.map(({ digest, raw }) => [digest, JSON.parse(raw) as unknown]));
  return {
    kind: 'server',
    id: row.id,
    slug: row.slug,
    // The query reads no other lifecycle; anything else fails the document's schema.
    lifecycle: row.lifecycle as ServerDocument['lifecycle'],
    url: row.url,
    protocolRevisions: row.protocolRevisions,
    transport: row.transport,
    extensions: row.extensions.toSorted(),
    labels: row.labels,
    definitions: definitions
      .map((definition) => ({
        kind: definition.kind,
        name: definition.name,
        state: definition.state,
        approvedDigests: definition.approvedDigests.toSorted(),
        labels: toolLabelsOf(definition),
        ...headersOf(definition, bodyByDigest),
        ...(withSchemas ? schemasOf(definition, bodyByDigest) : {}),
        ...(withSecrets ? secretsOf(definition, bodyByDigest) : {}),
      }))
      .sort((a, b) => compare(`${a.kind}\n${a.name}`, `${b.kind}\n${b.name}`)),
    auditMode: row.auditMode,
    configStalenessMaxMs: row.configStalenessMaxMs,
    ...(row.credentialMode === 'none'
      ? {}
      : { credential: { mode: row.credentialMode, revision: row.credentialRevision } }),
    asks: row.asks ?? undefined,
  };
}

/** What an administrator said of a definition; null where nothing. */
export function toolLabelsOf(row: ToolLabels): ToolLabels | null {
  const { risk, readOnly, destructive, idempotent, openWorld } = row;
  const labels = { risk, readOnly, destructive, idempotent, openWorld };
  return Object.values(labels).every((label) => label === null) ? null : labels;
}

/** Who exists to be granted anything. */
interface Subjects {
  readonly groupIds: ReadonlySet<string>;
  readonly principalKinds: ReadonlyMap<string, PrincipalRow['kind']>;
}

/** The grants of one server; undefined where one that protects it cannot be published, so that it must not be either. */
function compileGrants(
  serverId: string,
  rows: readonly GrantRow[],
  subjects: Subjects,
  problems: ObjectProblem[],
): GrantEntry[] | undefined {
  const entries: GrantEntry[] = [];
  let withheld = false;
  for (const row of rows) {
    const subject = subjectOf(row);
    // A grant for a subject that is gone can match nobody.
    if (subject !== undefined && !subjectExists(subject, subjects)) continue;
    const found = problemsOf(row, subject, subjects);
    if (subject !== undefined && found.length === 0) {
      entries.push(grantEntry(row, subject));
      continue;
    }
    problems.push(...found);
    if (!protects(row)) continue;
    withheld = true;
    const message = `is withheld, since grant ${row.id}, which protects it, cannot be published`;
    problems.push({ objectKind: 'server', objectId: serverId, path: `grants/${row.id}`, message });
  }
  return withheld ? undefined : entries.sort((a, b) => compare(a.id, b.id));
}

function subjectExists(subject: GrantSubject, subjects: Subjects): boolean {
  if (subject.kind === 'everyone') return true;
  return subject.kind === 'group' ? subjects.groupIds.has(subject.id) : subjects.principalKinds.has(subject.id);
}

function problemsOf(row: GrantRow, subject: GrantSubject | undefined, subjects: Subjects): ObjectProblem[] {
  const problem = (path: string, message: string): ObjectProblem => ({
    objectKind: 'grant',
    objectId: row.id,
    path,
    message,
  });
  const found: ObjectProblem[] = [];
  if (subject === undefined) found.push(problem('subject', 'names nobody'));
  if (subject?.kind === 'user' || subject?.kind === 'serviceAccount') {
    if (subjects.principalKinds.get(subject.id) !== subject.kind)
      found.push(problem('subject', `is not a ${subject.kind}`));
  }
  found.push(...grantProblems(termsOf(row)).map(({ path, message }) => problem(path, message)));
  if (subject === undefined) return found;
  const alone = { kind: 'grants', serverId: row.id, grants: [grantEntry(row, subject)] };
  for (const { path, message } of documentSchema.safeParse(alone).error?.issues ?? []) {
    // Without `grants.0`.
    found.push(problem(path.slice(2).join('.'), message));
  }
  return found;
}

/** What belongs to principals, by their ids. */
interface PrincipalParts {
  readonly groupsOf: ReadonlyMap<string, ConfigurationRows['groupMembers']>;
  readonly keysOf: ReadonlyMap<string, readonly ApiKeyRow[]>;
  readonly revokedOf: ReadonlyMap<string, ConfigurationRows['revokedFamilies']>;
}

function compileShard(shard: number, rows: readonly PrincipalRow[], of: PrincipalParts): CompiledUnit {
  const problems: ObjectProblem[] = [];
  const principals: PrincipalRecord[] = [];
  for (const row of rows) {
    const record = principalRecord(row, of);
    const alone = { kind: 'principals', shard, principals: [record] };
    if (checked(alone, 'principal', row.id, problems) !== undefined) principals.push(record);
  }
  if (principals.length === 0) return { documents: [], problems };
  principals.sort((a, b) => compare(a.id, b.id));
  return { documents: [encodeDocument({ kind: 'principals', shard, principals })], problems };
}

function principalRecord(row: PrincipalRow, { groupsOf, keysOf, revokedOf }: PrincipalParts): PrincipalRecord {
  const keys = keysOf.get(row.id) ?? [];
  return {
    id: row.id,
    kind: row.kind,
    name: row.name,
    status: row.status,
    groups: (groupsOf.get(row.id) ?? []).map((member) => member.groupId).sort(),
    epoch: row.epoch,
    expiresAt: row.expiresAt?.getTime() ?? null,
    revokedFamilies: (revokedOf.get(row.id) ?? []).map(({ family }) => family).sort(),
    keys: keys
      .map((key) => ({
        id: key.id,
        hash: key.hash,
        scopes: key.scopes.toSorted(),
        expiresAt: key.expiresAt.getTime(),
        ...publishedLimits(key),
      }))
      .sort((a, b) => compare(a.id, b.id)),
  };
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
