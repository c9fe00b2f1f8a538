import { AppError, type Permission } from '@sallyport/schema';
import { type Egress, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, type SQL, sql } from 'drizzle-orm';
import type { GrantService } from '../access/grant.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate } from '../database/mutation.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import type { Page } from '../graphql-connection.ts';
import {
  type AuditMode,
  definitions,
  type Discoverer,
  type Lifecycle,
  type ServerRow,
  servers,
} from './catalog.tables.ts';
import { controlPlaneObserver, type HealthService } from './health.service.ts';
import { isServed, transitionProblem } from './lifecycle.ts';
import { slugKey, slugProblem } from './slug.ts';

export const labelsMax = 64;
const labelLengthMax = 128;
const labelKeyPattern = /^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$/;
/** What GraphQL's Int can say; nearly 25 days. */
const configStalenessMsMax = 2_147_483_647;

interface MutationOptions {
  readonly dryRun?: boolean | null | undefined;
}

export interface Label {
  readonly key: string;
  readonly value: string;
}

export interface CreateServer extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly slug: string;
  readonly title?: string | null | undefined;
  readonly description?: string | null | undefined;
  readonly url: string;
  readonly labels?: readonly Label[] | null | undefined;
  readonly auditMode?: AuditMode | null | undefined;
  readonly configStalenessMaxMs?: number | null | undefined;
  readonly discoveredBy?: Discoverer | null | undefined;
}

/** Absent fields keep their value; a null `configStalenessMaxMs` goes back to the fleet's default. */
export interface UpdateServer extends MutationOptions, Omit<CreateServer, 'slug' | 'url' | 'idempotencyKey'> {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
  readonly url?: string | null | undefined;
}

export type ChangeServer = MutationOptions & Pick<UpdateServer, 'id' | 'expectedRevision'>;

export interface ServerFilter {
  readonly lifecycle?: Lifecycle | null | undefined;
  readonly slug?: string | null | undefined;
}

interface ServerFields {
  readonly title: string;
  readonly description: string;
  readonly url: string;
  readonly labels: Record<string, string>;
  readonly auditMode: AuditMode;
  readonly configStalenessMaxMs: number | null;
  readonly discoveredBy: Discoverer;
}

/** What is not known any more once a server has another URL. */
const undiscovered = {
  protocolRevisions: [],
  capabilities: {},
  serverInfo: null,
  instructions: null,
  discoveredAt: null,
  discoveryAttemptedAt: null,
  discoveryProblem: null,
  discoveryProblemMessage: null,
  discoveryNotes: [],
} satisfies Partial<typeof servers.$inferInsert>;

function checkLabels(found: Violations, labels: readonly Label[] | null | undefined): void {
  if (labels === undefined || labels === null) return;
  if (labels.length > labelsMax) found.add('input.labels', `must have at most ${labelsMax} labels`);
  const keys = new Set<string>();
  for (const [index, { key, value }] of labels.slice(0, labelsMax).entries()) {
    const path = `input.labels[${index}]`;
    if (!labelKeyPattern.test(key)) {
      found.add(
        `${path}.key`,
        'must be 1 to 128 letters, digits and inner . _ / -, for example team or example.com/tier',
      );
    }
    if (keys.has(key)) found.add(`${path}.key`, 'is given twice');
    keys.add(key);
    found.text(`${path}.value`, value, 0, labelLengthMax);
  }
}

function labelsOf(labels: readonly Label[]): Record<string, string> {
  return Object.fromEntries(labels.map(({ key, value }) => [key, value]));
}

/** The row as the audit trail shows it: what an actor set, not what discovery observed. */
function auditable(row: ServerRow): unknown {
  const { slugKey: _key, discoveryLease: _lease, discoveryLeaseUntil: _until, ...shown } = row;
  return { ...shown, capabilities: undefined, instructions: undefined, discoveryNotes: undefined };
}

/** The row under a lock until the transaction ends. */
export async function lockServer(tx: Transaction, id: string): Promise<ServerRow> {
  if (!isUuid(id)) throw new AppError('NOT_FOUND');
  const [row] = await tx
    .select()
    .from(servers)
    .where(and(eq(servers.id, id), isNull(servers.deletedAt)))
    .for('update');
  if (row === undefined) throw new AppError('NOT_FOUND');
  return row;
}

export interface ServerServiceDependencies {
  readonly database: Database;
  readonly egress: Pick<Egress, 'check'>;
  readonly grants: Pick<GrantService, 'deleteFor'>;
  readonly health: HealthService;
  /** Told after the commit that a server is worth discovering now: it is new, or has another URL. */
  readonly onUndiscovered: () => void;
}

/** The registered servers: who may change which, in which state, under which name. */
export class ServerService {
  private readonly deps: ServerServiceDependencies;
  private readonly database: Database;
  private readonly load: (id: string) => Promise<ServerRow | undefined>;

  constructor(deps: ServerServiceDependencies) {
    this.deps = deps;
    this.database = deps.database;
    this.load = batched(async (ids) => {
      const rows = await deps.database.db
        .select()
        .from(servers)
        .where(inArray(servers.id, [...ids]));
      return new Map(rows.map((row) => [row.id, row]));
    });
  }

  async get(ctx: Context, id: string): Promise<ServerRow> {
    ctx.authorize('server:read');
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const [row] = await this.database.db
      .select()
      .from(servers)
      .where(and(eq(servers.id, id), isNull(servers.deletedAt)));
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }

  /** For what refers to a server, a deleted one too: audit events and traffic keep naming it. */
  async byId(ctx: Context, id: string): Promise<ServerRow | null> {
    ctx.authorize('server:read');
    return isUuid(id) ? ((await this.load(id)) ?? null) : null;
  }

  async list(ctx: Context, filter: ServerFilter, page: Page): Promise<ServerRow[]> {
    ctx.authorize('server:read');
    const [after] = page.after ?? [];
    const wanted: (SQL | undefined)[] = [
      filter.lifecycle ? eq(servers.lifecycle, filter.lifecycle) : undefined,
      typeof filter.slug === 'string' ? eq(servers.slug, filter.slug) : undefined,
      after === undefined ? undefined : gt(servers.id, after),
    ];
    return this.database.db
      .select()
      .from(servers)
      .where(and(isNull(servers.deletedAt), ...wanted))
      .orderBy(asc(servers.id))
      .limit(page.limit + 1);
  }

  /** For other slices: whether a grant may name the server. */
  async exists(reader: Reader, id: string): Promise<boolean> {
    if (!isUuid(id)) return false;
    const rows = await reader
      .select({ id: servers.id })
      .from(servers)
      .where(and(eq(servers.id, id), isNull(servers.deletedAt)));
    return rows.length > 0;
  }

  async create(ctx: Context, input: CreateServer): Promise<ServerRow> {
    ctx.authorize('server:write');
    const now = ctx.clock.now();
    const id = uuidv7(now);
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(input.idempotencyKey));
    const badSlug = slugProblem(input.slug);
    if (badSlug !== undefined) found.add('input.slug', badSlug);
    checkLabels(found, input.labels);
    const fields: ServerFields = {
      title: input.title ?? input.slug,
      description: input.description ?? '',
      url: input.url,
      labels: labelsOf(input.labels ?? []),
      auditMode: input.auditMode ?? 'buffered',
      configStalenessMaxMs: input.configStalenessMaxMs ?? null,
      discoveredBy: input.discoveredBy ?? 'controlPlane',
    };
    await this.checkFields(found, fields, true);
    const row = await mutate(this.database, input, async (tx) => {
      const claim = { actorId: ctx.actor.principalId, operation: 'createServer', key: input.idempotencyKey, input };
      const earlier = found.list.length > 0 ? undefined : await claimIdempotencyKey(tx, claim, id, now);
      if (earlier !== undefined) return lockServer(tx, earlier);
      await this.checkSlugIsFree(tx, found, input.slug);
      found.assertNone();
      const times = { createdAt: new Date(now), updatedAt: new Date(now) };
      const [created] = await tx
        .insert(servers)
        .values({ id, slug: input.slug, slugKey: slugKey(input.slug), lifecycle: 'draft', ...fields, ...times })
        .returning();
      if (created === undefined) throw new AppError('INTERNAL', { internal: 'server was not inserted' });
      const object = { kind: 'server', id } as const;
      await recordMutation(tx, ctx, { action: 'server.create', object, after: auditable(created) });
      return created;
    });
    if (input.dryRun !== true && row.id === id) this.deps.onUndiscovered();
    return row;
  }

  /**
   * Changes what an administrator sets. The slug is fixed: clients have the endpoint in their configuration. Pointing a
   * served server elsewhere needs `server:approve`, as whoever may do that decides what principals reach; the approved
   * digests go on pinning what it serves.
   */
  async update(ctx: Context, input: UpdateServer): Promise<ServerRow> {
    ctx.authorize('server:write');
    const found = new Violations();
    checkLabels(found, input.labels);
    let moved = false;
    const row = await this.change(ctx, input, 'server.update', async (before, tx) => {
      const fields: ServerFields = {
        title: input.title ?? before.title,
        description: input.description ?? before.description,
        url: input.url ?? before.url,
        labels: input.labels === undefined || input.labels === null ? before.labels : labelsOf(input.labels),
        auditMode: input.auditMode ?? before.auditMode,
        configStalenessMaxMs:
          input.configStalenessMaxMs === undefined ? before.configStalenessMaxMs : input.configStalenessMaxMs,
        discoveredBy: input.discoveredBy ?? before.discoveredBy,
      };
      moved = fields.url !== before.url || fields.discoveredBy !== before.discoveredBy;
      await this.checkFields(found, fields, moved);
      found.assertNone();
      if (fields.url !== before.url && isServed(before.lifecycle)) ctx.authorize('server:approve');
      if (moved) await this.deps.health.forget(tx, controlPlaneObserver, before.id);
      if (fields.url !== before.url && !isServed(before.lifecycle)) return { ...fields, ...undiscovered };
      return moved ? { ...fields, discoveryAttemptedAt: null } : fields;
    });
    if (moved && input.dryRun !== true) this.deps.onUndiscovered();
    return row;
  }

  submit(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    return this.move(ctx, input, 'server.submit', 'server:write', 'pending');
  }

  returnToDraft(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    return this.move(ctx, input, 'server.returnToDraft', 'server:write', 'draft');
  }

  deprecate(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    return this.move(ctx, input, 'server.deprecate', 'server:approve', 'deprecated');
  }

  disable(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    return this.move(ctx, input, 'server.disable', 'server:approve', 'disabled');
  }

  /**
   * Puts a server into service. From draft or pending, all definitions that the last discovery found are approved as
   * they are, except quarantined ones; pass `expectedRevision` to approve exactly what was looked at, since a discovery
   * that finds something else raises the revision. From deprecated or disabled, definitions stay as they were.
   */
  async approve(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    ctx.authorize('server:approve');
    return this.change(ctx, input, 'server.approve', async (before, tx) => {
      const found = new Violations();
      const problem = transitionProblem(before.lifecycle, 'approved');
      if (problem !== undefined) found.add('input.id', problem);
      else if (before.discoveredAt === null || before.discoveryProblem !== null) {
        const cause = before.discoveryProblemMessage === null ? '' : ` (${before.discoveryProblemMessage})`;
        found.add('input.id', `the last discovery must have succeeded${cause}: mend the cause and run discoverServer`);
      }
      found.assertNone();
      if (before.lifecycle === 'draft' || before.lifecycle === 'pending') {
        await tx
          .update(definitions)
          .set({
            state: 'approved',
            approvedDigests: sql`${definitions.digests}`,
            revision: sql`${definitions.revision} + 1`,
            updatedAt: new Date(ctx.clock.now()),
          })
          .where(
            and(
              eq(definitions.serverId, before.id),
              isNull(definitions.removedAt),
              inArray(definitions.state, ['pending', 'drifted']),
            ),
          );
      }
      return { lifecycle: 'approved' };
    });
  }

  /** Soft: audit events and traffic keep naming it. Its grants go with it; its slug is free again. */
  async delete(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    ctx.authorize('server:write');
    return this.change(ctx, input, 'server.delete', async (before, tx) => {
      if (before.lifecycle !== 'draft' && before.lifecycle !== 'pending') ctx.authorize('server:approve');
      await this.deps.grants.deleteFor(tx, ctx, { serverId: before.id });
      await this.deps.health.forget(tx, controlPlaneObserver, before.id);
      return { deletedAt: new Date(ctx.clock.now()) };
    });
  }

  private async move(
    ctx: Context,
    input: ChangeServer,
    action: string,
    permission: Permission,
    to: Lifecycle,
  ): Promise<ServerRow> {
    ctx.authorize(permission);
    return this.change(ctx, input, action, (before) => {
      const found = new Violations();
      const problem = transitionProblem(before.lifecycle, to);
      if (problem !== undefined) found.add('input.id', problem);
      found.assertNone();
      return Promise.resolve({ lifecycle: to });
    });
  }

  private async change(
    ctx: Context,
    input: ChangeServer,
    action: string,
    values: (before: ServerRow, tx: Transaction) => Promise<Partial<typeof servers.$inferInsert>>,
  ): Promise<ServerRow> {
    return mutate(this.database, input, async (tx) => {
      const before = await lockServer(tx, input.id);
      assertRevision(before, input.expectedRevision);
      const changed = await values(before, tx);
      const [row] = await tx
        .update(servers)
        .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
        .where(eq(servers.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'server vanished under its lock' });
      const object = { kind: 'server', id: row.id } as const;
      await recordMutation(tx, ctx, { action, object, before: auditable(before), after: auditable(row) });
      // A server that was and stays out of service has no document on any node.
      if (isServed(before.lifecycle) || isServed(row.lifecycle)) {
        await bumpConfigGeneration(tx, { serverIds: [row.id] });
      }
      return row;
    });
  }

  private async checkUrl(found: Violations, { url, discoveredBy }: Pick<ServerFields, 'url' | 'discoveredBy'>) {
    const problem = await this.deps.egress.check(url, discoveredBy === 'node' ? 'others' : 'here');
    if (problem !== undefined) found.add('input.url', problem);
  }

  private async checkFields(found: Violations, fields: ServerFields, withUrl: boolean): Promise<void> {
    found.text('input.title', fields.title, 1, nameLengthMax);
    found.text('input.description', fields.description, 0, descriptionLengthMax);
    const staleness = fields.configStalenessMaxMs;
    if (staleness !== null && (staleness < 1 || staleness > configStalenessMsMax)) {
      found.add('input.configStalenessMaxMs', `must be 1 to ${configStalenessMsMax} milliseconds, or null`);
    }
    if (withUrl) await this.checkUrl(found, fields);
  }

  private async checkSlugIsFree(tx: Transaction, found: Violations, slug: string): Promise<void> {
    if (slugProblem(slug) !== undefined) return;
    const [holder] = await tx
      .select({ slug: servers.slug })
      .from(servers)
      .where(and(eq(servers.slugKey, slugKey(slug)), isNull(servers.deletedAt)));
    if (holder?.slug === slug) found.add('input.slug', 'is taken');
    else if (holder !== undefined) found.add('input.slug', `looks like ${holder.slug}, which is taken`);
  }
}
