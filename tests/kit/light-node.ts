/**
 * A node as far as the sync protocol goes, and no further: it joins, proves who it is, asks for what a change brought,
 * verifies and acknowledges it, and comes back when the connection is gone. It builds nothing and keeps nothing on disk,
 * so that one process can be dozens. Of a whole manifest it takes the entries alone.
 */
import { generateKeyPairSync, type KeyObject, randomInt, sign } from 'node:crypto';
import type { Socket } from 'node:net';
import {
  applyManifestChanges,
  type ControlPlaneMessage,
  controlPlaneMessageSchema,
  helloSigningText,
  type Manifest,
  manifestHash,
  type NodeMessage,
  sha256,
  snapshotFormatsRead,
} from '@sallyport/schema';
import { WebSocket } from 'ws';
import { sharedNowMs } from './echo-upstream.ts';

// As nodes wait before they come back.
const reconnectDelayMsMin = 200;
const reconnectDelayMsMax = 10_000;
const idle = {
  exchangesOpen: 0,
  requestsPerSecond: 0,
  eventLoopDelayP99Ms: 0,
  residentBytes: 0,
  spoolBytes: 0,
  spoolRecordsUnconfirmed: 0,
};

type Of<Type extends ControlPlaneMessage['type']> = Extract<ControlPlaneMessage, { type: Type }>;

interface Offered {
  readonly nonce: string;
  readonly manifest: Manifest;
  readonly missing: Set<string>;
}

export class LightNode {
  readonly #url: string;
  readonly #joinToken: string;
  readonly #name: string;
  readonly #privateKey: KeyObject;
  readonly #publicKey: string;
  #socket: WebSocket | undefined;
  #bytesBefore = 0;
  #stream: Socket | undefined;
  #welcome: Of<'welcome'> | undefined;
  #isWelcome = false;
  #applied: Manifest | undefined;
  #offered: Offered | undefined;
  #failures = 0;
  #stopped = false;
  #reconnect: NodeJS.Timeout | undefined;
  /** The shared instant of the last acknowledgement. */
  acknowledgedAt = 0;

  constructor(options: { readonly url: string; readonly joinToken: string; readonly name: string }) {
    this.#url = options.url;
    this.#joinToken = options.joinToken;
    this.#name = options.name;
    const pair = generateKeyPairSync('ed25519');
    this.#privateKey = pair.privateKey;
    this.#publicKey = pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
    this.#connect();
  }

  get isConnected(): boolean {
    return this.#isWelcome;
  }

  /** 0 before the first. */
  get revision(): number {
    return this.#applied?.revision ?? 0;
  }

  /** All that came over its connections, as it was on the wire. */
  get bytesReceived(): number {
    return this.#bytesBefore + (this.#stream?.bytesRead ?? 0);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#reconnect);
    this.#socket?.terminate();
  }

  #connect(): void {
    const socket = new WebSocket(this.#url, { perMessageDeflate: true });
    this.#socket = socket;
    socket.on('upgrade', (response) => {
      this.#stream = response.socket;
    });
    socket.on('message', (data: Buffer) =>
      this.#receive(controlPlaneMessageSchema.parse(JSON.parse(data.toString('utf8')))),
    );
    socket.on('error', () => undefined);
    socket.on('close', () => this.#closed());
  }

  #closed(): void {
    this.#bytesBefore = this.bytesReceived;
    this.#stream = undefined;
    this.#offered = undefined;
    this.#failures = this.#isWelcome ? 0 : this.#failures + 1;
    this.#isWelcome = false;
    if (this.#stopped) return;
    const ceilingMs = Math.min(reconnectDelayMsMax, reconnectDelayMsMin * 2 ** Math.min(this.#failures, 10));
    this.#reconnect = setTimeout(() => this.#connect(), randomInt(ceilingMs / 2, ceilingMs + 1));
  }

  #send(message: NodeMessage): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #receive(message: ControlPlaneMessage): void {
    switch (message.type) {
      case 'challenge':
        return this.#hello(message.nonce);
      case 'welcome':
        this.#welcome = message;
        this.#isWelcome = true;
        return undefined;
      case 'ping':
        return this.#send({ type: 'pong', nonce: message.nonce, load: idle });
      case 'manifest':
        return this.#acknowledge(message.nonce, message.whole);
      case 'manifestDelta':
        return this.#change(message);
      case 'documents':
        return this.#documents(message);
      case 'refused':
        throw new Error(`${this.#name} was refused: ${message.message}`);
      default:
        return undefined;
    }
  }

  #hello(nonce: string): void {
    const publicKey = this.#publicKey;
    const known = this.#welcome;
    const applied = this.#applied;
    const signature = sign(null, Buffer.from(helloSigningText(nonce, publicKey)), this.#privateKey).toString('base64');
    this.#send({
      type: 'hello',
      auth:
        known === undefined
          ? { kind: 'join', token: this.#joinToken }
          : { kind: 'key', nodeId: known.nodeId, publicKey, signature, certificate: known.certificate },
      publicKey,
      name: this.#name,
      build: 'light',
      formats: [...snapshotFormatsRead],
      labels: {},
      peerUrl: null,
      peerCertificate: null,
      applied: applied ? { historyId: applied.history.id, revision: applied.revision, hash: applied.hash } : null,
      spoolEpochs: [],
    });
  }

  #change({ nonce, delta }: Of<'manifestDelta'>): void {
    const applied = this.#applied;
    if (applied === undefined || applied.revision !== delta.base) return this.#send({ type: 'needWhole', nonce });
    const entries = applyManifestChanges(applied.entries, delta);
    if (manifestHash(entries) !== delta.hash) throw new Error(`${this.#name}: the hash does not match the entries`);
    const { history, revision, hash } = delta;
    const missing = new Set(Object.values(delta.changed));
    this.#offered = { nonce, manifest: { history, revision, hash, entries }, missing };
    if (missing.size > 0) this.#send({ type: 'need', nonce, hashes: [...missing] });
    else this.#acknowledge(nonce, this.#offered.manifest);
  }

  #documents({ nonce, documents }: Of<'documents'>): void {
    const offered = this.#offered;
    if (offered?.nonce !== nonce) return;
    for (const { hash, body } of documents) {
      if (sha256(body) !== hash) throw new Error(`${this.#name}: a document does not match its hash`);
      offered.missing.delete(hash);
    }
    if (offered.missing.size === 0) this.#acknowledge(nonce, offered.manifest);
  }

  #acknowledge(nonce: string, manifest: Manifest): void {
    this.#applied = manifest;
    this.#offered = undefined;
    this.acknowledgedAt = sharedNowMs();
    this.#send({ type: 'ack', nonce, revision: manifest.revision });
  }
}
