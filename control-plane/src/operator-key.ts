import { AppError } from '@sallyport/schema';
import { createLog, systemClock } from '@sallyport/schema/platform';
import { systemContext } from './context.ts';
import { openDatabase } from './database/client.ts';
import { mutate } from './database/mutation.ts';
import { ApiKeyService } from './identity/api-key.service.ts';
import { accessServices } from './services.ts';

export interface OperatorKey {
  readonly principalId: string;
  readonly name: string;
  readonly lifetimeMs: number;
}

/**
 * Makes a key for the API, which no user of the control plane has seen: the way to a key of one's own where all others go
 * back to one person. For who operates the database; the audit trail tells of it. Nothing is checked but the holder.
 * @returns the secret of the key
 */
export async function issueOperatorKey(databaseUrl: string, wanted: OperatorKey): Promise<string> {
  const database = openDatabase({ url: databaseUrl, connectionsMax: 2 });
  try {
    const ctx = systemContext('operator', [], {
      clock: systemClock,
      log: createLog({ name: 'operator', level: 'error' }),
    });
    const { roles } = accessServices(database, () => Promise.resolve([]));
    const apiKeys = new ApiKeyService(database, roles, () => Promise.resolve(false));
    const { principalId, name, lifetimeMs } = wanted;
    const expiresAt = new Date(ctx.clock.now() + lifetimeMs);
    const { secret } = await mutate(database, {}, (tx) =>
      apiKeys.insert(tx, ctx, { principalId, name, scopes: ['api'], expiresAt }),
    );
    if (secret === null) throw new AppError('INTERNAL', { internal: 'the key has no secret' });
    return secret;
  } finally {
    await database.close();
  }
}
