import { AppError, canonicalJson, type Permission } from '@sallyport/schema';
import { type Egress, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, type SQL, sql } from 'drizzle-orm';
import type { GrantService } from '../access/grant.service.ts';
import { isPermitted } from '../access/rights.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { type Batch, batchOf, batchOfOne, type Located, lockBatch, only, type Reference } from '../database/batch.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKeys, idempotencyKeyViolations } from '../database/idempotency.ts';
import { isUuid, type MutationOptions, mutate } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { Violations } from '../database/violations.ts';
import type { Page } from '../graphql-connection.ts';
import type { DefinitionHookService } from '../inspection/definition-hooks.service.ts';
import { type Lifecycle, type ServerRow, servers, serverText } from './catalog.tables.ts';
import { approveFound } from './definition.service.ts';
import { controlPlaneObserver, type HealthService } from './health.service.ts';
import { isServed, transitionProblem } from './lifecycle.ts';
import {
  checkFields,
  fieldsOf,
  type Label,
  newFieldsOf,
  type ServerFields,
  type ServerFieldsInput,
  UrlChecks,
} from './server-form.ts';
import { auditable, leaveOrigin, lockServer, type ServerSecrets, undiscovered } from './server-row.service.ts';
import { carrying, checkOwnerGroup, checkStaysWritable, inScope } from './server-scope.ts';
import { slugKey, slugProblem } from './slug.ts';

/** Most servers of one mutation: the names in their URLs are looked up. */
export const serversPerMutationMax = 200;

interface CreateOptions extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
}
export interface NewServer extends ServerFieldsInput {
  readonly slug: string;
  readonly url: string;
}
export type CreateServer = NewServer & CreateOptions;
export interface CreateServers extends CreateOptions {
  readonly items: readonly NewServer[];
}

/** A server to change; absent fields keep their value. */
export type ServerChange = ServerFieldsInput & Reference;
export type UpdateServer = ServerChange & MutationOptions;
export interface UpdateServers extends MutationOptions {
  readonly items: readonly ServerChange[];
}

export type ChangeServer = Reference & MutationOptions;
export interface ChangeServers extends MutationOptions {
  readonly items: readonly Reference[];
}

export interface ServerFilter {
  readonly lifecycle?: Lifecycle | null | undefined;
  readonly slug?: string | null | undefined;
  /** All of them. */
  readonly labels?: readonly Label[] | null | undefined;
  /** Words in slug, title and description. */
  readonly search?: string | null | undefined;
}

/** How a server gets into a state by hand: what it is called in the trail, and what it needs. */
const moves: Readonly<Record<'pending' | 'draft' | 'deprecated' | 'disabled', readonly [string, Permission]>> = {
  pending: ['server.submit', 'server:write'],
  draft: ['server.returnToDraft', 'server:write'],
  deprecated: ['server.deprecate', 'server:approve'],
  disabled: ['server.disable', 'server:approve'],
};
type Move = keyof typeof moves;

export interface ServerServiceDependencies {
  readonly database: Database;
  readonly egress: Pick<Egress, 'check'>;
  readonly grants: Pick<GrantService, 'deleteFor'>;
  /** Ends what was allowed at its endpoint, within the transaction. */
  readonly onDeleted: (tx: Transaction, ctx: Context, serverId: string) => Promise<void>;
  readonly health: HealthService;
  readonly credentials: ServerSecrets;
  readonly webhooks: Pick<DefinitionHookService, 'standing'>;
  /** Keeps the group from being deleted until the transaction has ended. */
  readonly groupExists: (reader: Reader, id: string) => Promise<boolean>;
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
    const scope = ctx.serverScope('server:read');
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const [row] = await this.database.db
      .select()
      .from(servers)
      .where(and(eq(servers.id, id), isNull(servers.deletedAt), inScope(scope)));
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }

  /**
   * For what refers to a server, a deleted one too: audit events and traffic keep naming it. Null where the actor may not
   * see it.
   */
  async byId(ctx: Context, id: string): Promise<ServerRow | null> {
    ctx.serverScope('server:read');
    const row = isUuid(id) ? await this.load(id) : undefined;
    return row !== undefined && isPermitted(ctx.actor, 'server:read', row) ? row : null;
  }

  async list(ctx: Context, filter: ServerFilter, page: Page): Promise<ServerRow[]> {
    const scope = ctx.serverScope('server:read');
    const [after] = page.after ?? [];
    const wanted: (SQL | undefined)[] = [
      filter.lifecycle ? eq(servers.lifecycle, filter.lifecycle) : undefined,
      typeof filter.slug === 'string' ? eq(servers.slug, filter.slug) : undefined,
      carrying(filter.labels ?? []),
      containsWords(serverText, filter.search),
      after === undefined ? undefined : gt(servers.id, after),
    ];
    return this.database.db
      .select()
      .from(servers)
      .where(and(isNull(servers.deletedAt), inScope(scope), ...wanted))
      .orderBy(asc(servers.id))
      .limit(page.limit + 1);
  }

  /** For other slices: how many servers a group owns. */
  async countOwnedBy(reader: Reader, groupId: string): Promise<number> {
    const [row] = await reader
      .select({ count: sql<number>`count(*)::int` })
      .from(servers)
      .where(and(eq(servers.ownerGroupId, groupId), isNull(servers.deletedAt)));
    return row?.count ?? 0;
  }

  async create(ctx: Context, input: CreateServer): Promise<ServerRow> {
    return only(await this.createAll(ctx, input, batchOfOne(input)));
  }

  /** Registers all of them or none. */
  async createMany(ctx: Context, input: CreateServers): Promise<ServerRow[]> {
    return this.createAll(ctx, input, batchOf(input.items, serversPerMutationMax));
  }

  /**
   * Changes what an administrator sets. The slug is fixed: clients have the endpoint in their configuration. Pointing a
   * served server elsewhere, giving it other labels, letting further extensions through, keeping less surely what was
   * called or serving longer without the control plane needs `server:approve`, as whoever may do that decides what
   * principals reach and what is on record of it; the approved digests go on pinning what it serves. Nobody gives a
   * server to others whom he could not write for then.
   */
  async update(ctx: Context, input: UpdateServer): Promise<ServerRow> {
    return only(await this.updateAll(ctx, input, batchOfOne(input)));
  }

  /** Changes all of them or none. */
  async updateMany(ctx: Context, input: UpdateServers): Promise<ServerRow[]> {
    return this.updateAll(ctx, input, batchOf(input.items, serversPerMutationMax));
  }

  async move(ctx: Context, input: ChangeServer, to: Move): Promise<ServerRow> {
    return only(await this.moveAll(ctx, input, batchOfOne(input), to));
  }

  /** Moves all of them or none. */
  async moveMany(ctx: Context, input: ChangeServers, to: Move): Promise<ServerRow[]> {
    return this.moveAll(ctx, input, batchOf(input.items, serversPerMutationMax), to);
  }

  /**
   * Puts a server into service. From draft or pending, all definitions that the last discovery found are approved as
   * they are, except quarantined ones and those that wait for a webhook; pass `expectedRevision` to approve exactly what was looked at, since a discovery
   * that finds something else raises the revision. From deprecated or disabled, definitions stay as they were.
   */
  async approve(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    return only(await this.approveAll(ctx, input, batchOfOne(input)));
  }

  /** Puts all of them into service or none. */
  async approveMany(ctx: Context, input: ChangeServers): Promise<ServerRow[]> {
    return this.approveAll(ctx, input, batchOf(input.items, serversPerMutationMax));
  }

  /** Soft: audit events and traffic keep naming it. Its grants go with it; its slug is free again. */
  async delete(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    return only(await this.deleteAll(ctx, input, batchOfOne(input)));
  }

  /** Deletes all of them or none. */
  async deleteMany(ctx: Context, input: ChangeServers): Promise<ServerRow[]> {
    return this.deleteAll(ctx, input, batchOf(input.items, serversPerMutationMax));
  }

  private async createAll(ctx: Context, options: CreateOptions, batch: Batch<NewServer>): Promise<ServerRow[]> {
    ctx.serverScope('server:write');
    const now = ctx.clock.now();
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(options.idempotencyKey));
    const urls = new UrlChecks(this.deps.egress);
    const made = batch.items.map((item) => ({ id: uuidv7(now), slug: item.slug, fields: newFieldsOf(item) }));
    await urls.prepare(made.map(({ fields }) => fields));
    for (const [index, { slug, fields }] of made.entries()) {
      const path = batch.pathOf(index);
      const problems = [slugProblem(slug) ?? twin(made, index, batch), await urls.problemOf(fields)];
      for (const [at, problem] of problems.entries()) {
        if (problem !== undefined) found.add(`${path}.${at === 0 ? 'slug' : 'url'}`, problem);
      }
      checkFields(found, path, batch.items[index] ?? {}, fields);
      checkStaysWritable(ctx, found, path, fields);
      if (fields.autoApproval !== 'none') ctx.authorize('server:approve', fields);
    }
    const rows = await mutate(this.database, options, async (tx) => {
      const operation = batch.isList ? 'createServers' : 'createServer';
      const claim = { actorId: ctx.actor.principalId, operation, key: options.idempotencyKey };
      const ids = made.map(({ id }) => id);
      const earlier = found.list.length > 0 ? undefined : await claimIdempotencyKeys(tx, claim, batch, ids, now);
      if (earlier !== undefined) return Promise.all(earlier.map((id) => lockServer(tx, id)));
      const taken = new Violations();
      taken.addAll(found.list);
      for (const [index, { slug }] of made.entries()) {
        await this.checkSlugIsFree(tx, taken, `${batch.pathOf(index)}.slug`, slug);
        await checkOwnerGroup(this.deps, tx, taken, batch.pathOf(index), made[index]?.fields.ownerGroupId ?? null);
      }
      taken.assertNone();
      return this.insert(tx, ctx, made);
    });
    if (options.dryRun !== true && rows.some((row) => made.some(({ id }) => id === row.id))) this.deps.onUndiscovered();
    return rows;
  }

  private async insert(
    tx: Transaction,
    ctx: Context,
    made: readonly { readonly id: string; readonly slug: string; readonly fields: ServerFields }[],
  ): Promise<ServerRow[]> {
    const at = new Date(ctx.clock.now());
    const rows = await tx
      .insert(servers)
      .values(
        made.map(({ id, slug, fields }) => {
          return {
            id,
            slug,
            slugKey: slugKey(slug),
            lifecycle: 'draft' as const,
            ...fields,
            createdAt: at,
            updatedAt: at,
          };
        }),
      )
      .returning();
    for (const row of rows) {
      const object = { kind: 'server', id: row.id } as const;
      await recordMutation(tx, ctx, { action: 'server.create', object, after: auditable(row) });
    }
    return rows;
  }

  private async updateAll(ctx: Context, options: MutationOptions, batch: Batch<ServerChange>): Promise<ServerRow[]> {
    ctx.serverScope('server:write');
    const urls = new UrlChecks(this.deps.egress);
    await urls.prepare(await this.likelyEndpoints(batch.items));
    let moved = false;
    const rows = await this.changeAll(
      ctx,
      options,
      batch,
      ['server.update', 'server:write'],
      async ({ item, path, before }, tx, found) => {
        const fields = fieldsOf(item, before);
        checkFields(found, path, item, fields);
        checkStaysWritable(ctx, found, path, fields);
        if (fields.ownerGroupId !== before.ownerGroupId) {
          await checkOwnerGroup(this.deps, tx, found, path, fields.ownerGroupId);
        }
        const goesElsewhere = fields.url !== before.url;
        const isRedone = goesElsewhere || fields.discoveredBy !== before.discoveredBy;
        const badUrl = isRedone ? await urls.problemOf(fields) : undefined;
        if (badUrl !== undefined) found.add(`${path}.url`, badUrl);
        const opensMore = fields.extensions.some((identifier) => !before.extensions.includes(identifier));
        const isRelabelled = !sameLabels(fields.labels, before.labels);
        const reachesMore = goesElsewhere || opensMore || isRelabelled || isKeptLess(fields, before);
        // Whoever sets it decides what is approved later, under labels that come later too.
        const approvesLater = fields.autoApproval !== 'none' && isRelabelled;
        if (
          (isServed(before.lifecycle) && reachesMore) ||
          approvesLater ||
          fields.autoApproval !== before.autoApproval
        ) {
          ctx.authorize('server:approve', before);
          // Labels say who may approve it: nobody approves by way of others what he could not with these.
          ctx.authorize('server:approve', fields);
        }
        moved ||= isRedone;
        if (isRedone) await this.deps.health.forget(tx, controlPlaneObserver, before.id);
        const kept = goesElsewhere
          ? { ...fields, ...(await leaveOrigin(this.deps.credentials, tx, ctx, before, fields.url)) }
          : fields;
        if (goesElsewhere && !isServed(before.lifecycle)) return { ...kept, ...undiscovered };
        return isRedone ? { ...kept, discoveryAttemptedAt: null } : kept;
      },
    );
    if (moved && options.dryRun !== true) this.deps.onUndiscovered();
    return rows;
  }

  /** Where the changed servers will be, unless they are changed by somebody else meanwhile. */
  private async likelyEndpoints(items: readonly ServerChange[]): Promise<ServerFields[]> {
    const changed = items.filter((item) => (item.url ?? item.discoveredBy ?? null) !== null);
    const ids = changed.map(({ id }) => id).filter(isUuid);
    if (ids.length === 0) return [];
    const rows = await this.database.db.select().from(servers).where(inArray(servers.id, ids));
    const byId = new Map(rows.map((row) => [row.id, row]));
    return changed.flatMap((item) => {
      const before = byId.get(item.id.toLowerCase());
      return before === undefined ? [] : [fieldsOf(item, before)];
    });
  }

  private async moveAll(
    ctx: Context,
    options: MutationOptions,
    batch: Batch<Reference>,
    to: Move,
  ): Promise<ServerRow[]> {
    return this.changeAll(ctx, options, batch, moves[to], ({ path, before }, _tx, found) => {
      const problem = transitionProblem(before.lifecycle, to);
      if (problem !== undefined) found.add(`${path}.id`, problem);
      // From a draft on it may be deleted by whoever writes it, and its grants with it.
      if (before.lifecycle === 'disabled') ctx.authorize('server:approve', before);
      return Promise.resolve({ lifecycle: to });
    });
  }

  private async approveAll(ctx: Context, options: MutationOptions, batch: Batch<Reference>): Promise<ServerRow[]> {
    const act = ['server.approve', 'server:approve'] as const;
    return this.changeAll(ctx, options, batch, act, async ({ path, before }, tx, found) => {
      const problem = transitionProblem(before.lifecycle, 'approved');
      if (problem !== undefined) found.add(`${path}.id`, problem);
      else if (before.discoveredAt === null || before.discoveryProblem !== null) {
        const cause = before.discoveryProblemMessage === null ? '' : ` (${before.discoveryProblemMessage})`;
        found.add(
          `${path}.id`,
          `the last discovery must have succeeded${cause}: mend the cause and run discoverServer`,
        );
      }
      if (found.list.length === 0 && !isServed(before.lifecycle) && before.lifecycle !== 'disabled') {
        const standing = await this.deps.webhooks.standing(tx, before);
        await approveFound(tx, before.id, standing, new Date(ctx.clock.now()));
      }
      return { lifecycle: 'approved' };
    });
  }

  private async deleteAll(ctx: Context, options: MutationOptions, batch: Batch<Reference>): Promise<ServerRow[]> {
    const act = ['server.delete', 'server:write'] as const;
    return this.changeAll(ctx, options, batch, act, async ({ before }, tx) => {
      if (before.lifecycle !== 'draft' && before.lifecycle !== 'pending') ctx.authorize('server:approve', before);
      await this.deps.grants.deleteFor(tx, ctx, { serverId: before.id });
      await this.deps.health.forget(tx, controlPlaneObserver, before.id);
      await this.deps.onDeleted(tx, ctx, before.id);
      await this.deps.credentials.destroyFor(tx, ctx, before);
      return { deletedAt: new Date(ctx.clock.now()) };
    });
  }

  private async changeAll<Item extends Reference>(
    ctx: Context,
    options: MutationOptions,
    batch: Batch<Item>,
    [action, permission]: readonly [string, Permission],
    values: (
      one: Located<Item, ServerRow>,
      tx: Transaction,
      found: Violations,
    ) => Promise<Partial<typeof servers.$inferInsert>>,
  ): Promise<ServerRow[]> {
    ctx.serverScope(permission);
    return mutate(this.database, options, async (tx) => {
      const found = new Violations();
      const located = await lockBatch(batch, found, 'server', async (id) => {
        const row = await lockServer(tx, id);
        ctx.authorize(permission, row);
        return row;
      });
      const changes: Partial<typeof servers.$inferInsert>[] = [];
      for (const one of located) changes.push(await values(one, tx, found));
      found.assertNone();
      const rows: ServerRow[] = [];
      for (const [index, { before }] of located.entries()) {
        rows.push(await this.write(tx, ctx, action, before, changes[index] ?? {}));
      }
      // A server that was and stays out of service has no document on any node.
      const known = rows.filter(
        (row, index) => isServed(located[index]?.before.lifecycle ?? 'draft') || isServed(row.lifecycle),
      );
      if (known.length > 0) await bumpConfigGeneration(tx, { serverIds: known.map(({ id }) => id) });
      return rows;
    });
  }

  private async write(
    tx: Transaction,
    ctx: Context,
    action: string,
    before: ServerRow,
    changed: Partial<typeof servers.$inferInsert>,
  ): Promise<ServerRow> {
    const [row] = await tx
      .update(servers)
      .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(servers.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'server vanished under its lock' });
    const object = { kind: 'server', id: row.id } as const;
    await recordMutation(tx, ctx, { action, object, before: auditable(before), after: auditable(row) });
    return row;
  }

  private async checkSlugIsFree(tx: Transaction, found: Violations, path: string, slug: string): Promise<void> {
    if (slugProblem(slug) !== undefined) return;
    const [holder] = await tx
      .select({ slug: servers.slug })
      .from(servers)
      .where(and(eq(servers.slugKey, slugKey(slug)), isNull(servers.deletedAt)));
    if (holder?.slug === slug) found.add(path, 'is taken');
    else if (holder !== undefined) found.add(path, `looks like ${holder.slug}, which is taken`);
  }
}

/** What is wrong with a slug that looks like one further up in the same list. */
function twin(made: readonly { readonly slug: string }[], index: number, batch: Batch<unknown>): string | undefined {
  const key = slugKey(made[index]?.slug ?? '');
  const other = made.findIndex(({ slug }) => slugProblem(slug) === undefined && slugKey(slug) === key);
  return other >= 0 && other < index ? `looks like ${batch.pathOf(other)}.slug` : undefined;
}

function sameLabels(left: Readonly<Record<string, string>>, right: Readonly<Record<string, string>>): boolean {
  return canonicalJson(left) === canonicalJson(right);
}

/** Whether calls would be less surely on record, or served for longer without the control plane. */
function isKeptLess(after: ServerFields, before: ServerFields): boolean {
  if (before.auditMode === 'strict' && after.auditMode !== 'strict') return true;
  const [longest, earlier] = [after.configStalenessMaxMs, before.configStalenessMaxMs];
  // Null is the fleet's, which may be longer or shorter.
  return longest !== earlier && (longest === null || earlier === null || longest > earlier);
}
