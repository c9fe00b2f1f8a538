import { type ConfigProblem, nodeGoneAfterMs, type NodeLoad } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNotNull, isNull, sql } from 'drizzle-orm';
import { storableText } from '../audit/storable-text.ts';
import type { Database } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import { sendSignal } from '../signals.ts';
import { nodeAlarms, nodeKeys, nodes } from './fleet.tables.ts';

/** Problems kept of one refusal, and the length of a text in them. */
const problemsMax = 50;
const problemLengthMax = 2_000;
/** Kinds of alarm kept for one node. */
const alarmCodesMax = 32;
const alarmCodeLengthMax = 64;
/** The clocks of two control-plane processes may differ by this much. */
const replicaSkewMsMax = 5_000;

/** The connection that reports; a report of one that was replaced changes nothing. */
export interface Reporter {
  readonly nodeId: string;
  readonly connectionId: string;
}

/** How one node is reached by others. */
export interface NamedPeer {
  readonly nodeId: string;
  readonly url: string;
  /** X.509, DER in base64. */
  readonly certificate: string;
}

/** Stores what nodes say of themselves. */
export class NodeReports {
  readonly #database: Database;
  readonly #clock: Clock;

  constructor(options: { readonly database: Database; readonly clock: Clock }) {
    this.#database = options.database;
    this.#clock = options.clock;
  }

  async connected(): Promise<void> {
    await sendSignal(this.#database.db, 'nodes');
  }

  async acknowledged(reporter: Reporter, historyId: string, revision: number): Promise<void> {
    await this.#update(reporter, {
      appliedHistoryId: historyId,
      appliedRevision: revision,
      problems: [],
      problemsRevision: null,
      lastContactAt: new Date(this.#clock.now()),
    });
  }

  /** @param revision what was refused; null where nothing was offered */
  async refused(reporter: Reporter, revision: number | null, problems: readonly ConfigProblem[]): Promise<void> {
    const storable = problems.slice(0, problemsMax).map((problem) => ({
      document: storableText(problem.document).slice(0, problemLengthMax),
      path: storableText(problem.path).slice(0, problemLengthMax),
      message: storableText(problem.message).slice(0, problemLengthMax),
    }));
    await this.#update(reporter, { problems: storable, problemsRevision: revision });
  }

  async left(reporter: Reporter): Promise<void> {
    await this.#update(reporter, { leftAt: new Date(this.#clock.now()), connectionId: null });
  }

  /** Whether the key is or was registered for the node: what it signed before stays verifiable. */
  async knowsKey(nodeId: string, publicKey: string): Promise<boolean> {
    if (!isUuid(nodeId)) return false;
    const rows = await this.#database.db
      .select({ nodeId: nodeKeys.nodeId })
      .from(nodeKeys)
      .where(and(eq(nodeKeys.publicKey, publicKey), eq(nodeKeys.nodeId, nodeId)));
    return rows.length > 0;
  }

  /**
   * Whether a node joined after another was last heard, so that both may be one machine. A former node that is not
   * known here may have been forgotten by a restore from backup: nobody else's name is taken by it.
   */
  async maySucceed(nodeId: string, formerNodeId: string): Promise<boolean> {
    if (!isUuid(nodeId) || !isUuid(formerNodeId)) return false;
    const rows = await this.#database.db
      .select({ id: nodes.id, createdAt: nodes.createdAt, lastContactAt: nodes.lastContactAt })
      .from(nodes)
      .where(inArray(nodes.id, [nodeId, formerNodeId]));
    const node = rows.find(({ id }) => id === nodeId);
    const former = rows.find(({ id }) => id === formerNodeId);
    if (node === undefined) return false;
    if (former === undefined) return true;
    const heardAt = (former.lastContactAt ?? former.createdAt).getTime();
    return node.createdAt.getTime() + replicaSkewMsMax >= heardAt;
  }

  async alarmed(nodeId: string, code: string, message: string): Promise<void> {
    const at = new Date(this.#clock.now());
    const text = storableText(message).slice(0, problemLengthMax);
    const known = await this.#database.db
      .select({ code: nodeAlarms.code })
      .from(nodeAlarms)
      .where(eq(nodeAlarms.nodeId, nodeId));
    const named = storableText(code).slice(0, alarmCodeLengthMax);
    const overflow = known.length >= alarmCodesMax && !known.some((alarm) => alarm.code === named);
    await this.#database.db
      .insert(nodeAlarms)
      .values({ nodeId, code: overflow ? 'OTHER' : named, message: text, firstAt: at, lastAt: at })
      .onConflictDoUpdate({
        target: [nodeAlarms.nodeId, nodeAlarms.code],
        set: { message: text, lastAt: at, occurrences: sql`${nodeAlarms.occurrences} + 1` },
      });
    await sendSignal(this.#database.db, 'nodes');
  }

  /**
   * Stores contact and load of many connections with one statement.
   * @returns the connections that are still the node's own; the others were replaced or their node was removed
   */
  async contacts(
    seen: readonly (Reporter & { readonly contactAt: number; readonly load: NodeLoad | null })[],
  ): Promise<ReadonlySet<string>> {
    if (seen.length === 0) return new Set();
    const rows = seen.map((one) => ({
      node_id: one.nodeId,
      connection_id: one.connectionId,
      contact_at: new Date(one.contactAt).toISOString(),
      load: one.load,
    }));
    const kept = await this.#database.db.execute<{ connection_id: string }>(sql`
      update nodes n set last_contact_at = greatest(n.last_contact_at, x.contact_at), load = coalesce(x.load, n.load)
      from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
        as x(node_id uuid, connection_id uuid, contact_at timestamptz, load jsonb)
      where n.id = x.node_id and n.connection_id = x.connection_id and n.removed_at is null
      returning n.connection_id::text as connection_id`);
    return new Set([...kept].map((row) => row.connection_id));
  }

  /** Every live node that others may call, in a fixed order. */
  async peers(): Promise<readonly NamedPeer[]> {
    const heardAfter = new Date(this.#clock.now() - nodeGoneAfterMs);
    const rows = await this.#database.db
      .select({ nodeId: nodes.id, url: nodes.peerUrl, certificate: nodes.peerCertificate })
      .from(nodes)
      .where(
        and(
          isNull(nodes.removedAt),
          isNull(nodes.leftAt),
          gt(nodes.lastContactAt, heardAfter),
          isNotNull(nodes.peerUrl),
          isNotNull(nodes.peerCertificate),
        ),
      )
      .orderBy(asc(nodes.id));
    return rows.map(({ nodeId, url, certificate }) => ({ nodeId, url: url ?? '', certificate: certificate ?? '' }));
  }

  async #update(reporter: Reporter, values: Partial<typeof nodes.$inferInsert>): Promise<void> {
    await this.#database.db
      .update(nodes)
      .set(values)
      .where(
        and(eq(nodes.id, reporter.nodeId), eq(nodes.connectionId, reporter.connectionId), isNull(nodes.removedAt)),
      );
    await sendSignal(this.#database.db, 'nodes');
  }
}
