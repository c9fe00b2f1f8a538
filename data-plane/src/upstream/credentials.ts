import {
  AppError,
  type CredentialNeed,
  type CredentialProblem,
  type LentCredential,
  perUserModes,
  type PrincipalRecord,
} from '@sallyport/schema';
import type { ServerRuntime } from '../runtime/runtime.ts';

/** Credentials held at once; the one used least lately goes first. */
const entriesMax = 50_000;
/** Before its end another one is asked for in the background, this long or a fifth of its life, whichever is less. */
const renewAheadMs = 60_000;
const renewAheadShare = 0.2;
/** One that ends sooner is not sent: it would end on the way. */
const unusableBeforeEndMs = 2_000;

export interface CredentialSource {
  /** Asks the control plane. Never rejects. */
  readonly lend: (
    need: CredentialNeed,
  ) => Promise<
    | { readonly ok: true; readonly credential: LentCredential }
    | { readonly ok: false; readonly problem: CredentialProblem; readonly connectUrl: string | null }
  >;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
}

/** What goes along with a call. */
export interface UpstreamCredential {
  /** Name, value, name, value, … */
  readonly headers: readonly string[];
  readonly expiresAt: number | null;
  readonly renewable: boolean;
}

/** What an upstream said instead of an answer. */
export interface Refusal {
  readonly status: 401 | 403;
  /** `WWW-Authenticate`. */
  readonly challenge: string | null;
}

interface Entry extends UpstreamCredential {
  readonly serverId: string;
  readonly principalId: string | null;
  readonly renewAt: number;
}

const challengeLengthMax = 2_048;

/**
 * What this node was lent toward upstreams, in memory alone. An entry is found by server, revision of its credential,
 * principal and his epoch: once the configuration has another of these, the entry cannot be reached.
 */
export class UpstreamCredentials {
  readonly #source: CredentialSource;
  readonly #entries = new Map<string, Entry>();
  readonly #asked = new Map<string, Promise<Entry>>();

  constructor(source: CredentialSource) {
    this.#source = source;
  }

  /**
   * What a call needs; null where the server is called without. At once where it is here already.
   * @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, CONNECTION_NEEDED
   */
  forCall(server: ServerRuntime, principal: PrincipalRecord): UpstreamCredential | Promise<UpstreamCredential> | null {
    if (server.document.credential === undefined) return null;
    const key = keyOf(server, principal);
    const entry = this.#entries.get(key);
    const now = this.#source.now();
    if (entry === undefined || (entry.expiresAt !== null && entry.expiresAt - unusableBeforeEndMs <= now)) {
      return this.#ask(key, server, principal, null);
    }
    if (entry.renewAt <= now) {
      // What is here serves until it ends; a failure to renew it shows then.
      this.#ask(key, server, principal, null).catch(() => undefined);
    }
    return entry;
  }

  /**
   * The upstream did not accept what was sent: another one, or undefined where there is none that could do better.
   * @throws AppError as `forCall`
   */
  async refused(
    server: ServerRuntime,
    principal: PrincipalRecord,
    sent: UpstreamCredential,
    { status, challenge }: Refusal,
  ): Promise<UpstreamCredential | undefined> {
    // Without a word of scopes it is the upstream's own rule, which no other token of the same user gets past.
    if (status === 403 && challenge?.includes('insufficient_scope') !== true) return undefined;
    const key = keyOf(server, principal);
    const held = this.#entries.get(key);
    // Another call was refused before and has already brought another one.
    if (held !== undefined && held !== sent) return held;
    this.#entries.delete(key);
    if (!sent.renewable) return undefined;
    const refused = { status, challenge: challenge?.slice(0, challengeLengthMax) ?? null, expiresAt: sent.expiresAt };
    return await this.#ask(key, server, principal, refused);
  }

  /** What was lent for a server and a principal, either of which may be all, is not used any more. */
  forget(serverId: string | null, principalId: string | null): void {
    for (const [key, entry] of this.#entries) {
      const isMeant =
        (serverId === null || entry.serverId === serverId) &&
        (principalId === null || entry.principalId === principalId);
      if (isMeant) this.#entries.delete(key);
    }
    // What is under way may have been made before: who waits for it gets it, nobody after him.
    this.#asked.clear();
  }

  /** What is a user's own is not used any more: that he disconnected may have been told while nobody listened. */
  forgetUsers(): void {
    for (const [key, entry] of this.#entries) if (entry.principalId !== null) this.#entries.delete(key);
  }

  #ask(
    key: string,
    server: ServerRuntime,
    principal: PrincipalRecord,
    refused: CredentialNeed['refused'],
  ): Promise<Entry> {
    const underWay = this.#asked.get(key);
    if (underWay !== undefined) return underWay;
    const asked: Promise<Entry> = this.#lend(server, principal, refused)
      .then((entry) => {
        if (this.#asked.get(key) === asked) this.#keep(key, entry);
        return entry;
      })
      .finally(() => {
        if (this.#asked.get(key) === asked) this.#asked.delete(key);
      });
    this.#asked.set(key, asked);
    return asked;
  }

  async #lend(server: ServerRuntime, principal: PrincipalRecord, refused: CredentialNeed['refused']): Promise<Entry> {
    const { id, credential } = server.document;
    const principalId = isUsersOwn(server) ? principal.id : null;
    const need = { serverId: id, principalId, revision: credential?.revision ?? 0, refused };
    const lent = await this.#source.lend(need);
    if (!lent.ok) throw problemOf(lent.problem, lent.connectUrl);
    const { headers, origin, expiresAt, renewable } = lent.credential;
    if (origin !== server.upstream.origin) {
      throw new AppError('CREDENTIAL_MISSING', { internal: 'the credential is for another origin' });
    }
    const leftMs = expiresAt === null ? 0 : expiresAt - this.#source.now();
    return {
      serverId: id,
      principalId,
      headers: headers.flat(),
      expiresAt,
      renewable,
      renewAt:
        expiresAt === null ? Number.POSITIVE_INFINITY : expiresAt - Math.min(renewAheadMs, leftMs * renewAheadShare),
    };
  }

  #keep(key: string, entry: Entry): void {
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    const [oldest] = this.#entries.keys();
    if (this.#entries.size > entriesMax && oldest !== undefined) this.#entries.delete(oldest);
  }
}

/** Whether each user has a credential of his own toward the server. */
function isUsersOwn({ document: { credential } }: ServerRuntime): boolean {
  return credential !== undefined && perUserModes.has(credential.mode);
}

function keyOf(server: ServerRuntime, { id: principalId, epoch }: PrincipalRecord): string {
  const { id, credential } = server.document;
  const whose = isUsersOwn(server) ? `${principalId}|${epoch}` : '';
  return `${id}|${credential?.revision ?? 0}|${whose}`;
}

function problemOf(problem: CredentialProblem, connectUrl: string | null): AppError {
  return new AppError(problem, {
    internal: 'the control plane lent no credential',
    ...(connectUrl === null ? {} : { data: { connectUrl } }),
  });
}
