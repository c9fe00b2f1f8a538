import { AppError, contactLostAfterMs, defaultLimits, type LimitsDocument, nodeGoneAfterMs } from '@sallyport/schema';
import { and, asc, desc, eq, gt, inArray, isNotNull, isNull, lte, or } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { isUuid, mutate } from '../database/mutation.ts';
import { configGeneration, settings } from '../database/settings.tables.ts';
import { sendSignal } from '../signals.ts';
import { currentHistory, type FleetVault, insertSealingKey } from './fleet-keys.ts';
import {
  configManifests,
  type ConfigProblemRow,
  configProblems,
  fleetKeys,
  type NodeAlarmRow,
  nodeAlarms,
  nodeKeys,
  type NodeRow,
  nodes,
  type SealingKeyRow,
  sealingKeys,
} from './fleet.tables.ts';
import { limitsSetting } from './read-configuration.ts';

/** `live`: in contact and running the newest configuration. `gone`: unseen for 60 s, or it said goodbye. */
export const nodeStatuses = ['live', 'unconverged', 'gone'] as const;
export type NodeStatus = (typeof nodeStatuses)[number];

const alarmsShownMax = 32;
const problemsShownMax = 200;
const goneNodesShownMax = 200;
/** Keys that are waiting to seal; one rotation at a time is all that makes sense. */
const keysWaitingMax = 1;

interface MutationOptions {
  readonly dryRun?: boolean | null | undefined;
}

export interface ConfigStatus {
  readonly historyId: string;
  readonly fleetPublicKey: string;
  /** 0 before the first publication. */
  readonly configRevision: number;
  readonly publishedAt: Date | null;
  /** Changes were committed that no published configuration has yet. */
  readonly pending: boolean;
  readonly nodesLive: number;
  /** Nodes that are not gone. */
  readonly nodesTotal: number;
  readonly summary: string;
  readonly problems: readonly ConfigProblemRow[];
}

export interface Convergence {
  readonly configRevision: number;
  /** Every node that is not gone runs this revision or a later one, and is in contact. */
  readonly converged: boolean;
  readonly summary: string;
  /** Those that are not gone, then those that are and may serve an older configuration all the same. */
  readonly nodes: readonly {
    readonly node: NodeRow;
    /** `live`: in contact, with this revision or a later one. */
    readonly state: NodeStatus;
    readonly applied: boolean;
    readonly inContact: boolean;
  }[];
}

/** How the fleet is, in numbers. */
export interface FleetCounts {
  readonly revision: number;
  readonly pending: boolean;
  /** Objects that cannot be published. */
  readonly withheld: number;
  /** `gone`: without a goodbye, and heard so lately that they may serve what they have. */
  readonly nodes: Readonly<Record<NodeStatus, number>>;
}

interface Published {
  readonly historyId: string;
  readonly revision: number;
  readonly generation: number;
  readonly publishedAt: Date | null;
}

/** Nodes as the API shows them, and what an administrator does to them. */
export class NodeService {
  private readonly database: Database;
  private readonly vault: FleetVault;
  /** The published revision, for the neighbours of a list; read once a turn. */
  private readonly published: (key: string) => Promise<Published | undefined>;
  /** Alarms of a node; the caller has authorized. */
  readonly alarmsOf: (nodeId: string) => Promise<readonly NodeAlarmRow[] | undefined>;

  constructor(database: Database, vault: FleetVault) {
    this.database = database;
    this.vault = vault;
    this.published = batched(async (keys) => {
      const newest = await readPublished(database.db);
      return new Map(keys.map((key) => [key, newest]));
    });
    this.alarmsOf = batched(async (ids) => {
      const rows = await database.db
        .select()
        .from(nodeAlarms)
        .where(inArray(nodeAlarms.nodeId, [...ids]))
        .orderBy(desc(nodeAlarms.lastAt))
        .limit(ids.length * alarmsShownMax);
      return Map.groupBy(rows, (row) => row.nodeId);
    });
  }

  async get(ctx: Context, id: string): Promise<NodeRow> {
    ctx.authorize('node:read');
    return find(this.database.db, id);
  }

  async list(
    ctx: Context,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<NodeRow[]> {
    ctx.authorize('node:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(nodes)
      .where(and(isNull(nodes.removedAt), after === undefined ? undefined : gt(nodes.id, after)))
      .orderBy(asc(nodes.id))
      .limit(page.limit + 1);
  }

  async statusOf(ctx: Context, node: NodeRow): Promise<NodeStatus> {
    const published = await this.published('newest');
    return nodeStatus(node, published, ctx.clock.now());
  }

  /** Revision published and status of every node, to notice that one changed; nothing here is shown to anybody. */
  async states(nowMs: number): Promise<readonly [number, ...(readonly [string, NodeStatus])[]]> {
    const published = await readPublished(this.database.db);
    const present = await presentNodes(this.database.db, nowMs);
    return [published.revision, ...present.map((node) => [node.id, nodeStatus(node, published, nowMs)] as const)];
  }

  /** For the operator's metrics: numbers alone, so nobody has to be authorized. */
  async counts(nowMs: number): Promise<FleetCounts> {
    const { db } = this.database;
    const published = await readPublished(db);
    const nodes = { live: 0, unconverged: 0, gone: (await goneNodes(db, nowMs)).length };
    for (const node of await presentNodes(db, nowMs)) nodes[nodeStatus(node, published, nowMs)] += 1;
    const [generation] = await db.select().from(configGeneration).where(eq(configGeneration.id, 1));
    const pending = (generation?.generation ?? 0) > published.generation;
    return { revision: published.revision, pending, withheld: await db.$count(configProblems), nodes };
  }

  async configStatus(ctx: Context): Promise<ConfigStatus> {
    ctx.authorize('node:read');
    const { db } = this.database;
    const published = await readPublished(db);
    const present = await presentNodes(db, ctx.clock.now());
    const nodesLive = present.filter((node) => nodeStatus(node, published, ctx.clock.now()) === 'live').length;
    const generation = await db.select().from(configGeneration).where(eq(configGeneration.id, 1));
    const problems = await db.select().from(configProblems).orderBy(asc(configProblems.since)).limit(problemsShownMax);
    const fleetKey = await db.select({ publicKey: fleetKeys.publicKey }).from(fleetKeys).limit(1);
    return {
      historyId: published.historyId,
      fleetPublicKey: fleetKey[0]?.publicKey ?? '',
      configRevision: published.revision,
      publishedAt: published.publishedAt,
      pending: (generation[0]?.generation ?? 0) > published.generation,
      nodesLive,
      nodesTotal: present.length,
      summary: summaryOf(published.revision, nodesLive, present.length),
      problems,
    };
  }

  /** Which nodes enforce a revision: what to wait for after a revocation. */
  async convergence(ctx: Context, configRevision: number): Promise<Convergence> {
    ctx.authorize('node:read');
    const published = await readPublished(this.database.db);
    const nowMs = ctx.clock.now();
    const present = await presentNodes(this.database.db, nowMs);
    const gone = await goneNodes(this.database.db, nowMs);
    const states = present.map((node) => {
      const applied = node.appliedHistoryId === published.historyId && (node.appliedRevision ?? 0) >= configRevision;
      const inContact = contactAgeMs(node, nowMs) <= contactLostAfterMs;
      const state: NodeStatus = applied && inContact ? 'live' : 'unconverged';
      return { node, state, applied, inContact };
    });
    const having = states.filter(({ state }) => state === 'live').length;
    return {
      configRevision,
      converged: configRevision <= published.revision && having === states.length,
      summary: summaryOf(configRevision, having, states.length, gone.length),
      nodes: [...states, ...gone.map((node) => ({ node, state: 'gone' as const, applied: false, inContact: false }))],
    };
  }

  /** Ends the node's identity: its keys are not accepted any more and its connection is closed within a second. */
  async remove(ctx: Context, input: MutationOptions & { readonly id: string }): Promise<NodeRow> {
    ctx.authorize('node:write');
    const now = new Date(ctx.clock.now());
    return mutate(this.database, input, async (tx) => {
      const before = await find(tx, input.id, true);
      const [row] = await tx
        .update(nodes)
        .set({ removedAt: now, connectionId: null })
        .where(eq(nodes.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'node vanished under its lock' });
      await tx
        .update(nodeKeys)
        .set({ supersededAt: now })
        .where(and(eq(nodeKeys.nodeId, row.id), isNull(nodeKeys.supersededAt)));
      await recordMutation(tx, ctx, {
        action: 'node.remove',
        object: { kind: 'node', id: row.id },
        before,
        after: row,
      });
      await sendSignal(tx, 'nodes');
      return row;
    });
  }

  /**
   * Begins a rotation: the new key is published so that nodes can open what it seals, and begins to seal by itself
   * when every node has it.
   */
  async rotateSealingKey(ctx: Context, input: MutationOptions): Promise<SealingKeyRow> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const waiting = await tx
        .select()
        .from(sealingKeys)
        .where(and(eq(sealingKeys.use, 'open'), isNull(sealingKeys.sealingSince)));
      if (waiting.length >= keysWaitingMax) {
        throw new AppError('CONFLICT', {
          publicMessage: 'A rotation is under way: some node has not acknowledged it.',
        });
      }
      const id = await insertSealingKey(tx, this.vault, ctx.clock, 'open');
      await recordMutation(tx, ctx, { action: 'sealingKey.rotate', object: { kind: 'sealingKey', id }, after: { id } });
      await bumpConfigGeneration(tx);
      const [row] = await tx.select().from(sealingKeys).where(eq(sealingKeys.id, id));
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'sealing key was not inserted' });
      return row;
    });
  }

  async sealingKeys(ctx: Context): Promise<SealingKeyRow[]> {
    ctx.authorize('settings:read');
    return this.database.db.select().from(sealingKeys).orderBy(asc(sealingKeys.createdAt));
  }
}

function summaryOf(revision: number, having: number, total: number, gone = 0): string {
  const live = `revision ${revision} is live on ${having} of ${total} ${total === 1 ? 'node' : 'nodes'}`;
  return gone === 0 ? live : `${live}; ${gone} gone`;
}

function contactAgeMs(node: Pick<NodeRow, 'lastContactAt'>, nowMs: number): number {
  return node.lastContactAt === null ? Number.POSITIVE_INFINITY : nowMs - node.lastContactAt.getTime();
}

/** Pure: a node without contact is never counted as live, whatever it ran last. */
export function nodeStatus(
  node: Pick<NodeRow, 'lastContactAt' | 'leftAt' | 'removedAt' | 'appliedHistoryId' | 'appliedRevision'>,
  published: Pick<Published, 'historyId' | 'revision'> | undefined,
  nowMs: number,
): NodeStatus {
  const ageMs = contactAgeMs(node, nowMs);
  if (node.removedAt !== null || node.leftAt !== null || ageMs > nodeGoneAfterMs) return 'gone';
  if (ageMs > contactLostAfterMs || published === undefined) return 'unconverged';
  const current = node.appliedHistoryId === published.historyId && node.appliedRevision === published.revision;
  return current ? 'live' : 'unconverged';
}

async function presentNodes(reader: Reader, nowMs: number): Promise<NodeRow[]> {
  return reader
    .select()
    .from(nodes)
    .where(
      and(isNull(nodes.removedAt), isNull(nodes.leftAt), gt(nodes.lastContactAt, new Date(nowMs - nodeGoneAfterMs))),
    )
    .orderBy(asc(nodes.id));
}

/** Nodes that are gone without a goodbye, or were removed, and were heard so lately that they may serve what they have. */
async function goneNodes(reader: Reader, nowMs: number): Promise<NodeRow[]> {
  const [limits] = await reader.select().from(settings).where(eq(settings.key, limitsSetting));
  const { configStalenessMaxMs } = { ...defaultLimits, ...(limits?.value as Partial<LimitsDocument> | undefined) };
  return reader
    .select()
    .from(nodes)
    .where(
      and(
        isNull(nodes.leftAt),
        gt(nodes.lastContactAt, new Date(nowMs - configStalenessMaxMs)),
        or(isNotNull(nodes.removedAt), lte(nodes.lastContactAt, new Date(nowMs - nodeGoneAfterMs))),
      ),
    )
    .orderBy(desc(nodes.lastContactAt))
    .limit(goneNodesShownMax);
}

async function readPublished(reader: Reader): Promise<Published> {
  const { id } = await currentHistory(reader);
  const [row] = await reader
    .select()
    .from(configManifests)
    .where(eq(configManifests.historyId, id))
    .orderBy(desc(configManifests.revision))
    .limit(1);
  if (row === undefined) return { historyId: id, revision: 0, generation: -1, publishedAt: null };
  return { historyId: id, revision: row.revision, generation: row.generation, publishedAt: row.publishedAt };
}

async function find(reader: Reader | Transaction, id: string, lock = false): Promise<NodeRow> {
  if (!isUuid(id)) throw new AppError('NOT_FOUND');
  const query = reader
    .select()
    .from(nodes)
    .where(and(eq(nodes.id, id), isNull(nodes.removedAt)));
  const [row] = lock ? await query.for('update') : await query;
  if (row === undefined) throw new AppError('NOT_FOUND');
  return row;
}
