import { accessTokenLifetimeMs, tokenClockSkewMs } from '@sallyport/schema';
import { lt } from 'drizzle-orm';
import type { Drizzle, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { oauthRevokedFamilies } from './oauth.tables.ts';

/** How long nodes are told: an access token made at the moment of the revocation has expired by then on every clock. */
const toldForMs = accessTokenLifetimeMs + 2 * tokenClockSkewMs;

/** Families of tokens, which came from one authorization each, with the principal they speak for. */
export interface TokenFamily {
  readonly family: string;
  readonly principalId: string;
}

/** Voids the access tokens of the families on every node; the caller's transaction ends what could make new ones. */
export async function revokeFamilies(tx: Transaction, families: readonly TokenFamily[], nowMs: number): Promise<void> {
  if (families.length === 0) return;
  const revokedAt = new Date(nowMs);
  const expiresAt = new Date(nowMs + toldForMs);
  await tx
    .insert(oauthRevokedFamilies)
    .values(families.map(({ family, principalId }) => ({ family, principalId, revokedAt, expiresAt })))
    .onConflictDoUpdate({ target: oauthRevokedFamilies.family, set: { revokedAt, expiresAt } });
  await bumpConfigGeneration(tx, { principalIds: families.map(({ principalId }) => principalId) });
}

/** Drops what nodes need not be told any longer; run by a timer. */
export async function forgetRevokedFamilies(db: Drizzle, nowMs: number): Promise<void> {
  await db.delete(oauthRevokedFamilies).where(lt(oauthRevokedFamilies.expiresAt, new Date(nowMs)));
}
