import {
  AccessRequest,
  type AccessTarget,
  AppError,
  applicableGrants,
  decideServer,
  isInNetworks,
  keyOpensServer,
  parseNetworks,
  type GrantEffect,
  type GrantMode,
  type GrantPart,
  type GrantVerdict,
  type Match,
  matchGrant,
  type PrincipalRecord,
  refusal,
  subjectMatches,
  type ShadowDecision,
} from '@sallyport/schema';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import { type PolicyView, readPolicy, readPrincipalRecords, type ServerView } from './policy-view.ts';

/** Most grants told in one explanation. */
export const grantsExplainedMax = 200;
const targetNameLengthMax = 2048;

export interface ExplainAccess {
  readonly principalId: string;
  readonly serverId: string;
  readonly target: AccessTarget;
  /** Of the call, as JSON; undefined or null for a call without any. */
  readonly arguments?: unknown;
  readonly client?:
    | {
        readonly name?: string | null | undefined;
        readonly version?: string | null | undefined;
        readonly address?: string | null | undefined;
      }
    | null
    | undefined;
  /** The API key that is used; absent where its limits are not asked for. */
  readonly apiKeyId?: string | null | undefined;
  /** When the call is made; absent for now. */
  readonly at?: Date | null | undefined;
}

export interface GrantExplanation {
  readonly grantId: string;
  readonly effect: GrantEffect;
  readonly mode: GrantMode;
  readonly match: Match;
  readonly failed: GrantPart | null;
}

export interface AccessExplanation {
  readonly effect: GrantEffect;
  /** A DecisionReason, or why the server has no part in any decision. */
  readonly reason: string;
  readonly grantIds: readonly string[];
  readonly shadow: ShadowDecision | null;
  /** Those that matched first, then those that failed by the latest part. */
  readonly grants: readonly GrantExplanation[];
  /** How many grants of the server are not told. */
  readonly omitted: number;
}

/** The farther a grant came, the nearer it is to the answer. */
const partRank: Readonly<Record<GrantPart, number>> = {
  whenArguments: 1,
  when: 2,
  limits: 3,
  staleness: 4,
  window: 5,
  selector: 6,
  subject: 7,
};

function isExpired(principal: PrincipalRecord, nowMs: number): boolean {
  return principal.expiresAt !== null && principal.expiresAt <= nowMs;
}

type KeyRecord = PrincipalRecord['keys'][number];

export interface ExplainedKey extends KeyRecord {
  readonly isRevoked: boolean;
}

interface KeyLookup {
  /** An API key of the principal, as nodes would hold it; NOT_FOUND where there is none. */
  readonly keyOf: (principalId: string, keyId: string) => Promise<ExplainedKey>;
}

/** Answers what a node would decide, and why, by the code and the documents that nodes decide by. */
export class ExplainService {
  private readonly database: Database;
  private readonly keys: KeyLookup;

  constructor(database: Database, keys: KeyLookup) {
    this.database = database;
    this.keys = keys;
  }

  async explain(ctx: Context, input: ExplainAccess): Promise<AccessExplanation> {
    ctx.authorize('grant:read');
    const nowMs = input.at?.getTime() ?? ctx.clock.now();
    const found = new Violations();
    found.text('input.name', input.target.name, 1, targetNameLengthMax);
    if (input.arguments !== undefined && input.arguments !== null && !isRecord(input.arguments)) {
      found.add('input.arguments', 'must be an object');
    }
    found.assertNone();
    if (!isUuid(input.principalId) || !isUuid(input.serverId)) throw new AppError('NOT_FOUND');
    const { policy, principal } = await this.database.db.transaction(
      async (tx) => ({
        policy: await readPolicy(tx, [input.serverId]),
        principal: (await readPrincipalRecords(tx, [input.principalId])).get(input.principalId),
      }),
      { isolationLevel: 'repeatable read', accessMode: 'read only' },
    );
    if (principal === undefined || !policy.lifecycles.has(input.serverId)) throw new AppError('NOT_FOUND');
    const key = typeof input.apiKeyId === 'string' ? await this.keys.keyOf(principal.id, input.apiKeyId) : undefined;
    const server = policy.servers.get(input.serverId);
    if (server === undefined) return unserved(policy, input.serverId);
    return withKey(explained(policy, server, principal, input, nowMs), key, server, input, nowMs);
  }
}

function isRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function unserved(policy: PolicyView, serverId: string): AccessExplanation {
  const lifecycle = policy.lifecycles.get(serverId) ?? '';
  const isServed = lifecycle === 'approved' || lifecycle === 'deprecated';
  const reason = isServed ? 'SERVER_NOT_PUBLISHED' : 'SERVER_NOT_SERVED';
  return { effect: 'deny', reason, grantIds: [], shadow: null, grants: [], omitted: 0 };
}

function explained(
  policy: PolicyView,
  server: ServerView,
  principal: PrincipalRecord,
  input: ExplainAccess,
  nowMs: number,
): AccessExplanation {
  const facts = {
    principal: {
      id: principal.id,
      kind: principal.kind,
      groups: principal.groups.flatMap((id) => policy.groupNames.get(id) ?? []),
    },
    server: { slug: server.document.slug, labels: server.document.labels },
    client: {
      name: input.client?.name ?? '',
      version: input.client?.version ?? '',
      address: input.client?.address ?? '',
    },
    nowMs,
    contactAgeMs: 0,
  };
  const given = input.arguments ?? undefined;
  const readArguments = (): string | undefined => (given === undefined ? undefined : JSON.stringify(given));
  const request = new AccessRequest(facts, input.target.kind === 'resource' ? null : readArguments);
  const applicable = applicableGrants(server.grants, principal);
  const isUsable = principal.status === 'active' && !isExpired(principal, nowMs);
  const known = decideServer(applicable, request);
  const decided = known.effect === 'deny' ? known : server.definitions.decide(applicable, input.target, request);
  const decision = isUsable ? decided : refusal('PRINCIPAL_DISABLED');
  const labelled = server.definitions.labelled(input.target);
  const grants = server.grants
    .map((grant): GrantExplanation => {
      const { id, effect, mode } = grant.entry;
      const verdict: GrantVerdict = subjectMatches(grant.entry.subject, principal)
        ? matchGrant(grant, labelled, request)
        : { match: 'no', failed: 'subject' };
      return { grantId: id, effect, mode, ...verdict };
    })
    .sort((a, b) => rankOf(a) - rankOf(b) || (a.grantId < b.grantId ? -1 : 1));
  return {
    ...decision,
    grants: grants.slice(0, grantsExplainedMax),
    omitted: Math.max(0, grants.length - grantsExplainedMax),
  };
}

/** A key opens no more than its holder may use: what it keeps closed is closed, whatever the grants say. */
function withKey(
  explanation: AccessExplanation,
  key: ExplainedKey | undefined,
  { document }: ServerView,
  { client }: ExplainAccess,
  nowMs: number,
): AccessExplanation {
  if (key === undefined) return explanation;
  const closed = (reason: string): AccessExplanation => {
    return { ...explanation, effect: 'deny', reason, grantIds: [], shadow: null };
  };
  if (key.isRevoked || key.expiresAt <= nowMs) return closed('KEY_ENDED');
  if (!key.scopes.includes('mcp')) return closed('KEY_SCOPE');
  const networks = key.networks === undefined ? null : parseNetworks(key.networks);
  if (networks !== null && !isInNetworks(networks, client?.address ?? null)) return closed('KEY_NETWORK');
  return keyOpensServer(key.servers, document) ? explanation : closed('KEY_NOT_FOR_SERVER');
}

function rankOf({ failed, match }: GrantExplanation): number {
  if (failed === null) return 0;
  return partRank[failed] - (match === 'unknown' ? 0.5 : 0);
}
