import { createPublicKey } from 'node:crypto';
import type { Clock, Log } from '@sallyport/schema/platform';
import { decodeProtectedHeader, jwtVerify } from 'jose';
import type { Provider } from 'oidc-provider';
import { z } from 'zod';
import { systemContext } from '../context.ts';
import type { Database } from '../database/client.ts';
import type { SigningKey } from '../fleet/signing-keys.ts';
import type { ClientService } from './client.service.ts';
import type { ObjectStore } from './object-store.service.ts';

export interface AccessTokenRevocationOptions {
  readonly issuer: string;
  readonly database: Pick<Database, 'db'>;
  readonly store: Pick<ObjectStore, 'endFamilies'>;
  readonly clients: Pick<ClientService, 'endOwnTokens'>;
  readonly clock: Clock;
  readonly log: Log;
}

const claimsSchema = z.looseObject({ sub: z.string(), client_id: z.string(), family: z.string() });

/**
 * Revocation by an access token (RFC 7009). It ends the authorization that the token came from, its refresh token too
 * (§2.1 allows it): nodes are told of families, never of single tokens, so that the list they hold stays short
 * (decision 0055). The library answers `unsupported_token_type` for a JWT, after it has authenticated the client; what
 * is done here begins there.
 */
export class AccessTokenRevocation {
  private readonly options: AccessTokenRevocationOptions;

  constructor(options: AccessTokenRevocationOptions) {
    this.options = options;
  }

  register(provider: Provider, keys: readonly SigningKey[]): void {
    provider.use(async (ctx, next) => {
      await next();
      const { oidc } = ctx;
      const error = (ctx.body as { error?: string } | undefined)?.error;
      if (oidc?.route !== 'revocation' || oidc.client === undefined || error !== 'unsupported_token_type') return;
      await this.revoke(keys, oidc.client.clientId, String(oidc.params?.['token']));
      ctx.status = 200;
      ctx.body = '';
    });
  }

  /** A token that is not one of ours and of this client, or has expired, is nothing to revoke (§2.2). */
  private async revoke(keys: readonly SigningKey[], clientId: string, token: string): Promise<void> {
    const { database, store, clients, clock, log } = this.options;
    const claims = await this.claimsOf(keys, token);
    if (claims === undefined || claims.client_id !== clientId) return;
    const { family, sub } = claims;
    const ctx = systemContext('token revocation', [], { clock, log });
    await database.db.transaction(async (tx) => {
      if (family.startsWith('client.')) await clients.endOwnTokens(tx, ctx, sub, { clientId, family });
      else await store.endFamilies(tx, { family });
    });
  }

  private async claimsOf(keys: readonly SigningKey[], token: string) {
    const { issuer, clock } = this.options;
    try {
      const { kid } = decodeProtectedHeader(token);
      const key = keys.find(({ id }) => id === kid);
      if (key === undefined) return undefined;
      const { payload } = await jwtVerify(token, createPublicKey(key.privateKey), {
        issuer,
        typ: 'at+jwt',
        algorithms: ['ES256'],
        currentDate: new Date(clock.now()),
      });
      return claimsSchema.parse(payload);
    } catch {
      return undefined;
    }
  }
}
