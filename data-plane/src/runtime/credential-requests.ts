import {
  credentialNeedsMax,
  type CredentialNeed,
  type CredentialOutcome,
  lendingContext,
  lendingKeyText,
  type LentCredential,
  lentCredentialSchema,
  type NodeMessage,
} from '@sallyport/schema';
import { LendingKey, randomSecret } from '@sallyport/schema/platform';

/** Longer than the control plane may take to have a token made; lost connections are in it. */
const answerTimeoutMs = 25_000;
/** Needs that wait for an answer; a further one is told that there is none now. */
const pendingMax = 2_048;

/** A credential in clear, or why there is none. */
export type Lent =
  | { readonly ok: true; readonly credential: LentCredential }
  | Extract<CredentialOutcome, { ok: false }>;

export interface CredentialRequestsOptions {
  readonly send: (message: NodeMessage) => void;
  /** Of this node; undefined while it is not connected. */
  readonly signer: () => { readonly nodeId: string; sign(text: string): string } | undefined;
  /** What the control plane gave at the beginning of the connection. */
  readonly challenge: () => string;
}

interface Pending {
  readonly need: CredentialNeed;
  readonly settle: (lent: Lent) => void;
}

const unavailable: Lent = { ok: false, problem: 'CREDENTIAL_UNAVAILABLE', connectUrl: null };

/**
 * Asks the control plane for credentials, which come sealed to a key that lives in this process alone. What is asked for
 * in one turn goes in one message.
 */
export class CredentialRequests {
  readonly #options: CredentialRequestsOptions;
  readonly #key = new LendingKey();
  readonly #pending = new Map<string, Pending>();
  #unsent: { requestId: string; need: CredentialNeed }[] = [];

  constructor(options: CredentialRequestsOptions) {
    this.#options = options;
  }

  /** Never rejects. */
  lend(need: CredentialNeed): Promise<Lent> {
    if (this.#options.signer() === undefined || this.#pending.size >= pendingMax) return Promise.resolve(unavailable);
    return new Promise((resolve) => {
      const requestId = randomSecret('need_');
      const timer = setTimeout(() => settle(unavailable), answerTimeoutMs);
      const settle = (lent: Lent): void => {
        clearTimeout(timer);
        this.#pending.delete(requestId);
        resolve(lent);
      };
      this.#pending.set(requestId, { need, settle });
      if (this.#unsent.length === 0) setImmediate(() => this.#flush());
      this.#unsent.push({ requestId, need });
    });
  }

  /** The control plane's answer. */
  answered(requestId: string, outcome: CredentialOutcome): void {
    const pending = this.#pending.get(requestId);
    if (pending === undefined) return;
    pending.settle(outcome.ok ? this.#opened(requestId, pending.need, outcome.sealed) : outcome);
  }

  /**
   * There is a connection again: what was asked on one that broke is asked once more, so that the end of a process of the
   * control plane costs the calls that wait for it time, and no error.
   */
  connected(): void {
    this.#unsent = [...this.#pending].map(([requestId, { need }]) => ({ requestId, need }));
    if (this.#unsent.length > 0) this.#flush();
  }

  /** Nothing is asked or answered any more. */
  close(): void {
    for (const { settle } of [...this.#pending.values()]) settle(unavailable);
  }

  #flush(): void {
    const needs = this.#unsent.splice(0);
    const signer = this.#options.signer();
    if (signer === undefined) return;
    const { publicKey } = this.#key;
    const signature = signer.sign(lendingKeyText(this.#options.challenge(), publicKey));
    for (let at = 0; at < needs.length; at += credentialNeedsMax) {
      const some = needs.slice(at, at + credentialNeedsMax);
      this.#options.send({ type: 'needCredentials', publicKey, signature, needs: some });
    }
  }

  /** One that is not what was asked for is none. */
  #opened(requestId: string, need: CredentialNeed, sealed: string): Lent {
    const nodeId = this.#options.signer()?.nodeId ?? '';
    const text = this.#key.open(lendingContext(nodeId, requestId), sealed);
    if (text === undefined) return unavailable;
    const parsed = lentCredentialSchema.safeParse(JSON.parse(text));
    if (!parsed.success) return unavailable;
    const { serverId, principalId, revision } = parsed.data;
    const isAsked = serverId === need.serverId && principalId === need.principalId && revision === need.revision;
    return isAsked ? { ok: true, credential: parsed.data } : unavailable;
  }
}
