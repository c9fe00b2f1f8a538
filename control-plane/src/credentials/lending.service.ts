import {
  AppError,
  type CredentialNeed,
  credentialProblems,
  type LentCredential,
  perUserModes,
  toAppError,
} from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { z } from 'zod';
import { recordAccess } from '../audit/audit.service.ts';
import { currentServer, type ServerRow } from '../catalog/server-row.service.ts';
import { systemContext } from '../context.ts';
import type { Database } from '../database/client.ts';
import type { Lending } from '../fleet/node-connection.ts';
import type { CredentialVault } from './credential-vault.ts';
import type { Exchanges } from './exchange.service.ts';
import type { CredentialFailures } from './failure.service.ts';
import type { IdentityTokens } from './identity-token.service.ts';
import type { TokenLending } from './token-lending.service.ts';
import { openServerCredential } from './server-credential-secret.ts';
import { storedCredentialOf } from './server-credential.service.ts';

const storedHeaders = z.array(z.tuple([z.string(), z.string()]));

export interface LendingDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly tokens: TokenLending;
  readonly exchanges: Exchanges;
  readonly identityTokens: IdentityTokens;
  readonly failures: CredentialFailures;
  /** Where a user connects his account; null where he cannot. */
  readonly linkTo: (principalId: string, serverId: string) => string | null;
  readonly clock: Clock;
  readonly log: Log;
}

/** Makes what a call to a server needs, for nodes that are about to make it and for the discovery. */
export class LendingService {
  private readonly deps: LendingDependencies;

  constructor(deps: LendingDependencies) {
    this.deps = deps;
  }

  /** For a node. Each lending is an event of the audit trail, and so is that nothing was lent. Never rejects. */
  async lend(nodeId: string, need: CredentialNeed): Promise<Lending> {
    let server: ServerRow | undefined;
    try {
      server = await currentServer(this.deps.database.db, need.serverId);
      // A node that runs an older configuration takes the new one within moments.
      if (server === undefined || !isLentAt(server, need.revision)) throw new AppError('CREDENTIAL_UNAVAILABLE');
      const credential = await this.make(server, need);
      await this.record(nodeId, credential, server);
      // By its revision the node knows what it asked for, and lets go of this one with the configuration that it runs.
      return { ok: true, credential: { ...credential, revision: need.revision } };
    } catch (thrown) {
      const error = toAppError(thrown);
      await this.deps.failures.notLent(nodeId, need, server?.credentialMode ?? null, error).catch((err: unknown) => {
        this.deps.log.error({ err, nodeId, serverId: need.serverId }, 'that no credential was lent is not on record');
      });
      return this.refusal(nodeId, need, error);
    }
  }

  /**
   * Headers for the control plane's own look at a server; none where it is called without a credential. An event, as
   * a lending to a node is.
   * @throws AppError CREDENTIAL_…
   */
  async headersFor(server: ServerRow): Promise<LentCredential['headers']> {
    const need = needOf(server);
    if (need === null) return [];
    try {
      const credential = await this.make(server, need);
      await this.record(null, credential, server);
      return credential.headers;
    } catch (error) {
      await this.deps.failures.notLent(null, need, server.credentialMode, toAppError(error));
      throw error;
    }
  }

  private async make(server: ServerRow, need: CredentialNeed): Promise<LentCredential> {
    switch (server.credentialMode) {
      case 'staticHeaders':
        return this.staticHeaders(server);
      case 'clientCredentials':
        return this.deps.tokens.ofService(server, need);
      case 'userOAuth':
        return this.deps.tokens.ofUser(server, need);
      case 'tokenExchange':
        return this.deps.exchanges.byTokenExchange(server, need);
      case 'identityToken':
        return this.deps.identityTokens.ofUser(server, need);
      case 'identityAssertion':
        return this.deps.exchanges.byIdentityAssertion(server, need);
      case 'none':
        throw new AppError('CREDENTIAL_MISSING', { internal: `the mode ${server.credentialMode} lends nothing` });
    }
  }

  private async staticHeaders(server: ServerRow): Promise<LentCredential> {
    const row = await storedCredentialOf(this.deps.database.db, server, 'staticHeaders');
    const secret = await openServerCredential(this.deps.vault, row);
    return {
      id: row.id,
      serverId: server.id,
      principalId: null,
      issuer: null,
      resource: null,
      revision: server.credentialRevision,
      origin: row.origin,
      headers: storedHeaders.parse(JSON.parse(secret)),
      expiresAt: null,
      renewable: false,
    };
  }

  private async record(nodeId: string | null, credential: LentCredential, server: ServerRow): Promise<void> {
    const { id, serverId, principalId, issuer, resource, revision, expiresAt } = credential;
    const after = {
      nodeId,
      credentialId: id,
      mode: server.credentialMode,
      principalId,
      issuer,
      resource,
      revision,
      expiresAt,
    };
    await this.deps.database.db.transaction((tx) =>
      recordAccess(tx, systemContext('lending', [], this.deps), {
        action: 'credential.lend',
        object: { kind: 'server', id: serverId },
        after,
      }),
    );
  }

  private refusal(nodeId: string, need: CredentialNeed, error: AppError): Lending {
    const { code } = error;
    const problem = credentialProblems.find((known) => known === code) ?? 'CREDENTIAL_UNAVAILABLE';
    const { principalId } = need;
    const isOwn = problem === 'CONNECTION_NEEDED' && principalId !== null;
    const connectUrl = isOwn ? this.deps.linkTo(principalId, need.serverId) : null;
    this.deps.log.warn({ nodeId, serverId: need.serverId, problem, detail: error.message }, 'no credential was lent');
    return { ok: false, problem, connectUrl };
  }
}

/**
 * Whether a node that runs this revision of a server's credential is lent what is stored now. It is where nothing but secrets
 * changed since: whose it is and where it goes are as the node has it, and only the newest secret is there.
 */
function isLentAt({ credentialRevision, credentialSteadySince }: ServerRow, revision: number): boolean {
  return credentialSteadySince <= revision && revision <= credentialRevision;
}

type DiscoveredWith = Pick<ServerRow, 'id' | 'credentialMode' | 'credentialRevision' | 'discoveredAs'>;

/**
 * What the look at a server needs first; null where it is called without a credential. Where it wants an account, it is
 * looked at with that of the administrator who set its credential.
 */
export function needOf(server: DiscoveredWith): CredentialNeed | null {
  if (server.credentialMode === 'none') return null;
  const principalId = perUserModes.has(server.credentialMode) ? server.discoveredAs : null;
  return { serverId: server.id, principalId, revision: server.credentialRevision, refused: null };
}
