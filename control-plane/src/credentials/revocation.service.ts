import { toAppError } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { and, asc, eq, inArray, lte, ne, sql } from 'drizzle-orm';
import { recordAccess } from '../audit/audit.service.ts';
import { systemContext } from '../context.ts';
import type { Database, Reader } from '../database/client.ts';
import type { AuthorizationServers } from './authorization-servers.ts';
import type { UpstreamClient } from './client-authentication.ts';
import { type ConnectionRow, connections, retiredCredentials } from './credential.tables.ts';
import { endConnections } from './forgotten.service.ts';
import type { RefreshService } from './refresh.service.ts';

/** Told all at once, so that an authorization server that does not answer keeps no other waiting. */
const rowsPerRun = 50;
/** After so many attempts the tokens are destroyed without their authorization server having been told. */
const attemptsMax = 6;
const retryAfterMs = 30_000;

export interface RevocationDependencies {
  readonly database: Database;
  readonly refreshes: Pick<RefreshService, 'open'>;
  readonly servers: Pick<AuthorizationServers, 'revoke'>;
  readonly clientOf: (connection: ConnectionRow) => Promise<UpstreamClient>;
  /** Of these principals, those who may not act any more. */
  readonly unusable: (reader: Reader, principalIds: readonly string[]) => Promise<readonly string[]>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Tells authorization servers that connections ended (RFC 7009), as far as they answer, and destroys the tokens. */
export class RevocationService {
  private readonly deps: RevocationDependencies;
  private swept = '00000000-0000-0000-0000-000000000000';

  constructor(deps: RevocationDependencies) {
    this.deps = deps;
  }

  async run(): Promise<void> {
    await this.endOfUnusable();
    const { database, clock } = this.deps;
    const due = await database.db
      .select()
      .from(connections)
      .where(and(eq(connections.status, 'ended'), lte(connections.revokeNotBefore, new Date(clock.now()))))
      .orderBy(asc(connections.revokeNotBefore))
      .limit(rowsPerRun);
    await Promise.all(due.map((row) => this.revoke(row)));
    await this.forgetRetired();
  }

  /** Clients by which nothing is to be revoked any more. */
  private async forgetRetired(): Promise<void> {
    await this.deps.database.db.delete(retiredCredentials).where(
      sql`not exists (select 1 from ${connections} c where c.server_id = ${retiredCredentials.serverId}
        and c.status = 'ended' and c.client_id = ${retiredCredentials.settings} ->> 'clientId')`,
    );
  }

  /** Users who were deactivated or deleted: their tokens end with them. Goes round all connections, some in each run. */
  private async endOfUnusable(): Promise<void> {
    const { database, unusable, clock } = this.deps;
    const rows = await database.db
      .selectDistinct({ principalId: connections.principalId })
      .from(connections)
      .where(and(ne(connections.status, 'ended'), sql`${connections.principalId} > ${this.swept}::uuid`))
      .orderBy(asc(connections.principalId))
      .limit(1_000);
    const ids = rows.map(({ principalId }) => principalId);
    this.swept = ids.length < 1_000 ? '00000000-0000-0000-0000-000000000000' : (ids.at(-1) ?? this.swept);
    const gone = ids.length === 0 ? [] : await unusable(database.db, ids);
    if (gone.length === 0) return;
    await database.db.transaction(async (tx) => {
      const now = new Date(clock.now());
      for (const row of await endConnections(tx, now, inArray(connections.principalId, [...gone]))) {
        const after = { principalId: row.principalId, serverId: row.serverId, reason: 'userMayNotAct' };
        const object = { kind: 'connection', id: row.id };
        await recordAccess(tx, systemContext('revocation', [], this.deps), { action: 'connection.end', object, after });
      }
    });
  }

  private async revoke(row: ConnectionRow): Promise<void> {
    const { database, clock, log } = this.deps;
    const isRevoked = await this.tell(row).catch((error: unknown) => {
      log.warn(
        { err: toAppError(error), connectionId: row.id },
        'an authorization server was not told of a revocation',
      );
      return undefined;
    });
    if (isRevoked !== undefined || row.revokeAttempts + 1 >= attemptsMax) {
      await database.db.transaction(async (tx) => {
        const gone = await tx.delete(connections).where(eq(connections.id, row.id)).returning({ id: connections.id });
        // Another process may have been faster, and has said so.
        if (gone.length === 0) return;
        const after = {
          principalId: row.principalId,
          serverId: row.serverId,
          issuer: row.issuer,
          isRevoked: isRevoked === true,
          attempts: row.revokeAttempts + 1,
        };
        const object = { kind: 'connection', id: row.id };
        await recordAccess(tx, systemContext('revocation', [], this.deps), {
          action: 'connection.destroy',
          object,
          after,
        });
      });
      return;
    }
    await database.db
      .update(connections)
      .set({
        revokeAttempts: row.revokeAttempts + 1,
        revokeNotBefore: new Date(clock.now() + retryAfterMs * 2 ** row.revokeAttempts),
      })
      .where(eq(connections.id, row.id));
  }

  /** @returns false where the authorization server takes no revocations */
  private async tell(row: ConnectionRow): Promise<boolean> {
    const { refreshes, servers, clientOf } = this.deps;
    const { tokens } = await refreshes.open(row);
    return servers.revoke(row.issuer, await clientOf(row), tokens.refreshToken ?? tokens.accessToken);
  }
}
