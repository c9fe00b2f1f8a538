import { AppError } from '@sallyport/schema';
import type { Runtime } from '../runtime/runtime.ts';
import type { Cancellation, UpstreamResponse } from '../upstream/connections.ts';
import type { Authorized, RuntimeSource } from './exchange.ts';
import type { RelayedReturn } from './peer-link.ts';

/** How long a parked call waits for its client, in milliseconds. */
export const parkedMsMax = 10 * 60_000;
/** Calls that wait at once, for one principal and on one node. */
export const parkedPerPrincipalMax = 32;
export const parkedMax = 1_000;
/** Of what is kept of them, in bytes. */
export const parkedBytesPerPrincipalMax = 16 * 1024 * 1024;
export const parkedBytesMax = 64 * 1024 * 1024;

/** A call that waits for its client to come back with answers. */
export interface ParkedCall {
  readonly callId: string;
  readonly digest: string;
  /** Of its request, and of what the upstream asks. */
  readonly bytes: number;
  /** As its last request was decided; each change of the configuration decides again. */
  authorized: Authorized;
  /** The client is back. */
  resume(returned: RelayedReturn, signal: Cancellation): Promise<UpstreamResponse>;
  /** Nobody comes back, or may any more: the upstream is told. */
  expire(): void;
}

/**
 * The calls of this node that wait for their clients, each bounded in time, all bounded in number. None outlives the
 * right to make it.
 */
export class ParkedCalls {
  readonly #calls = new Map<string, { readonly call: ParkedCall; readonly timer: NodeJS.Timeout }>();
  readonly #runtimes: Pick<RuntimeSource, 'current' | 'onSwap'>;
  readonly #reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
  readonly #parkedMs: number;
  readonly #unsubscribe: () => void;

  constructor(options: {
    readonly runtimes: Pick<RuntimeSource, 'current' | 'onSwap'>;
    readonly reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
    readonly parkedMs?: number;
  }) {
    this.#runtimes = options.runtimes;
    this.#reauthorize = options.reauthorize;
    this.#parkedMs = options.parkedMs ?? parkedMsMax;
    this.#unsubscribe = options.runtimes.onSwap(() => this.#recheck());
  }

  get size(): number {
    return this.#calls.size;
  }

  get parkedMs(): number {
    return this.#parkedMs;
  }

  /** @throws AppError RATE_LIMITED where the principal has too many calls waiting, OVERLOADED where the node has */
  park(call: ParkedCall): void {
    const principalId = principalOf(call);
    const all = [...this.#calls.values()].map((parked) => parked.call);
    const ofPrincipal = all.filter((parked) => principalOf(parked) === principalId);
    const isOver =
      ofPrincipal.length >= parkedPerPrincipalMax || bytesOf(ofPrincipal, call) > parkedBytesPerPrincipalMax;
    if (isOver) throw new AppError('RATE_LIMITED');
    if (all.length >= parkedMax || bytesOf(all, call) > parkedBytesMax) throw new AppError('OVERLOADED');
    const timer = setTimeout(() => this.#expire(call.callId), this.#parkedMs);
    timer.unref();
    this.#calls.set(call.callId, { call, timer });
  }

  /**
   * Goes on with a call. Whoever returns while it is not parked, a second time or too late, gets no second answer.
   * @throws AppError CALL_LOST
   */
  async resume(returned: RelayedReturn, signal: Cancellation): Promise<UpstreamResponse> {
    const call = this.#calls.get(returned.callId)?.call;
    if (
      call === undefined ||
      principalOf(call) !== returned.principalId ||
      call.authorized.routed.server.document.id !== returned.serverId ||
      call.digest !== returned.digest
    ) {
      throw new AppError('CALL_LOST');
    }
    this.#forget(call.callId);
    return await call.resume(returned, signal);
  }

  /** The node stops. */
  close(): void {
    this.#unsubscribe();
    for (const callId of [...this.#calls.keys()]) this.#expire(callId);
  }

  #recheck(): void {
    const runtime = this.#runtimes.current;
    if (runtime === undefined) return;
    for (const { call } of [...this.#calls.values()]) {
      try {
        const authorized = this.#reauthorize(call.authorized, runtime);
        const isMoved = authorized.routed.server.upstream.href !== call.authorized.routed.server.upstream.href;
        if (isMoved) throw new AppError('NOT_READY');
        call.authorized = authorized;
      } catch {
        // Whatever the reason, it is a no; the client hears it with the request it comes back with.
        this.#expire(call.callId);
      }
    }
  }

  #expire(callId: string): void {
    const parked = this.#calls.get(callId);
    this.#forget(callId);
    parked?.call.expire();
  }

  #forget(callId: string): void {
    clearTimeout(this.#calls.get(callId)?.timer);
    this.#calls.delete(callId);
  }
}

function principalOf({ authorized }: ParkedCall): string {
  return authorized.routed.authenticated.principal.id;
}

function bytesOf(calls: readonly ParkedCall[], more: ParkedCall): number {
  return calls.reduce((sum, { bytes }) => sum + bytes, more.bytes);
}
