import { AppError, type CredentialNeed } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { recordAccess } from '../audit/audit.service.ts';
import type { ServerRow } from '../catalog/server-row.service.ts';
import { systemContext } from '../context.ts';
import type { Database } from '../database/client.ts';
import type { TokenUse } from './token-cache.ts';
import type { TokenOutcome } from './token-outcome.ts';

/** The same failure is on record once within this time, by each process: an outage is no flood of events. */
const sameAgainMs = 5 * 60_000;
const rememberedMax = 10_000;

export interface CredentialFailuresDependencies {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
}

/** That a server could not be called with its credential is an event: of whom, where, and why in one word. */
export class CredentialFailures {
  private readonly deps: CredentialFailuresDependencies;
  private readonly recordedAt = new Map<string, number>();
  private readonly known = new WeakSet<AppError>();

  constructor(deps: CredentialFailuresDependencies) {
    this.deps = deps;
  }

  /**
   * An authorization server gave no token. Its one word is on record where it refused, and how it ended where it did not.
   * @returns what to throw, which is no second event where it is handed on
   */
  async noToken(
    server: Pick<ServerRow, 'id' | 'credentialMode'>,
    use: TokenUse & { readonly principalId: string | null },
    outcome: Exclude<TokenOutcome, { kind: 'tokens' }>,
  ): Promise<AppError> {
    const isRefused = outcome.kind === 'refused';
    const reason = isRefused ? outcome.error : outcome.kind;
    const detail = isRefused ? outcome.error : outcome.reason;
    await this.record(server.id, { mode: server.credentialMode, ...use, reason });
    const error = new AppError('CREDENTIAL_UNAVAILABLE', { internal: `no token for ${server.id}: ${detail}` });
    this.known.add(error);
    return error;
  }

  /** Nothing was lent. @param nodeId null: to the control plane itself */
  async notLent(
    nodeId: string | null,
    { serverId, principalId, revision }: CredentialNeed,
    mode: ServerRow['credentialMode'] | null,
    error: AppError,
  ): Promise<void> {
    if (this.known.has(error)) return;
    await this.record(serverId, { mode, principalId, revision, nodeId, reason: error.code });
  }

  private async record(
    serverId: string,
    after: Readonly<Record<string, unknown>> & { readonly principalId: string | null; readonly reason: string },
  ): Promise<void> {
    const { clock, database, log } = this.deps;
    const key = JSON.stringify([serverId, after.principalId, after.reason]);
    const now = clock.monotonic();
    const before = this.recordedAt.get(key);
    if (before !== undefined && now - before < sameAgainMs) return;
    this.remember(key, now);
    try {
      await database.db.transaction((tx) =>
        recordAccess(tx, systemContext('credentials', [], { clock, log }), {
          action: 'credential.fail',
          object: { kind: 'server', id: serverId },
          after,
        }),
      );
    } catch (error) {
      this.recordedAt.delete(key);
      throw error;
    }
  }

  private remember(key: string, now: number): void {
    this.recordedAt.delete(key);
    this.recordedAt.set(key, now);
    const [oldest] = this.recordedAt.keys();
    if (this.recordedAt.size > rememberedMax && oldest !== undefined) this.recordedAt.delete(oldest);
  }
}
