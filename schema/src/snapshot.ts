/**
 * The configuration as nodes receive it: content-addressed documents and the manifest that names them.
 * Parsing is strict: a field or kind a node does not know is a NACK, never skipped.
 */
import { z } from 'zod';
import { canonicalJson, sha256 } from './canonical-json.ts';
import { serverCredentialSchema } from './credential.ts';
import { parseCidr } from './ip-address.ts';
import { policiesDocumentSchema } from './inspection/policy.ts';
import { upstreamAsksSchema } from './inspection/upstream-asks.ts';
import { webhooksDocumentSchema } from './inspection/webhook.ts';
import { oauthDocumentSchema } from './oauth.ts';
import { payloadKeyDocumentSchema } from './payload.ts';
import { paramHeaderName, paramHeadersMax, paramHeaderTypes } from './param-headers.ts';

/** The format of the documents this build writes. A node that cannot read it is told so at hello. */
export const snapshotFormat = 12;
/**
 * What a node of this build reads: 11 does not say what a server may be said to be, 10 has no views, no webhooks that invoke interceptors and captures nothing, 9 no
 * webhooks, 8 no policies and nothing that servers may ask of clients, 7 knows
 * no credentials of servers, 6 pins no instructions, 5 has no headers of parameters, 4 no limits of keys, and nothing else differs.
 */
export const snapshotFormatsRead: readonly number[] = [snapshotFormat, 11, 10, 9, 8, 7, 6, 5, 4];

/** Principals are spread over this many documents, so that one changed principal resends a small part. */
export const principalShardCount = 256;

const id = z.string().min(1).max(128);
const instantMs = z.number().int().nonnegative();

/** What comes in lists, and may be granted. */
export const listedKinds = ['tool', 'prompt', 'resource', 'resourceTemplate'] as const;
export type ListedKind = (typeof listedKinds)[number];
/**
 * `instructions`: what a server says to models of itself when it is greeted; there is one of them at most. `view`: a page of
 * MCP Apps, as it is read. `serverInfo`: what a server says that it is, where that is more than a name and a version.
 */
export const definitionKinds = [...listedKinds, 'instructions', 'view', 'serverInfo'] as const;
export type DefinitionKind = (typeof definitionKinds)[number];
export const definitionStates = ['approved', 'pending', 'drifted', 'quarantined'] as const;
export type DefinitionState = (typeof definitionStates)[number];

/** How much harm a tool can do, in the judgement of an administrator; in ascending order. */
export const toolRisks = ['low', 'medium', 'high', 'critical'] as const;
export type ToolRisk = (typeof toolRisks)[number];

/** What an administrator says of a tool; what its server says (`annotations` of a tool) decides nothing. */
const toolLabels = z.strictObject({
  /** Null where nobody has judged it: limits of grants then take the worse for true. */
  risk: z.enum(toolRisks).nullable(),
  readOnly: z.boolean().nullable(),
  destructive: z.boolean().nullable(),
  idempotent: z.boolean().nullable(),
  openWorld: z.boolean().nullable(),
});
export type ToolLabels = z.infer<typeof toolLabels>;

export const toolAnnotations = ['readOnly', 'destructive', 'idempotent', 'openWorld'] as const;
export type ToolAnnotation = (typeof toolAnnotations)[number];

/** An argument of a tool that travels in the header `Mcp-Param-<name>` as well. */
const paramHeader = z.strictObject({
  name: z.string().regex(paramHeaderName),
  /** From the top of `arguments`. */
  path: z.array(z.string()).min(1),
  type: z.enum(paramHeaderTypes),
});

const definitionEntry = z.strictObject({
  kind: z.enum(definitionKinds),
  /** Name of a tool or prompt, URI of a resource, URI template of a resource template, `instructions` of those, URI of a view, `serverInfo` of that. */
  name: z.string().min(1).max(2048),
  /** Digests approved for this name; lists may vary by authorization, so there may be several. */
  approvedDigests: z.array(z.string()),
  state: z.enum(definitionStates),
  /** Of tools only; null where nothing is said. */
  labels: toolLabels.nullable(),
  /**
   * Of tools only: which arguments travel in headers (`x-mcp-header`), a map for each approved definition that differs
   * in it, sorted; absent where no approved definition names a header.
   */
  paramHeaders: z.array(z.array(paramHeader).max(paramHeadersMax)).min(1).optional(),
  /**
   * Of tools only: JSON of the `inputSchema` of each approved definition that differs in it, sorted. Absent unless some
   * webhook may change arguments: what it makes of them must fit one of these.
   */
  inputSchemas: z.array(z.string()).min(1).optional(),
  /**
   * Of tools only: names of the members that schemas of approved definitions say are secret, sorted. Absent where none
   * does, and unless some policy captures.
   */
  secretMembers: z.array(z.string()).min(1).optional(),
});
export type DefinitionEntry = z.infer<typeof definitionEntry>;

/** How the upstream's endpoint is spoken to; `httpSse` is the transport of 2024-11-05. */
export const upstreamTransports = ['streamableHttp', 'httpSse'] as const;
export type UpstreamTransport = (typeof upstreamTransports)[number];

/** Lifecycle states that reach nodes; the others have no document. `deprecated` still serves. */
const servedLifecycle = z.enum(['approved', 'deprecated']);

export const serverDocumentSchema = z.strictObject({
  kind: z.literal('server'),
  id,
  /** Names the endpoint on a node: `/mcp/<slug>`. */
  slug: z.string().regex(/^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$/),
  lifecycle: servedLifecycle,
  /** Absolute http(s) URL of the upstream's endpoint. */
  url: z.url({ protocol: /^https?$/ }),
  /** Protocol revisions observed at discovery, newest first; decides which eras the upstream can be spoken to in. */
  protocolRevisions: z.array(z.string()).min(1),
  /** Observed at discovery. */
  transport: z.enum(upstreamTransports),
  /** Protocol extensions that may be offered to either side; every other is taken out of what both declare. Sorted. */
  extensions: z.array(z.string()),
  labels: z.record(z.string(), z.string()),
  definitions: z.array(definitionEntry),
  /** `strict`: fsync of the audit record before forwarding; `buffered`: write(2). */
  auditMode: z.enum(['buffered', 'strict']),
  /** Refuse this server when the node has been without the control plane for longer. Null: the fleet's default. */
  configStalenessMaxMs: z.number().int().positive().nullable(),
  /** How the gateway proves itself to the upstream; absent where it does not. */
  credential: serverCredentialSchema.optional(),
  /** What it may ask of clients; absent for nothing. */
  asks: upstreamAsksSchema.optional(),
});
export type ServerDocument = z.infer<typeof serverDocumentSchema>;

export const subjectKinds = ['user', 'group', 'serviceAccount', 'everyone'] as const;
export type SubjectKind = (typeof subjectKinds)[number];
const subject = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('everyone') }),
  z.strictObject({ kind: z.enum(['user', 'group', 'serviceAccount']), id }),
]);
export type GrantSubject = z.infer<typeof subject>;

/** `requireApproval` opens what it selects like an allow, but each call needs an approval first. */
export const grantEffects = ['allow', 'deny', 'requireApproval'] as const;
export type GrantEffect = (typeof grantEffects)[number];
/** A grant in `shadow` decides nothing: the audit tells what it would have changed. */
export const grantModes = ['enforce', 'shadow'] as const;
export type GrantMode = (typeof grantModes)[number];

const grantLimits = z.strictObject({
  riskMin: z.enum(toolRisks).nullable(),
  riskMax: z.enum(toolRisks).nullable(),
  /** Values that the labels must have; null where any will do. */
  readOnly: z.boolean().nullable(),
  destructive: z.boolean().nullable(),
  idempotent: z.boolean().nullable(),
  openWorld: z.boolean().nullable(),
});
export type GrantLimits = z.infer<typeof grantLimits>;

const grantEntry = z.strictObject({
  id,
  subject,
  effect: z.enum(grantEffects),
  mode: z.enum(grantModes),
  /** Exact names or globs; an empty list selects nothing of that kind. */
  tools: z.array(z.string()),
  prompts: z.array(z.string()),
  resources: z.array(z.string()),
  /** Narrows the tools it selects by the labels an administrator gave them; null for no limit. */
  limits: grantLimits.nullable(),
  /** CEL over principal, server, client and time, for lists and calls; null for no condition. */
  when: z.string().nullable(),
  /** CEL over the target and arguments besides, for calls only; null for no condition. */
  whenArguments: z.string().nullable(),
  /** Milliseconds since the epoch, in the control plane's time; null is open-ended. `notAfter` is exclusive. */
  notBefore: instantMs.nullable(),
  notAfter: instantMs.nullable(),
  /** It opens nothing on a node that has been without the control plane for longer; null for the server's limit alone. */
  configStalenessMaxMs: z.number().int().positive().nullable(),
});
export type GrantEntry = z.infer<typeof grantEntry>;

/** What a grant says where nothing is said: it selects nothing, and nothing narrows it. */
export const grantDefaults: Omit<GrantEntry, 'id' | 'subject' | 'effect'> = {
  mode: 'enforce',
  tools: [],
  prompts: [],
  resources: [],
  limits: null,
  when: null,
  whenArguments: null,
  notBefore: null,
  notAfter: null,
  configStalenessMaxMs: null,
};

export const grantsDocumentSchema = z.strictObject({
  kind: z.literal('grants'),
  serverId: id,
  /** Sorted by id, so that equal sets give equal bytes. */
  grants: z.array(grantEntry),
});
export type GrantsDocument = z.infer<typeof grantsDocumentSchema>;

/** A set of labels, all of which a server must carry; never empty, which would select every server. */
export const labelSelectorSchema = z
  .record(z.string(), z.string())
  .refine((labels) => Object.keys(labels).length > 0, 'must name at least one label');
export type LabelSelector = z.infer<typeof labelSelectorSchema>;

/** The grants on all servers that carry some labels: one document per selector, not a copy for each server. */
export const labelGrantsDocumentSchema = z.strictObject({
  kind: z.literal('labelGrants'),
  selector: labelSelectorSchema,
  /** Sorted by id. */
  grants: z.array(grantEntry),
});
export type LabelGrantsDocument = z.infer<typeof labelGrantsDocumentSchema>;

/** Whether a server's labels satisfy a selector. */
export function selectorMatches(selector: LabelSelector, labels: Readonly<Record<string, string>>): boolean {
  const wanted = Object.entries(selector);
  return wanted.length > 0 && wanted.every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}

/**
 * `mcp`: use granted tools through nodes. `api`: act on the control plane with the roles of its holder; `apiRead`: only
 * look there.
 */
export const apiKeyScopes = ['mcp', 'api', 'apiRead'] as const;
export type ApiKeyScope = (typeof apiKeyScopes)[number];

const apiKeyServers = z.union([
  z.strictObject({ ids: z.array(id).min(1) }),
  z.strictObject({ labels: labelSelectorSchema }),
]);
/** The servers that a key opens: these, or those that carry some labels. */
export type ApiKeyServers = z.infer<typeof apiKeyServers>;

const network = z.string().refine((text) => parseCidr(text) !== undefined, 'must be a CIDR');

const principalRecord = z.strictObject({
  id,
  kind: z.enum(['user', 'serviceAccount']),
  /** Display name, for audit events. */
  name: z.string(),
  status: z.enum(['active', 'disabled']),
  /** Ids of the groups it belongs to, sorted. */
  groups: z.array(id),
  /** Raised to void every session and token minted before. */
  epoch: z.number().int().nonnegative(),
  expiresAt: instantMs.nullable(),
  /** Families of access tokens that were revoked lately, sorted; each for as long as one of its tokens could live. */
  revokedFamilies: z.array(z.string().min(1).max(128)),
  keys: z.array(
    z.strictObject({
      id,
      /** SHA-256 of the whole key, hex. */
      hash: z.string().regex(/^[0-9a-f]{64}$/),
      scopes: z.array(z.enum(apiKeyScopes)),
      expiresAt: instantMs,
      /** Absent for every server that its holder may use. */
      servers: apiKeyServers.optional(),
      /** CIDRs it may be used from; absent for anywhere. */
      networks: z.array(network).min(1).optional(),
    }),
  ),
});
export type PrincipalRecord = z.infer<typeof principalRecord>;

export const principalsDocumentSchema = z.strictObject({
  kind: z.literal('principals'),
  shard: z
    .number()
    .int()
    .min(0)
    .max(principalShardCount - 1),
  principals: z.array(principalRecord),
});
export type PrincipalsDocument = z.infer<typeof principalsDocumentSchema>;

/** The names of groups, which conditions speak of; principals name theirs by id. */
export const groupsDocumentSchema = z.strictObject({
  kind: z.literal('groups'),
  /** Sorted by id. */
  groups: z.array(z.strictObject({ id, name: z.string() })),
});
export type GroupsDocument = z.infer<typeof groupsDocumentSchema>;

/** Fleet-wide settings that an administrator may change at run time. */
export const limitsDocumentSchema = z.strictObject({
  kind: z.literal('limits'),
  requestBodyBytesMax: z.number().int().positive(),
  responseBodyBytesMax: z.number().int().positive(),
  sseEventBytesMax: z.number().int().positive(),
  upstreamConnectTimeoutMs: z.number().int().positive(),
  upstreamFirstByteTimeoutMs: z.number().int().positive(),
  upstreamIdleTimeoutMs: z.number().int().positive(),
  /** From the first byte of the request to the last of the response; listen and GET streams are exempt. */
  exchangeTimeoutMs: z.number().int().positive(),
  streamAgeMsMax: z.number().int().positive(),
  exchangesPerPrincipalMax: z.number().int().positive(),
  exchangesPerServerMax: z.number().int().positive(),
  sessionTtlMs: z.number().int().positive(),
  configStalenessMaxMs: z.number().int().positive(),
});
export type LimitsDocument = z.infer<typeof limitsDocumentSchema>;

export const defaultLimits: LimitsDocument = {
  kind: 'limits',
  requestBodyBytesMax: 4 * 1024 * 1024,
  responseBodyBytesMax: 16 * 1024 * 1024,
  sseEventBytesMax: 1024 * 1024,
  upstreamConnectTimeoutMs: 5_000,
  upstreamFirstByteTimeoutMs: 60_000,
  upstreamIdleTimeoutMs: 120_000,
  exchangeTimeoutMs: 10 * 60_000,
  streamAgeMsMax: 24 * 3_600_000,
  exchangesPerPrincipalMax: 256,
  exchangesPerServerMax: 4096,
  sessionTtlMs: 24 * 3_600_000,
  configStalenessMaxMs: 24 * 3_600_000,
};

/**
 * Keys that seal what nodes hand to clients (legacy sessions). A new key is first published with `use: 'open'`, and
 * becomes `seal` only after every live node acknowledged a manifest that has it; exactly one key seals.
 */
export const keysDocumentSchema = z.strictObject({
  kind: z.literal('keys'),
  sealing: z.array(
    z.strictObject({ id: z.string().regex(/^[A-Za-z0-9]{1,16}$/), secret: z.base64(), use: z.enum(['open', 'seal']) }),
  ),
});
export type KeysDocument = z.infer<typeof keysDocumentSchema>;

export const documentSchema = z.discriminatedUnion('kind', [
  serverDocumentSchema,
  grantsDocumentSchema,
  labelGrantsDocumentSchema,
  principalsDocumentSchema,
  groupsDocumentSchema,
  limitsDocumentSchema,
  keysDocumentSchema,
  oauthDocumentSchema,
  policiesDocumentSchema,
  webhooksDocumentSchema,
  payloadKeyDocumentSchema,
]);
export type ConfigDocument = z.infer<typeof documentSchema>;

/** The key a document has in the manifest. */
export function documentKey(document: ConfigDocument): string {
  switch (document.kind) {
    case 'server':
      return `server/${document.id}`;
    case 'grants':
      return `grants/${document.serverId}`;
    case 'labelGrants':
      return `labelGrants/${sha256(canonicalJson(document.selector)).slice(0, 32)}`;
    case 'principals':
      return `principals/${String(document.shard).padStart(3, '0')}`;
    case 'groups':
    case 'limits':
    case 'keys':
    case 'oauth':
    case 'policies':
    case 'webhooks':
    case 'payloadKey':
      return document.kind;
  }
}

/** Which principals document holds a principal: the first byte of the SHA-256 of its id. */
export function principalShard(principalId: string): number {
  return Number.parseInt(sha256(principalId).slice(0, 2), 16);
}

const documentHash = z.string().regex(/^[0-9a-f]{64}$/);
const entries = z.record(z.string(), documentHash);

/**
 * A line of configurations. After a restore from backup the control plane starts a new one; nodes take it only when
 * the fleet key signed it and it started later than every history they have seen.
 */
export const historySchema = z.strictObject({
  id,
  startedAt: instantMs,
  /** Ed25519 by the fleet key over `historySigningText`. */
  signature: z.base64(),
});
export type History = z.infer<typeof historySchema>;

export function historySigningText(history: Pick<History, 'id' | 'startedAt'>): string {
  return `sallyport.history.v1|${history.id}|${history.startedAt}`;
}

export const manifestSchema = z.strictObject({
  history: historySchema,
  revision: z.number().int().positive(),
  /** `manifestHash(entries)`. */
  hash: documentHash,
  entries,
});
export type Manifest = z.infer<typeof manifestSchema>;

export const manifestDeltaSchema = z.strictObject({
  history: historySchema,
  base: z.number().int().positive(),
  revision: z.number().int().positive(),
  /** Hash of the whole result, so a node proves that its merge is right. */
  hash: documentHash,
  changed: entries,
  removed: z.array(z.string()),
});
export type ManifestDelta = z.infer<typeof manifestDeltaSchema>;

/** SHA-256 over the canonical entries; equal content means equal hash whatever the revision. */
export function manifestHash(manifestEntries: Readonly<Record<string, string>>): string {
  const keys = Object.keys(manifestEntries);
  // Computed for each change on each node: where the keys are in order, the engine's own writer gives the same text.
  const inOrder = keys.every((key, at) => at === 0 || (keys[at - 1] ?? '') < key);
  return sha256(inOrder ? JSON.stringify(manifestEntries) : canonicalJson(manifestEntries));
}

export type ManifestEntries = Readonly<Record<string, string>>;

export interface ManifestChanges {
  readonly changed: ManifestEntries;
  readonly removed: readonly string[];
}

/** What leads from one set of entries to another. */
export function manifestChanges(before: ManifestEntries, after: ManifestEntries): ManifestChanges {
  const changed = Object.entries(after).filter(([key, hash]) => !Object.hasOwn(before, key) || before[key] !== hash);
  const removed = Object.keys(before).filter((key) => !Object.hasOwn(after, key));
  return { changed: Object.fromEntries(changed), removed: removed.sort() };
}

/** Entries in the order of their keys, in which their hash costs least. */
export function orderedEntries(entries: Iterable<readonly [string, string]>): Record<string, string> {
  return Object.fromEntries([...entries].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The entries after the changes, in order where they were; what was given stays as it is. */
export function applyManifestChanges(entries: ManifestEntries, changes: ManifestChanges): Record<string, string> {
  const isNew = Object.keys(changes.changed).some((key) => !Object.hasOwn(entries, key));
  const merged = { ...entries, ...changes.changed };
  const result: Record<string, string> = isNew ? orderedEntries(Object.entries(merged)) : merged;
  for (const key of changes.removed) delete result[key];
  return result;
}

/** Several changes, one after the other, as one. */
export function foldManifestChanges(steps: readonly ManifestChanges[]): ManifestChanges {
  const changed = new Map<string, string>();
  const removed = new Set<string>();
  for (const step of steps) {
    for (const [key, hash] of Object.entries(step.changed)) {
      changed.set(key, hash);
      removed.delete(key);
    }
    for (const key of step.removed) {
      changed.delete(key);
      removed.add(key);
    }
  }
  return { changed: Object.fromEntries(changed), removed: [...removed].sort() };
}

export interface EncodedDocument {
  readonly key: string;
  readonly hash: string;
  /** Canonical JSON; `hash` is its SHA-256. */
  readonly body: string;
}

export function encodeDocument(document: ConfigDocument): EncodedDocument {
  const body = canonicalJson(document);
  return { key: documentKey(document), hash: sha256(body), body };
}
