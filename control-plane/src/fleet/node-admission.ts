import { helloSigningText, type NodeCertificate, type NodeMessage, sha256, snapshotFormat } from '@sallyport/schema';
import { type Clock, FailedAttempts, type Log, uuidv7 } from '@sallyport/schema/platform';
import { and, desc, eq, gt, isNull, lt, ne, or, sql } from 'drizzle-orm';
import { storableText } from '../audit/storable-text.ts';
import type { Database, Transaction } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import { type FleetKey, signedBy } from './fleet-keys.ts';
import { joinTokens, nodeKeys, nodes } from './fleet.tables.ts';

/** How long a node key is accepted; nodes renew theirs at half of it. */
const nodeKeyTtlMs = 30 * 24 * 3_600_000;
const labelsMax = 32;
const labelLengthMax = 128;
/** A certificate issued later than this ahead of our clock was not issued by this fleet's control plane. */
const clockSkewMsMax = 5 * 60_000;

export type Hello = Extract<NodeMessage, { type: 'hello' }>;

export type Admission =
  | {
      readonly admitted: true;
      readonly nodeId: string;
      readonly connectionId: string;
      readonly keyExpiresAt: number;
      readonly certificate: NodeCertificate;
    }
  | { readonly admitted: false; readonly code: string; readonly message: string };

class Refusal extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/**
 * Decides whether a node may connect, and registers the key it brought. Checks the snapshot format, the join token
 * (hash, expiry, revocation, uses, labels) or the signature by the key registered last. Does NOT check what the node
 * says of itself (build, peer address): those are shown, never trusted.
 */
export class NodeAdmission {
  readonly #database: Database;
  readonly #fleetKey: FleetKey;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #attempts: FailedAttempts;

  constructor(options: {
    readonly database: Database;
    readonly fleetKey: FleetKey;
    readonly clock: Clock;
    readonly log: Log;
  }) {
    this.#database = options.database;
    this.#fleetKey = options.fleetKey;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#attempts = new FailedAttempts({ clock: options.clock });
  }

  /**
   * @param nonce the challenge of this connection
   * @param from the address of the node, or of what it is behind; null where that cannot be told
   */
  async admit(hello: Hello, nonce: string, from: string | null): Promise<Admission> {
    try {
      checkHello(hello);
      if (hello.auth.kind === 'join') this.#assertMayTry(from);
      return await this.#database.db.transaction(async (tx) => {
        const nodeId = hello.auth.kind === 'join' ? await this.#join(tx, hello) : await this.#prove(tx, hello, nonce);
        const issued = await this.#registerKey(tx, nodeId, hello.publicKey);
        return { admitted: true as const, nodeId, connectionId: await this.#connect(tx, nodeId, hello), ...issued };
      });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.code === 'JOIN_TOKEN_REFUSED') this.#attempts.failed(from);
      this.#log.warn({ code: error.code, name: storableText(hello.name) }, error.message);
      return { admitted: false, code: error.code, message: error.message };
    }
  }

  /** Nodes that have joined come by their key, so they are not held up by a token that somebody tries to guess. */
  #assertMayTry(from: string | null): void {
    if (!this.#attempts.isOver(from)) return;
    throw new Refusal('RATE_LIMITED', 'too many join tokens from this network were refused; it is tried again later');
  }

  /** The key of this connection was used: from now on the ones before it are not accepted. */
  async confirmKey(nodeId: string, publicKey: string): Promise<void> {
    const now = new Date(this.#clock.now());
    await this.#database.db.transaction(async (tx) => {
      const confirmed = await tx
        .update(nodeKeys)
        .set({ confirmedAt: now })
        .where(and(eq(nodeKeys.publicKey, publicKey), eq(nodeKeys.nodeId, nodeId), isNull(nodeKeys.confirmedAt)))
        .returning();
      if (confirmed[0] !== undefined) await supersedeBefore(tx, nodeId, publicKey, confirmed[0].createdAt, now);
    });
  }

  /** Registers a fresh key, signed over the connection's challenge by the one in force. */
  async renew(
    nodeId: string,
    current: string,
    nonce: string,
    renewal: { readonly publicKey: string; readonly signature: string },
  ): Promise<{ readonly keyExpiresAt: number; readonly certificate: NodeCertificate } | undefined> {
    if (!signedBy(current, helloSigningText(nonce, renewal.publicKey), renewal.signature)) return undefined;
    return this.#database.db.transaction((tx) => this.#registerKey(tx, nodeId, renewal.publicKey));
  }

  async #join(tx: Transaction, hello: Hello): Promise<string> {
    const token = hello.auth.kind === 'join' ? hello.auth.token : '';
    const now = new Date(this.#clock.now());
    // One statement counts the use, so that two nodes cannot share the last one.
    const used = await tx
      .update(joinTokens)
      .set({ uses: sql`${joinTokens.uses} + 1` })
      .where(
        and(
          eq(joinTokens.hash, sha256(token)),
          gt(joinTokens.expiresAt, now),
          isNull(joinTokens.revokedAt),
          or(isNull(joinTokens.usesMax), lt(joinTokens.uses, joinTokens.usesMax)),
          sql`${joinTokens.labels} <@ ${JSON.stringify(hello.labels)}::jsonb`,
        ),
      )
      .returning();
    const row = used[0];
    if (row === undefined) {
      throw new Refusal(
        'JOIN_TOKEN_REFUSED',
        'the join token is unknown, expired, revoked, used up, or for nodes with other labels',
      );
    }
    const id = uuidv7(this.#clock.now());
    await tx.insert(nodes).values({ id, ...described(hello), joinTokenId: row.id, createdAt: now });
    return id;
  }

  /** The node id, when the hello is signed by a key that is in force for it. */
  async #prove(tx: Transaction, hello: Hello, nonce: string): Promise<string> {
    const { auth } = hello;
    const refusal = new Refusal('KEY_REFUSED', 'the node key is not the one registered last for this node');
    if (auth.kind !== 'key' || !isUuid(auth.nodeId)) throw refusal;
    if (!signedBy(auth.publicKey, helloSigningText(nonce, hello.publicKey), auth.signature)) throw refusal;
    const now = new Date(this.#clock.now());
    const node = (await tx.select().from(nodes).where(eq(nodes.id, auth.nodeId)).for('update'))[0];
    if (node !== undefined && node.removedAt !== null) throw new Refusal('NODE_REMOVED', 'this node was removed');
    const key = (await tx.select().from(nodeKeys).where(eq(nodeKeys.publicKey, auth.publicKey)))[0];
    if (key === undefined) {
      await this.#recoverKey(tx, auth, hello, node !== undefined, now);
    } else {
      if (key.nodeId !== auth.nodeId || key.supersededAt !== null || key.expiresAt <= now) throw refusal;
      await tx
        .update(nodeKeys)
        .set({ confirmedAt: sql`coalesce(${nodeKeys.confirmedAt}, ${now.toISOString()})` })
        .where(eq(nodeKeys.publicKey, key.publicKey));
      await supersedeBefore(tx, auth.nodeId, key.publicKey, key.createdAt, now);
    }
    return auth.nodeId;
  }

  /**
   * A key this database never saw, as after a restore from backup: accepted when the fleet key certified it later than
   * every key that is known for the node. A copy of a superseded key fails here, since its successor is known.
   */
  async #recoverKey(
    tx: Transaction,
    auth: Extract<Hello['auth'], { kind: 'key' }>,
    hello: Hello,
    nodeKnown: boolean,
    now: Date,
  ): Promise<void> {
    const refusal = new Refusal('KEY_REFUSED', 'the node key is not known here');
    const { issuedAt } = auth.certificate;
    if (!this.#fleetKey.certified(auth.nodeId, auth.publicKey, auth.certificate)) throw refusal;
    if (issuedAt + nodeKeyTtlMs <= now.getTime() || issuedAt > now.getTime() + clockSkewMsMax) throw refusal;
    const newest = (
      await tx
        .select()
        .from(nodeKeys)
        .where(eq(nodeKeys.nodeId, auth.nodeId))
        .orderBy(desc(nodeKeys.createdAt))
        .limit(1)
    )[0];
    if (newest !== undefined && newest.createdAt.getTime() >= issuedAt) throw refusal;
    if (!nodeKnown) await tx.insert(nodes).values({ id: auth.nodeId, ...described(hello), createdAt: now });
    await tx.insert(nodeKeys).values({
      publicKey: auth.publicKey,
      nodeId: auth.nodeId,
      createdAt: new Date(issuedAt),
      expiresAt: new Date(issuedAt + nodeKeyTtlMs),
      confirmedAt: now,
    });
    await supersedeBefore(tx, auth.nodeId, auth.publicKey, new Date(issuedAt), now);
    this.#log.warn({ nodeId: auth.nodeId }, 'accepted a node key that this database did not know, by its certificate');
  }

  async #registerKey(
    tx: Transaction,
    nodeId: string,
    publicKey: string,
  ): Promise<{ keyExpiresAt: number; certificate: NodeCertificate }> {
    const now = this.#clock.now();
    const rows = await tx
      .insert(nodeKeys)
      .values({ publicKey, nodeId, createdAt: new Date(now), expiresAt: new Date(now + nodeKeyTtlMs) })
      .onConflictDoUpdate({
        target: nodeKeys.publicKey,
        set: { expiresAt: new Date(now + nodeKeyTtlMs) },
        setWhere: sql`${nodeKeys.nodeId} = ${nodeId} and ${nodeKeys.supersededAt} is null`,
      })
      .returning();
    const row = rows[0];
    if (row === undefined) throw new Refusal('KEY_REFUSED', 'this key was registered before and is no longer accepted');
    const issuedAt = row.createdAt.getTime();
    return { keyExpiresAt: row.expiresAt.getTime(), certificate: this.#fleetKey.certify(nodeId, publicKey, issuedAt) };
  }

  async #connect(tx: Transaction, nodeId: string, hello: Hello): Promise<string> {
    const now = this.#clock.now();
    const connectionId = uuidv7(now);
    await tx
      .update(nodes)
      .set({
        ...described(hello),
        connectionId,
        appliedHistoryId: hello.applied !== null && isUuid(hello.applied.historyId) ? hello.applied.historyId : null,
        appliedRevision: hello.applied?.revision ?? null,
        lastContactAt: new Date(now),
        leftAt: null,
      })
      .where(eq(nodes.id, nodeId));
    return connectionId;
  }
}

function checkHello(hello: Hello): void {
  if (!hello.formats.includes(snapshotFormat)) {
    const reads = hello.formats.join(', ') || 'none';
    throw new Refusal(
      'FORMAT_NOT_SUPPORTED',
      `this control plane writes snapshot format ${snapshotFormat}; node build ${hello.build} reads ${reads}`,
    );
  }
  const labels = Object.entries(hello.labels);
  const long = labels.some(([key, value]) => key.length > labelLengthMax || value.length > labelLengthMax);
  if (labels.length > labelsMax || long) {
    throw new Refusal('HELLO_NOT_VALID', `a node has at most ${labelsMax} labels of ${labelLengthMax} characters`);
  }
  const texts = [hello.name, hello.build, hello.peerUrl ?? '', ...labels.flat(), ...hello.spoolEpochs];
  if (texts.some((text) => storableText(text) !== text)) {
    throw new Refusal('HELLO_NOT_VALID', 'the hello holds characters that cannot be stored');
  }
}

function described(hello: Hello): Pick<
  typeof nodes.$inferInsert,
  'name' | 'build' | 'labels' | 'peerUrl' | 'peerCertificate' | 'spoolEpochs'
> & {
  labels: Record<string, string>;
} {
  return {
    name: hello.name,
    build: hello.build,
    labels: hello.labels,
    peerUrl: hello.peerUrl,
    peerCertificate: hello.peerCertificate,
    spoolEpochs: hello.spoolEpochs,
  };
}

async function supersedeBefore(
  tx: Transaction,
  nodeId: string,
  publicKey: string,
  createdAt: Date,
  now: Date,
): Promise<void> {
  await tx
    .update(nodeKeys)
    .set({ supersededAt: now })
    .where(
      and(
        eq(nodeKeys.nodeId, nodeId),
        ne(nodeKeys.publicKey, publicKey),
        lt(nodeKeys.createdAt, createdAt),
        isNull(nodeKeys.supersededAt),
      ),
    );
}
