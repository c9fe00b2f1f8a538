import {
  AppError,
  type CredentialNeed,
  type CredentialProblem,
  type LentCredential,
  type PrincipalRecord,
  perUserModes,
} from '@sallyport/schema';
import type { Runtime, ServerRuntime } from '../runtime/runtime.ts';
import { RenewalBackoff } from './renewal-backoff.ts';

/** Credentials held at once; the one used least lately goes first. */
const entriesMax = 50_000;
/** Before its end another one is asked for in the background, this long or a fifth of its life, whichever is less. */
const renewAheadMs = 60_000;
const renewAheadShare = 0.2;
/** One that ends sooner is not sent: it would end on the way. */
const unusableBeforeEndMs = 2_000;
/** How often what is over or cannot be reached any more is dropped, in milliseconds. */
const sweepIntervalMs = 5_000;

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
  /** The running configuration. */
  readonly runtime: () => Runtime | undefined;
}

/** What goes along with a request. */
export interface UpstreamCredential {
  /** Of the stored secret or the connected account it comes from; null where the control plane does not say. */
  readonly id: string | null;
  /** The authorization server of a token; null for anything else. */
  readonly issuer: string | null;
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

/** A need that waits for the control plane. */
interface Asked {
  readonly entry: Promise<Entry>;
  readonly refused: CredentialNeed['refused'];
}

/** Whose credentials are not to be used any more; null stands for all. */
type ForgetListener = (serverId: string | null, principalId: string | null) => void;

/**
 * What the requests of one exchange are made with. It is asked for anew for each of them, since it may have been renewed or
 * taken away meanwhile; but it stays that of the same account, so that what is told in one session belongs to one.
 */
export class CallCredential {
  readonly #credentials: UpstreamCredentials;
  readonly #server: ServerRuntime;
  readonly #principal: PrincipalRecord;
  #id: string | null | undefined;

  constructor(credentials: UpstreamCredentials, server: ServerRuntime, principal: PrincipalRecord) {
    this.#credentials = credentials;
    this.#server = server;
    this.#principal = principal;
  }

  /** Whether what is said of these concerns it. */
  isOf(serverId: string | null, principalId: string | null): boolean {
    if (serverId !== null && serverId !== this.#server.document.id) return false;
    return principalId === null || (isUsersOwn(this.#server) && principalId === this.#principal.id);
  }

  /** At once where it is here already. @throws AppError CREDENTIAL_…, CONNECTION_NEEDED, NOT_READY for another account */
  current(): UpstreamCredential | Promise<UpstreamCredential> {
    const found = this.#credentials.forCall(this.#server, this.#principal);
    return found instanceof Promise ? found.then((one) => this.#same(one)) : this.#same(found);
  }

  /**
   * The upstream did not accept what was sent: another one, or undefined where there is none that could do better.
   * @throws AppError as `current`
   */
  async refused(sent: UpstreamCredential, refusal: Refusal): Promise<UpstreamCredential | undefined> {
    const other = await this.#credentials.refused(this.#server, this.#principal, sent, refusal);
    return other && this.#same(other);
  }

  /**
   * Whether a request that is under way may go on with what it was sent with. That is asked of the configuration that runs
   * now, since nothing is lent for one that was.
   * @throws AppError as `current`; CREDENTIAL_MISSING where the server is gone, or is called without a credential
   */
  async stillGood(): Promise<void> {
    const running = this.#credentials.running(this.#server);
    if (running?.document.credential === undefined) {
      throw new AppError('CREDENTIAL_MISSING', { internal: 'the server is called with none any more' });
    }
    const found = await this.#credentials.forCall(running, this.#principal);
    const { credential: sent } = this.#server.document;
    // A secret that was replaced was not taken away from anybody: what is under way goes on with the old one.
    if (sent?.mode === 'userOAuth' || sent?.revision === running.document.credential.revision) this.#same(found);
  }

  #same(credential: UpstreamCredential): UpstreamCredential {
    this.#id ??= credential.id;
    if (this.#id === credential.id) return credential;
    throw new AppError('NOT_READY', { internal: 'another account was connected meanwhile' });
  }
}

const challengeLengthMax = 2_048;

/**
 * What this node was lent toward upstreams, in memory alone. An entry is found by server, revision of its credential,
 * principal and his epoch: once the configuration has another of these, the entry cannot be reached.
 */
export class UpstreamCredentials {
  readonly #source: CredentialSource;
  readonly #entries = new Map<string, Entry>();
  readonly #asked = new Map<string, Asked>();
  readonly #backoff = new RenewalBackoff();
  readonly #listeners = new Set<ForgetListener>();
  readonly #timer: NodeJS.Timeout;

  constructor(source: CredentialSource) {
    this.#source = source;
    this.#timer = setInterval(() => this.sweep(), sweepIntervalMs);
    this.#timer.unref();
  }

  get size(): number {
    return this.#entries.size;
  }

  /** A server as the running configuration has it; undefined where it has none such. */
  running(server: ServerRuntime): ServerRuntime | undefined {
    const runtime = this.#source.runtime();
    return runtime === undefined ? server : runtime.serverById.get(server.document.id);
  }

  /** What the requests of a call are made with; null where the server is called without. */
  ofCall(server: ServerRuntime, principal: PrincipalRecord): CallCredential | null {
    return server.document.credential === undefined ? null : new CallCredential(this, server, principal);
  }

  /**
   * What a request needs. At once where it is here already.
   * @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, CONNECTION_NEEDED
   */
  forCall(server: ServerRuntime, principal: PrincipalRecord): UpstreamCredential | Promise<UpstreamCredential> {
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
   * The upstream did not accept what was sent: another one, or undefined where there is none that could do better, or
   * tokens of this account were refused too often lately (`RenewalBackoff`).
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
    if (!sent.renewable) return undefined;
    const key = keyOf(server, principal);
    const refused = { status, challenge: challenge?.slice(0, challengeLengthMax) ?? null, expiresAt: sent.expiresAt };
    for (;;) {
      const held = this.#entries.get(key);
      // Another call was refused before and has already brought another one.
      if (held !== undefined && !isSame(held, sent)) return held;
      const asked = this.#asked.get(askedKeyOf(key, refused));
      if (asked?.refused !== null) break;
      // Asked for ahead of the end: that may bring the very one that was refused, which nobody had said by then.
      await asked.entry.catch(() => undefined);
    }
    if (status === 401) {
      const isUnderWay = this.#asked.has(key);
      if (!isUnderWay && !this.#backoff.allows(`${key}|${sent.id}`, this.#source.now())) return undefined;
      // One that lacks scopes for this request is good for others; this one is good for nobody.
      this.#entries.delete(key);
    }
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
    // What is under way may have been made before: who waits for it has it asked for once more.
    this.#asked.clear();
    for (const listener of this.#listeners) listener(serverId, principalId);
  }

  /** What is a user's own is not used any more: that he disconnected may have been told while nobody listened. */
  forgetUsers(): void {
    for (const [key, entry] of this.#entries) if (entry.principalId !== null) this.#entries.delete(key);
    this.#asked.clear();
    for (const listener of this.#listeners) listener(null, null);
  }

  /** @returns a function that ends it */
  onForget(listener: ForgetListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Drops what is over, and what the running configuration leads to no more. */
  sweep(): void {
    const now = this.#source.now();
    const runtime = this.#source.runtime();
    for (const [key, entry] of this.#entries) {
      const isOver = entry.expiresAt !== null && entry.expiresAt <= now;
      if (isOver || (runtime !== undefined && !isReachable(key, entry, runtime))) this.#entries.delete(key);
    }
    this.#backoff.sweep(now);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#listeners.clear();
    this.#entries.clear();
  }

  #ask(
    key: string,
    server: ServerRuntime,
    principal: PrincipalRecord,
    refused: CredentialNeed['refused'],
  ): Promise<Entry> {
    const askedKey = askedKeyOf(key, refused);
    const underWay = this.#asked.get(askedKey);
    if (underWay !== undefined) return underWay.entry;
    const entry: Promise<Entry> = this.#lend(server, principal, refused)
      .then((lent) => {
        if (this.#asked.get(askedKey)?.entry !== entry) return this.#ask(key, server, principal, refused);
        this.#keep(key, lent);
        return lent;
      })
      .finally(() => {
        if (this.#asked.get(askedKey)?.entry === entry) this.#asked.delete(askedKey);
      });
    this.#asked.set(askedKey, { entry, refused });
    return entry;
  }

  async #lend(server: ServerRuntime, principal: PrincipalRecord, refused: CredentialNeed['refused']): Promise<Entry> {
    const { id, credential } = server.document;
    const principalId = isUsersOwn(server) ? principal.id : null;
    const need = { serverId: id, principalId, revision: credential?.revision ?? 0, refused };
    const lent = await this.#source.lend(need);
    if (!lent.ok) throw problemOf(lent.problem, lent.connectUrl);
    const { id: credentialId, issuer, headers, origin, expiresAt, renewable } = lent.credential;
    if (origin !== server.upstream.origin) {
      throw new AppError('CREDENTIAL_MISSING', { internal: 'the credential is for another origin' });
    }
    const leftMs = expiresAt === null ? 0 : expiresAt - this.#source.now();
    return {
      id: credentialId,
      issuer,
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

function isReachable(key: string, { serverId, principalId }: Entry, runtime: Runtime): boolean {
  const server = runtime.serverById.get(serverId);
  if (server?.document.credential === undefined) return false;
  const principal = principalId === null ? nobody : runtime.principalById.get(principalId);
  return principal !== undefined && key === keyOf(server, principal);
}
const nobody = { id: '', epoch: 0 };

function keyOf(server: ServerRuntime, { id: principalId, epoch }: Pick<PrincipalRecord, 'id' | 'epoch'>): string {
  const { id, credential } = server.document;
  const whose = isUsersOwn(server) ? `${principalId}|${epoch}` : '';
  return `${id}|${credential?.revision ?? 0}|${whose}`;
}

/** Who lacks scopes waits for himself: what he is told is nothing to those who need a token. */
function askedKeyOf(key: string, refused: CredentialNeed['refused']): string {
  return refused?.status === 403 ? `${key}|scopes` : key;
}

function isSame(one: UpstreamCredential, other: UpstreamCredential): boolean {
  return one.headers.length === other.headers.length && one.headers.every((part, at) => part === other.headers[at]);
}

function problemOf(problem: CredentialProblem, connectUrl: string | null): AppError {
  return new AppError(problem, {
    internal: 'the control plane lent no credential',
    ...(connectUrl === null ? {} : { data: { connectUrl } }),
  });
}
