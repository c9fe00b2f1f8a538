import { AppError, type CredentialMode, type Permission } from '@sallyport/schema';
import { and, eq, isNull } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { isUuid } from '../database/mutation.ts';
import { type ServerRow, servers } from './catalog.tables.ts';
import { isServed } from './lifecycle.ts';

export type { ServerRow } from './catalog.tables.ts';

/** What is not known any more once a server has another URL. */
export const undiscovered = {
  protocolRevisions: [],
  transport: 'streamableHttp',
  capabilities: {},
  serverInfo: null,
  instructions: null,
  discoveredAt: null,
  discoveryAttemptedAt: null,
  discoveryDoubtedAt: null,
  discoveryProblem: null,
  discoveryProblemMessage: null,
  discoveryNotes: [],
} satisfies Partial<typeof servers.$inferInsert>;

/** The row as the audit trail shows it: what an actor set, not what discovery observed. */
export function auditable(row: ServerRow): unknown {
  const { slugKey: _key, discoveryLease: _lease, discoveryLeaseUntil: _until, discoveryDoubtedAt: _at, ...shown } = row;
  return { ...shown, capabilities: undefined, instructions: undefined, discoveryNotes: undefined };
}

/** A server that is not deleted, whoever asks. */
export async function currentServer(reader: Reader, id: string): Promise<ServerRow | undefined> {
  if (!isUuid(id)) return undefined;
  const [row] = await reader
    .select()
    .from(servers)
    .where(and(eq(servers.id, id), isNull(servers.deletedAt)));
  return row;
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

/** The same for somebody who may do something with it. */
export async function lockServerFor(
  tx: Transaction,
  ctx: Context,
  id: string,
  permission: Permission,
): Promise<ServerRow> {
  const row = await lockServer(tx, id);
  ctx.authorize(permission, row);
  return row;
}

/** Of a change of what a server is called with. */
interface CredentialChange {
  readonly mode: CredentialMode;
  readonly setBy: string;
  /** Nothing but the secret is another. */
  readonly isReplacement: boolean;
}

/** For the slice of credentials, which records the change: what nodes are told of it. The row must be locked. */
export async function setCredentialMode(
  tx: Transaction,
  server: ServerRow,
  { mode, setBy, isReplacement }: CredentialChange,
): Promise<ServerRow> {
  const [row] = await tx
    .update(servers)
    .set({
      credentialMode: mode,
      ...nextRevision(server, isReplacement),
      discoveredAs: mode === 'none' ? null : setBy,
      discoveryAttemptedAt: null,
    })
    .where(eq(servers.id, server.id))
    .returning();
  if (row === undefined) throw new AppError('INTERNAL', { internal: 'server vanished under its lock' });
  if (isServed(row.lifecycle)) await bumpConfigGeneration(tx, { serverIds: [row.id] });
  return row;
}

/** A server that is looked at with this user's account is worth another look: he connected it. */
export async function discoverAgain(tx: Transaction, serverId: string, userId: string): Promise<void> {
  await tx
    .update(servers)
    .set({ discoveryAttemptedAt: null })
    .where(and(eq(servers.id, serverId), eq(servers.discoveredAs, userId)));
}

/** Of the slice of credentials. */
export interface ServerSecrets {
  /** Of a server that goes, or goes elsewhere. */
  destroyFor(tx: Transaction, ctx: Context, server: ServerRow): Promise<void>;
}

/** Secrets are for the origin that they were set for: whoever moves a server must not have them sent elsewhere. */
export async function leaveOrigin(
  secrets: ServerSecrets,
  tx: Transaction,
  ctx: Context,
  before: ServerRow,
  url: string,
): Promise<Partial<typeof servers.$inferInsert>> {
  if (url === before.url) return {};
  if (URL.parse(url)?.origin !== new URL(before.url).origin) await secrets.destroyFor(tx, ctx, before);
  // What nodes were lent is for the resource that was, even where the secret stays.
  return nextRevision(before, false);
}

/** Of the credential of a server. @param isReplacement nothing but the secret is another */
function nextRevision(server: ServerRow, isReplacement: boolean) {
  const credentialRevision = server.credentialRevision + 1;
  const credentialSteadySince = isReplacement ? server.credentialSteadySince : credentialRevision;
  return { credentialRevision, credentialSteadySince };
}
