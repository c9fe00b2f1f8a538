import { X509Certificate } from 'node:crypto';
import type { Log } from '@sallyport/schema/platform';

/** Another node, as the control plane names it. */
export interface Peer {
  readonly nodeId: string;
  readonly url: URL;
  readonly certificatePem: string;
  /** SHA-256 of the certificate, as TLS sockets give it. */
  readonly fingerprint: string;
}

export interface NamedPeer {
  readonly nodeId: string;
  readonly url: string;
  /** X.509, DER in base64. */
  readonly certificate: string;
}

/** The live nodes besides this one; nobody else is believed to be a node. */
export class KnownPeers {
  readonly #log: Log;
  readonly #listeners = new Set<() => void>();
  #byId = new Map<string, Peer>();

  constructor(log: Log) {
    this.#log = log;
  }

  get all(): readonly Peer[] {
    return [...this.#byId.values()];
  }

  get(nodeId: string): Peer | undefined {
    return this.#byId.get(nodeId);
  }

  byFingerprint(fingerprint: string): Peer | undefined {
    return this.all.find((peer) => peer.fingerprint === fingerprint);
  }

  /** Takes over the whole list; an entry that cannot be read is left out. */
  replace(named: readonly NamedPeer[]): void {
    const next = new Map<string, Peer>();
    for (const { nodeId, url, certificate } of named) {
      try {
        const parsed = new X509Certificate(Buffer.from(certificate, 'base64'));
        const address = new URL(url);
        if (address.protocol !== 'https:') throw new Error('not https');
        next.set(nodeId, {
          nodeId,
          url: address,
          certificatePem: parsed.toString(),
          fingerprint: parsed.fingerprint256,
        });
      } catch (error) {
        this.#log.warn(
          { err: error, nodeId },
          'another node cannot be called: its address or certificate is not valid',
        );
      }
    }
    this.#byId = next;
    for (const listener of this.#listeners) listener();
  }

  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }
}
