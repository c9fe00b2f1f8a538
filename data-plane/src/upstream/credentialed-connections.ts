import { AppError, toAppError } from '@sallyport/schema';
import type { Cancellation, Connections, UpstreamRequest, UpstreamResponse } from './connections.ts';
import type { CallCredential, UpstreamCredential, UpstreamCredentials } from './credentials.ts';
import { isLasting, refusalOf } from './upstream-refusal.ts';

/** Where it could not be said whether an open request may go on, that is asked again after this long, in milliseconds. */
const recheckAfterMs = 1_000;

/**
 * Sends requests with the credential of their call, as it is when they are dialled, and ends those under way whose
 * credential was taken away.
 */
export class CredentialedConnections implements Pick<Connections, 'send'> {
  readonly #connections: Pick<Connections, 'send'>;
  readonly #open = new Set<CredentialedRequest>();
  readonly #unsubscribe: () => void;

  constructor(connections: Pick<Connections, 'send'>, credentials: Pick<UpstreamCredentials, 'onForget'>) {
    this.#connections = connections;
    this.#unsubscribe = credentials.onForget((serverId, principalId) => {
      for (const request of [...this.#open]) if (request.credential.isOf(serverId, principalId)) void request.recheck();
    });
  }

  /**
   * Where the upstream does not accept the credential, which means that it did nothing, the request is sent once more with
   * another one, if there is any. Its 401 is never the client's, whose own token is good.
   * @throws AppError CREDENTIAL_…, CONNECTION_NEEDED, UPSTREAM_…
   */
  send(request: UpstreamRequest, cancelled: Cancellation | null): Promise<UpstreamResponse> {
    const { credential } = request;
    if (credential === null) return this.#connections.send(request, cancelled);
    return this.#sendWith(credential, request, cancelled);
  }

  close(): void {
    this.#unsubscribe();
  }

  async #sendWith(
    credential: CallCredential,
    request: UpstreamRequest,
    cancelled: Cancellation | null,
  ): Promise<UpstreamResponse> {
    const sent = await credential.current();
    const first = await this.#dial(credential, sent, request, cancelled);
    const refusal = refusalOf(first);
    if (refusal === undefined) return first;
    first.abort(new AppError('UPSTREAM_REFUSED'));
    const other = await credential.refused(sent, refusal);
    if (other === undefined) throw new AppError('CREDENTIAL_REFUSED', { internal: `status ${refusal.status}` });
    const second = await this.#dial(credential, other, request, cancelled);
    if (refusalOf(second) === undefined) return second;
    second.abort(new AppError('UPSTREAM_REFUSED'));
    throw new AppError('CREDENTIAL_REFUSED', { internal: `status ${second.status} with a fresh one too` });
  }

  #dial(
    credential: CallCredential,
    { headers }: UpstreamCredential,
    request: UpstreamRequest,
    cancelled: Cancellation | null,
  ): Promise<UpstreamResponse> {
    const open = new CredentialedRequest(credential, cancelled, this.#open);
    return this.#connections.send({ ...request, headers: [...request.headers, ...headers] }, open);
  }
}

/** One that is under way: ended by whoever sent it, or by the end of its credential. */
class CredentialedRequest implements Cancellation {
  readonly credential: CallCredential;
  readonly #cancelled: Cancellation | null;
  readonly #open: Set<CredentialedRequest>;
  #listener: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #ended: AppError | undefined;

  constructor(credential: CallCredential, cancelled: Cancellation | null, open: Set<CredentialedRequest>) {
    this.credential = credential;
    this.#cancelled = cancelled;
    this.#open = open;
  }

  get aborted(): boolean {
    return this.#ended !== undefined || this.#cancelled?.aborted === true;
  }

  get reason(): unknown {
    return this.#ended ?? this.#cancelled?.reason;
  }

  /** By the one request it is for, from its beginning … */
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once: true }): void {
    this.#listener = listener;
    this.#open.add(this);
    this.#cancelled?.addEventListener(type, listener, options);
  }

  /** … to the end of its answer. */
  removeEventListener(type: 'abort', listener: () => void): void {
    this.#listener = undefined;
    this.#open.delete(this);
    clearTimeout(this.#timer);
    this.#cancelled?.removeEventListener(type, listener);
  }

  /** Ends it unless its credential is still good. Never rejects. */
  async recheck(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      await this.credential.stillGood();
    } catch (thrown) {
      const error = toAppError(thrown);
      if (this.#listener === undefined) return;
      if (isLasting(error)) {
        this.#ended = error;
        this.#listener();
      } else {
        this.#timer = setTimeout(() => void this.recheck(), recheckAfterMs).unref();
      }
    }
  }
}
