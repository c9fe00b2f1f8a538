import {
  AppError,
  type DefinitionFinding,
  type DefinitionKind,
  type DefinitionState,
  suggestRisk,
  type ToolLabels,
  type ToolRisk,
} from '@sallyport/schema';
import { and, asc, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batchedRows } from '../database/batched.ts';
import type { Database, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { assertRevision, isUuid, mutate } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import type { Page } from '../graphql-connection.ts';
import type {
  AskedDefinition,
  DefinitionHookService,
  KeptVerdict,
  StandingOf,
} from '../inspection/definition-hooks.service.ts';
import {
  type DefinitionRow,
  type DriftClass,
  definitionBodies,
  definitions,
  type ServerRow,
  servers,
} from './catalog.tables.ts';
import { approvedDigestsMax } from './definition-changes.ts';
import { readWordings } from './definition-judge.ts';
import { type Drift, driftBetween, nearest } from './drift-class.ts';
import { isServed } from './lifecycle.ts';
import type { ChangeServer } from './server.service.ts';
import { lockServerFor } from './server-row.service.ts';
import { inScope } from './server-scope.ts';

/** Definitions that one mutation may name. */
export const definitionsPerMutationMax = 1_000;
/** Definitions that one mutation may have webhooks asked about: they are waited for. */
export const askedPerMutationMax = 200;
/** Refused wordings remembered for one name; the latest. */
const rejectedDigestsMax = 64;

export interface DefinitionFilter {
  readonly serverId?: string | null | undefined;
  readonly kind?: DefinitionKind | null | undefined;
  readonly state?: DefinitionState | null | undefined;
  readonly driftClass?: DriftClass | null | undefined;
  readonly name?: string | null | undefined;
  readonly includeRemoved?: boolean | null | undefined;
}

/** Some definitions of one server; `id` and `expectedRevision` are the server's. */
export interface ChangeDefinitions extends ChangeServer {
  readonly definitionIds: readonly string[];
}

export interface ApproveDefinitions extends ChangeDefinitions {
  /** Those that were looked at; needed where `expectedRevision` does not say what was. */
  readonly digests?: readonly string[] | null | undefined;
  /** Go on serving what was approved before as well, for upstreams whose instances or eras differ. */
  readonly keepApproved?: boolean | null | undefined;
}

export interface RejectDefinitions extends ChangeDefinitions {
  readonly digests: readonly string[];
}

export interface LabelDefinitions extends ChangeDefinitions {
  /** Absent ones stay; null takes one away. */
  readonly labels: { readonly [Label in keyof ToolLabels]?: ToolLabels[Label] | undefined };
}

export interface DefinitionBody {
  readonly digest: string;
  readonly raw: Readonly<Record<string, unknown>>;
  readonly findings: readonly DefinitionFinding[];
}

type Webhooks = Pick<DefinitionHookService, 'ask' | 'store' | 'standing' | 'stored'>;

/** What a definition becomes; nothing where it stays as it is. */
type ValuesOf = (row: DefinitionRow, path: string, found: Violations, standing: StandingOf) => Partial<DefinitionRow>;

type StoredBody = Pick<typeof definitionBodies.$inferSelect, 'raw' | 'findings'>;

/** Of which wording something is read. */
interface StoredWording {
  readonly id: string;
  readonly serverId: string;
  readonly digest: string;
}

function storedWording({ serverId, digest }: Omit<StoredWording, 'id'>): StoredWording {
  return { id: `${serverId} ${digest}`, serverId, digest };
}

/** How one wording differs from the nearest approved one. */
export interface DefinitionDrift extends Drift {
  readonly digest: string;
  readonly approvedDigest: string;
}

/** Every wording that is sent now, whoever saw it. */
function seenOf(row: DefinitionRow): string[] {
  return [...new Set([...row.digests, ...row.reportedDigests])];
}

/** Every wording that is sent now or may be served. */
function wordingsOf(row: DefinitionRow): string[] {
  return [...new Set([...seenOf(row), ...row.approvedDigests])];
}

/** What came in between was not looked at. */
function checkReviewed(found: Violations, path: string, row: DefinitionRow, reviewed: readonly string[]): void {
  const unseen = seenOf(row).filter((digest) => !reviewed.includes(digest));
  if (unseen.length > 0) {
    found.add(
      path,
      `${row.kind} ${row.name} is sent as ${unseen.join(', ')} now, which is not among the digests given`,
    );
  }
}

function idsOf({ definitionIds }: ChangeDefinitions, most: number): string[] {
  const found = new Violations();
  const ids = [...new Set(definitionIds)];
  if (ids.length === 0) found.add('input.definitionIds', 'must name at least one definition');
  if (ids.length > most) found.add('input.definitionIds', `must name at most ${most} definitions`);
  found.assertNone();
  return ids;
}

/** What upstreams define, and which wordings of it may be served. */
export class DefinitionService {
  private readonly database: Database;
  private readonly webhooks: Webhooks;
  private readonly load: (wording: StoredWording) => Promise<StoredBody | undefined>;
  private readonly loadVerdicts: (wording: StoredWording) => Promise<readonly KeptVerdict[] | undefined>;

  constructor(database: Database, webhooks: Webhooks) {
    this.database = database;
    this.webhooks = webhooks;
    this.loadVerdicts = batchedRows(async (wordings) =>
      Map.groupBy(await webhooks.stored(database.db, wordings), (verdict) => storedWording(verdict).id),
    );
    this.load = batchedRows(async (wordings) => {
      const serverIds = wordings.map(({ serverId }) => serverId);
      const digests = wordings.map(({ digest }) => digest);
      const rows = await database.db
        .select()
        .from(definitionBodies)
        .where(and(inArray(definitionBodies.serverId, serverIds), inArray(definitionBodies.digest, digests)));
      return new Map(rows.map((row) => [storedWording(row).id, row]));
    });
  }

  async get(ctx: Context, id: string): Promise<DefinitionRow> {
    const scope = ctx.serverScope('server:read');
    const [found] = isUuid(id)
      ? await this.database.db
          .select({ definition: definitions })
          .from(definitions)
          .innerJoin(servers, eq(servers.id, definitions.serverId))
          .where(and(eq(definitions.id, id), isNull(servers.deletedAt), inScope(scope)))
      : [];
    if (found === undefined) throw new AppError('NOT_FOUND');
    return found.definition;
  }

  async list(ctx: Context, filter: DefinitionFilter, page: Page): Promise<DefinitionRow[]> {
    const scope = ctx.serverScope('server:read');
    if (typeof filter.serverId === 'string' && !isUuid(filter.serverId)) return [];
    const [after] = page.after ?? [];
    const rows = await this.database.db
      .select({ definition: definitions })
      .from(definitions)
      .innerJoin(servers, eq(servers.id, definitions.serverId))
      .where(
        and(
          isNull(servers.deletedAt),
          inScope(scope),
          filter.serverId ? eq(definitions.serverId, filter.serverId) : undefined,
          filter.kind ? eq(definitions.kind, filter.kind) : undefined,
          filter.state ? eq(definitions.state, filter.state) : undefined,
          filter.driftClass ? eq(definitions.driftClass, filter.driftClass) : undefined,
          typeof filter.name === 'string' ? eq(definitions.name, filter.name) : undefined,
          filter.includeRemoved === true ? undefined : isNull(definitions.removedAt),
          after === undefined ? undefined : gt(definitions.id, after),
        ),
      )
      .orderBy(asc(definitions.id))
      .limit(page.limit + 1);
    return rows.map((row) => row.definition);
  }

  /** The objects of the given digests of a definition at hand, and what the scan saw, in the order asked for. */
  async bodies(ctx: Context, serverId: string, digests: readonly string[]): Promise<DefinitionBody[]> {
    ctx.serverScope('server:read');
    const stored = await Promise.all(digests.map((digest) => this.load(storedWording({ serverId, digest }))));
    return digests.flatMap((digest, index) => {
      const body = stored[index];
      if (body === undefined) return [];
      return [{ digest, raw: JSON.parse(body.raw) as DefinitionBody['raw'], findings: body.findings ?? [] }];
    });
  }

  /** How each wording that is sent and not approved differs from the nearest that is; none where nothing is approved. */
  async drifts(ctx: Context, row: DefinitionRow): Promise<DefinitionDrift[]> {
    ctx.serverScope('server:read');
    const unapproved = seenOf(row).filter((digest) => !row.approvedDigests.includes(digest));
    if (unapproved.length === 0 || row.approvedDigests.length === 0) return [];
    const wordings = await readWordings(this.database.db, row.serverId, [...unapproved, ...row.approvedDigests]);
    return unapproved.flatMap((digest) => {
      const seen = wordings.get(digest);
      if (seen === undefined) return [];
      const drifts = row.approvedDigests.flatMap((approvedDigest) => {
        const approved = wordings.get(approvedDigest);
        return approved === undefined ? [] : [{ digest, approvedDigest, ...driftBetween(row.kind, approved, seen) }];
      });
      return nearest(drifts) ?? [];
    });
  }

  /** What webhooks said of the wordings that are sent or may be served, the latest of each, the oldest first. */
  async verdicts(ctx: Context, row: DefinitionRow): Promise<KeptVerdict[]> {
    ctx.serverScope('server:read');
    const { serverId } = row;
    const found = await Promise.all(
      wordingsOf(row).map((digest) => this.loadVerdicts(storedWording({ serverId, digest }))),
    );
    return found
      .flatMap((verdicts) => (verdicts ?? []).filter(({ kind }) => kind === row.kind))
      .sort((a, b) => a.askedAt.getTime() - b.askedAt.getTime());
  }

  /** A risk to begin with, by what the tool is called and said to do; null for what is no tool. */
  async suggestedRisk(ctx: Context, row: DefinitionRow): Promise<ToolRisk | null> {
    const [body] = await this.bodies(ctx, row.serverId, row.digests.slice(0, 1));
    return body === undefined ? null : suggestRisk(row.kind, body.raw);
  }

  /**
   * Lets what was looked at of these definitions be served. Ends drift, and quarantine. Nothing that a webhook in force
   * has not said yes to: who wants it nevertheless takes the webhook out of force.
   */
  async approve(ctx: Context, input: ApproveDefinitions): Promise<DefinitionRow[]> {
    const isBound = typeof input.expectedRevision === 'number' || Array.isArray(input.digests);
    if (!isBound) {
      const message = 'must name the digests that were looked at, unless expectedRevision does';
      throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.digests', message }] });
    }
    return this.change(ctx, input, 'definition.approve', (row, path, found, standing) => {
      if (row.removedAt !== null) found.add(path, `the ${row.kind} ${row.name} is not defined any more`);
      const seen = seenOf(row);
      checkReviewed(found, path, row, input.digests ?? seen);
      for (const digest of seen) {
        const { problem } = standing({ ...row, digest });
        if (problem !== '') found.add(path, problem);
      }
      const kept = input.keepApproved === true ? row.approvedDigests : [];
      const approvedDigests = [...new Set([...seen, ...kept])];
      if (approvedDigests.length > approvedDigestsMax) {
        found.add(path, `would have more than ${approvedDigestsMax} approved digests: approve without keepApproved`);
      }
      const rejectedDigests = row.rejectedDigests.filter((digest) => !approvedDigests.includes(digest));
      return { state: 'approved', driftClass: null, approvedDigests, rejectedDigests, reportedDigests: [] };
    });
  }

  /**
   * Refuses what was looked at of these definitions, and remembers that: they are out of service until something is
   * approved by hand, and what was refused is never approved by itself.
   */
  async reject(ctx: Context, input: RejectDefinitions): Promise<DefinitionRow[]> {
    return this.change(ctx, input, 'definition.reject', (row, path, found) => {
      const refused = seenOf(row).filter((digest) => !row.approvedDigests.includes(digest));
      if (refused.length === 0) {
        found.add(path, `all that is sent of the ${row.kind} ${row.name} is approved: quarantine it instead`);
      }
      checkReviewed(found, path, row, [...input.digests, ...row.approvedDigests]);
      const rejectedDigests = [...new Set([...row.rejectedDigests, ...refused])].slice(-rejectedDigestsMax);
      const reportedDigests = row.reportedDigests.filter((digest) => !refused.includes(digest));
      return { state: 'quarantined', rejectedDigests, reportedDigests };
    });
  }

  /** Takes definitions out of service until they are approved by hand, whatever the upstream sends. */
  async quarantine(ctx: Context, input: ChangeDefinitions): Promise<DefinitionRow[]> {
    return this.change(ctx, input, 'definition.quarantine', () => ({ state: 'quarantined' }));
  }

  /** Says of tools what limits of grants go by. Labels outlive drift: what drifted is not served until approved. */
  async label(ctx: Context, input: LabelDefinitions): Promise<DefinitionRow[]> {
    const given = Object.fromEntries(Object.entries(input.labels).filter(([, label]) => label !== undefined));
    if (Object.keys(given).length === 0) {
      const violations = [{ path: 'input.labels', message: 'must give at least one label' }];
      throw new AppError('INVALID_INPUT', { violations });
    }
    return this.change(ctx, input, 'definition.label', (row, path, found) => {
      if (row.kind !== 'tool') found.add(path, `the ${row.kind} ${row.name} is no tool`);
      return given;
    });
  }

  /**
   * Asks webhooks again about these definitions, whatever they said before. One that is denied now is out of service
   * until it is approved by hand; where there is no verdict, what is approved stays so.
   */
  async askWebhooks(ctx: Context, input: ChangeDefinitions): Promise<DefinitionRow[]> {
    ctx.serverScope('server:approve');
    const ids = idsOf(input, askedPerMutationMax);
    const { db } = this.database;
    const [server] = isUuid(input.id) ? await db.select().from(servers).where(eq(servers.id, input.id)) : [];
    if (server === undefined || server.deletedAt !== null) throw new AppError('NOT_FOUND');
    ctx.authorize('server:approve', server);
    assertRevision(server, input.expectedRevision);
    const verdicts =
      input.dryRun === true ? [] : await this.webhooks.ask(server, await this.askedOf(server.id, ids), true);
    const values: ValuesOf = (row, _path, _found, standing) => {
      const isDenied = wordingsOf(row).some((digest) => standing({ ...row, digest }).state === 'denied');
      return isDenied ? { state: 'quarantined' } : {};
    };
    const before = (tx: Transaction): Promise<void> => this.webhooks.store(tx, ctx, server.id, verdicts);
    return this.change(ctx, input, 'definition.askWebhooks', values, before);
  }

  /** Every wording of definitions that is sent or may be served, as far as it is kept. */
  private async askedOf(serverId: string, ids: readonly string[]): Promise<AskedDefinition[]> {
    const { db } = this.database;
    const rows = await db
      .select()
      .from(definitions)
      .where(and(eq(definitions.serverId, serverId), inArray(definitions.id, ids.filter(isUuid))));
    const wordings = await readWordings(db, serverId, rows.flatMap(wordingsOf));
    return rows.flatMap((row) =>
      wordingsOf(row).flatMap((digest) => {
        const raw = wordings.get(digest)?.raw;
        return raw === undefined ? [] : [{ kind: row.kind, name: row.name, digest, raw }];
      }),
    );
  }

  private async change(
    ctx: Context,
    input: ChangeDefinitions,
    action: string,
    values: ValuesOf,
    before: (tx: Transaction) => Promise<void> = () => Promise.resolve(),
  ): Promise<DefinitionRow[]> {
    ctx.serverScope('server:approve');
    const ids = idsOf(input, definitionsPerMutationMax);
    const found = new Violations();
    return mutate(this.database, input, async (tx) => {
      const server = await lockServerFor(tx, ctx, input.id, 'server:approve');
      assertRevision(server, input.expectedRevision);
      const rows = await this.lockDefinitions(tx, server, ids);
      await before(tx);
      const standing = await this.webhooks.standing(tx, server);
      const changes = ids.map((id, index) => {
        const path = `input.definitionIds[${index}]`;
        const row = rows.get(id.toLowerCase());
        if (row === undefined) found.add(path, 'there is no such definition of this server');
        return row === undefined ? undefined : { row, set: values(row, path, found, standing) };
      });
      found.assertNone();
      const results: DefinitionRow[] = [];
      for (const { row, set } of changes.filter((change) => change !== undefined)) {
        const isChanged = Object.keys(set).length > 0;
        results.push(isChanged ? await this.store(tx, ctx, action, row, set) : row);
      }
      if (results.some((row) => row.revision !== rows.get(row.id)?.revision)) await this.touchServer(tx, ctx, server);
      return results;
    });
  }

  private async lockDefinitions(
    tx: Transaction,
    server: ServerRow,
    ids: readonly string[],
  ): Promise<ReadonlyMap<string, DefinitionRow>> {
    const known = ids.filter(isUuid);
    if (known.length === 0) return new Map();
    const rows = await tx
      .select()
      .from(definitions)
      .where(and(eq(definitions.serverId, server.id), inArray(definitions.id, known)))
      .for('update');
    return new Map(rows.map((row) => [row.id, row]));
  }

  private async store(
    tx: Transaction,
    ctx: Context,
    action: string,
    before: DefinitionRow,
    set: Partial<DefinitionRow>,
  ): Promise<DefinitionRow> {
    const [row] = await tx
      .update(definitions)
      .set({ ...set, revision: sql`${definitions.revision} + 1`, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(definitions.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'definition vanished under its lock' });
    await recordMutation(tx, ctx, { action, object: { kind: 'definition', id: row.id }, before, after: row });
    return row;
  }

  /** The server's revision stands for its definitions too, so that approving can insist on what was looked at. */
  private async touchServer(tx: Transaction, ctx: Context, server: ServerRow): Promise<void> {
    await tx
      .update(servers)
      .set({ revision: server.revision + 1, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(servers.id, server.id));
    if (isServed(server.lifecycle)) await bumpConfigGeneration(tx, { serverIds: [server.id] });
  }
}

/**
 * Approves the definitions of a server as the last discovery found them, except quarantined ones and those to which a
 * webhook in force has not said yes.
 */
export async function approveFound(tx: Transaction, serverId: string, standing: StandingOf, now: Date): Promise<void> {
  const waiting = await tx
    .select()
    .from(definitions)
    .where(
      and(
        eq(definitions.serverId, serverId),
        isNull(definitions.removedAt),
        inArray(definitions.state, ['pending', 'drifted']),
      ),
    );
  const isClear = (row: DefinitionRow): boolean =>
    seenOf(row).every((digest) => standing({ ...row, digest }).state === 'clear');
  const ids = waiting.filter(isClear).map(({ id }) => id);
  if (ids.length === 0) return;
  await tx
    .update(definitions)
    .set({
      state: 'approved',
      approvedDigests: sql`${definitions.digests} || ${definitions.reportedDigests}`,
      reportedDigests: [],
      driftClass: null,
      revision: sql`${definitions.revision} + 1`,
      updatedAt: now,
    })
    .where(inArray(definitions.id, ids));
}
