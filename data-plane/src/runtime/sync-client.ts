import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import {
  AppError,
  contactLostAfterMs,
  type CredentialNeed,
  type ControlPlaneMessage,
  controlPlaneMessageSchema,
  type DiscoveryResult,
  type HealthObservation,
  helloSigningText,
  type LentCredential,
  nodeCertificateText,
  type NodeLoad,
  type NodeMessage,
  type Sighting,
  snapshotFormatsRead,
  syncFrameBytesMax,
  toAppError,
} from '@sallyport/schema';
import { type Clock, type Log, sealingKeyFromSecret } from '@sallyport/schema/platform';
import { WebSocket } from 'ws';
import { ManifestApplier } from './apply-manifest.ts';
import { CredentialRequests, type Lent } from './credential-requests.ts';
import { LastKnownGood } from './last-known-good.ts';
import { NodeIdentity, NodeKey, signedByFleet } from './node-identity.ts';
import type { RuntimeStore } from './runtime-store.ts';
import { SealedFiles } from './sealed-files.ts';

const reconnectDelayMsMin = 200;
const reconnectDelayMsMax = 10_000;
const handshakeTimeoutMs = 10_000;
/** How often the control plane's time and the age of the last contact are written to disk. */
const contactSaveIntervalMs = 30_000;
const watchIntervalMs = 1_000;
/** A node key is renewed when less than this share of its life is left. */
const renewWhenLeft = 0.5;
/** Alarms kept while there is no connection; the oldest go first. */
const alarmsPendingMax = 100;
const discoveriesAtOnceMax = 4;
const bufferedBytesMax = 16 * 1024 * 1024;

export interface Signer {
  readonly nodeId: string;
  /** Ed25519, SPKI DER in base64. */
  readonly publicKey: string;
  /** Ed25519 signature in base64. */
  sign(text: string): string;
}

export type Watermark = Extract<ControlPlaneMessage, { type: 'watermark' }>['epochs'];

export type Peers = Extract<ControlPlaneMessage, { type: 'peers' }>['peers'];

export interface SyncClientOptions {
  /** `ws://` or `wss://`, path included. */
  readonly url: string;
  /** Used when the node has no identity that the control plane accepts. */
  readonly joinToken: string | null;
  /** Holds `identity/` and `config/`; must outlive the process. */
  readonly dataDirectory: string;
  /** `SALLYPORT_NODE_SECRET`: seals both. */
  readonly nodeSecret: string;
  readonly name: string;
  readonly build: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly peerUrl: string | null;
  /** What this node shows others in TLS: X.509, DER in base64; null where it takes no part in it. */
  readonly peerCertificate: string | null;
  /** Every live node but this one, whenever that changed. */
  readonly onPeers: (peers: Peers) => void;
  readonly store: RuntimeStore;
  readonly clock: Clock;
  readonly log: Log;
  /** This process's audit spool epoch and the older ones it still holds; asked at each hello. */
  readonly spoolEpochs: () => readonly string[];
  readonly load: () => NodeLoad;
  /** Connects to an upstream which the control plane cannot reach itself. */
  readonly discover: (url: string, credentialHeaders: LentCredential['headers']) => Promise<DiscoveryResult>;
  /** The node is in contact again after it was not. */
  readonly onReturned: () => void;
  /** What was lent may not be used any more, though no document says so; null stands for all. */
  readonly onForget: (serverId: string | null, principalId: string | null) => void;
}

/** One connection's life, from dialled to closed. */
interface Connection {
  readonly socket: WebSocket;
  /** The control plane's challenge; renewals are signed over it too. */
  challenge: string | undefined;
  /** The key offered in hello or renew, until the control plane registers it. */
  offered: NodeKey | undefined;
  joining: boolean;
  welcomed: boolean;
  /** What the control plane takes besides what every one does. */
  accepts: ReadonlySet<string>;
  heardAt: number;
}

/**
 * The node's end of the configuration push: keeps one WebSocket to the control plane, proves who the node is, applies
 * what is pushed, and carries what else flows on that socket. Serves from disk while the control plane is away.
 */
export class SyncClient {
  readonly #options: SyncClientOptions;
  readonly #identity: NodeIdentity;
  readonly #lastKnownGood: LastKnownGood;
  readonly #applier: ManifestApplier;
  readonly #watermarkListeners = new Set<(epochs: Watermark) => void>();
  readonly #credentials: CredentialRequests;
  readonly #joined = Promise.withResolvers<string>();
  #alarms: { code: string; message: string }[] = [];
  #connection: Connection | undefined;
  #failures = 0;
  #identityRefused = false;
  #discoveries = 0;
  #stopped = false;
  #reconnect: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;
  #contactSavedAt = 0;
  #keyRegisteredAt = 0;

  constructor(options: SyncClientOptions) {
    const key = sealingKeyFromSecret(options.nodeSecret);
    this.#options = options;
    this.#identity = new NodeIdentity(new SealedFiles(join(options.dataDirectory, 'identity'), key));
    this.#lastKnownGood = new LastKnownGood(new SealedFiles(join(options.dataDirectory, 'config'), key));
    this.#credentials = new CredentialRequests({
      send: (message) => this.#send(message),
      signer: () => (this.#connection?.welcomed === true ? this.signer : undefined),
      challenge: () => this.#connection?.challenge ?? '',
    });
    this.#applier = new ManifestApplier({
      store: options.store,
      lastKnownGood: this.#lastKnownGood,
      identity: this.#identity,
      clock: options.clock,
      log: options.log,
      send: (message) => this.#send(message),
      alarm: (code, message) => this.alarm(code, message),
    });
  }

  /** The current node key; undefined until the node has joined for the first time. */
  get signer(): Signer | undefined {
    const { nodeId, key } = this.#identity;
    if (nodeId === undefined || key === undefined) return undefined;
    return { nodeId, publicKey: key.publicKey, sign: (text) => key.sign(text) };
  }

  /** Resolves with the node's id, at once where it has joined before; never rejects. */
  joined(): Promise<string> {
    const { nodeId } = this.#identity;
    return nodeId === undefined ? this.#joined.promise : Promise.resolve(nodeId);
  }

  /** Serves the last known good configuration if there is one, then connects in the background. */
  start(): void {
    const { store, log, clock } = this.#options;
    if (this.#identity.unreadable) {
      this.alarm('IDENTITY_NOT_READABLE', 'the identity on disk does not open with this node secret; joining anew');
    }
    const loaded = this.#lastKnownGood.load();
    if (loaded.state === 'loaded') {
      store.restore(loaded.contact);
      store.swap(loaded.built);
      log.info({ revision: loaded.built.manifest.revision, ageMs: store.contactAgeMs() }, 'serving last known good');
    } else if (loaded.state === 'unusable') {
      this.alarm('LAST_KNOWN_GOOD_UNUSABLE', loaded.problem);
    }
    this.#contactSavedAt = clock.monotonic();
    this.#watch = setInterval(() => this.#watchContact(), watchIntervalMs);
    this.#connect();
  }

  /** Says goodbye and closes; what is being written is written first. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#watch);
    clearTimeout(this.#reconnect);
    await this.#applier.settled();
    const socket = this.#connection?.socket;
    this.#send({ type: 'leaving' });
    if (socket !== undefined && socket.readyState !== WebSocket.CLOSED) {
      await new Promise<void>((resolve) => {
        const deadline = setTimeout(() => socket.terminate(), watchIntervalMs);
        socket.once('close', () => {
          clearTimeout(deadline);
          resolve();
        });
        socket.close(1001, 'leaving');
      });
    }
    this.#credentials.close();
    const contact = this.#options.store.save();
    if (contact !== undefined) await this.#lastKnownGood.saveContact(contact);
  }

  /** Called with the highest contiguous sequence stored of each epoch; the result unsubscribes. */
  onWatermark(listener: (epochs: Watermark) => void): () => void {
    this.#watermarkListeners.add(listener);
    return () => this.#watermarkListeners.delete(listener);
  }

  /** Sends what this node saw of upstreams; dropped without a connection, since the next observation replaces it. */
  reportHealth(observations: readonly HealthObservation[]): void {
    if (observations.length > 0) this.#tell({ type: 'health', observations: [...observations] });
  }

  /** Asks for another discovery of a server; forgotten where there is no connection, since the next answer asks again. */
  doubt(serverId: string): void {
    this.#tell({ type: 'doubt', serverId });
  }

  /** Tells what was withheld since nobody approved it; false where there is nobody to tell, or who would understand. */
  reportSightings(serverId: string, definitions: readonly Sighting[]): boolean {
    const connection = this.#connection;
    if (connection?.welcomed !== true || !connection.accepts.has('sighted')) return false;
    this.#send({ type: 'sighted', serverId, definitions: [...definitions] });
    return true;
  }

  /** Asks the control plane for what a call to an upstream needs. Never rejects. */
  lend(need: CredentialNeed): Promise<Lent> {
    return this.#credentials.lend(need);
  }

  /** Tells the operator; kept until there is a connection. */
  alarm(code: string, message: string): void {
    this.#options.log.error({ alarm: code }, message);
    if (this.#connection?.welcomed === true) {
      this.#send({ type: 'alarm', code, message });
      return;
    }
    this.#alarms = [...this.#alarms, { code, message }].slice(-alarmsPendingMax);
  }

  #connect(): void {
    if (this.#stopped) return;
    const socket = new WebSocket(this.#options.url, {
      perMessageDeflate: true,
      maxPayload: syncFrameBytesMax,
      handshakeTimeout: handshakeTimeoutMs,
    });
    const connection: Connection = {
      socket,
      challenge: undefined,
      offered: undefined,
      joining: false,
      welcomed: false,
      accepts: new Set(),
      heardAt: this.#options.clock.monotonic(),
    };
    this.#connection = connection;
    socket.on('message', (data, isBinary) => {
      connection.heardAt = this.#options.clock.monotonic();
      if (isBinary || !Buffer.isBuffer(data)) socket.close(1003, 'text frames only');
      else this.#receive(connection, data.toString('utf8'));
    });
    socket.on('error', (error) => this.#options.log.warn({ error: error.message }, 'control plane connection failed'));
    socket.on('close', () => this.#closed(connection));
  }

  #closed(connection: Connection): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#options.store.detach();
    this.#applier.disconnected();
    if (this.#stopped) return;
    this.#failures = connection.welcomed ? 0 : this.#failures + 1;
    const ceilingMs = Math.min(reconnectDelayMsMax, reconnectDelayMsMin * 2 ** Math.min(this.#failures, 10));
    this.#reconnect = setTimeout(() => this.#connect(), randomInt(ceilingMs / 2, ceilingMs + 1));
  }

  /** Closes a silent connection, and keeps what a restart must know of time. */
  #watchContact(): void {
    const { clock, store, log } = this.#options;
    const connection = this.#connection;
    const limitMs = connection?.welcomed === true ? contactLostAfterMs : handshakeTimeoutMs;
    if (connection !== undefined && clock.monotonic() - connection.heardAt > limitMs) {
      log.warn('the control plane is silent; connecting again');
      connection.socket.terminate();
    }
    const contact = store.save();
    if (contact !== undefined && clock.monotonic() - this.#contactSavedAt > contactSaveIntervalMs) {
      this.#contactSavedAt = clock.monotonic();
      this.#lastKnownGood
        .saveContact(contact)
        .catch((error: unknown) => this.alarm('CONTACT_NOT_WRITTEN', toAppError(error).message));
    }
  }

  /** What may be said at any time, so also before the hello of a new connection, which would end it. */
  #tell(message: NodeMessage): void {
    if (this.#connection?.welcomed === true) this.#send(message);
  }

  #send(message: NodeMessage): void {
    const socket = this.#connection?.socket;
    if (socket === undefined || socket.readyState !== WebSocket.OPEN) return;
    if (socket.bufferedAmount > bufferedBytesMax) {
      socket.terminate();
      return;
    }
    socket.send(JSON.stringify(message));
  }

  #receive(connection: Connection, text: string): void {
    let message: ControlPlaneMessage;
    try {
      message = controlPlaneMessageSchema.parse(JSON.parse(text));
    } catch (error) {
      // A control plane that speaks a message this build does not know: never guess, keep serving what is applied.
      this.alarm('SYNC_MESSAGE_NOT_UNDERSTOOD', toAppError(error).message.slice(0, 500));
      connection.socket.close(1002, 'message not understood');
      return;
    }
    if (message.type === 'challenge') this.#hello(connection, message.nonce);
    else if (message.type === 'welcome') this.#welcome(connection, message);
    else if (message.type === 'refused') this.#refused(connection, message);
    else if (connection.welcomed) this.#dispatch(connection, message);
    else connection.socket.close(1002, 'not welcomed');
  }

  #dispatch(
    connection: Connection,
    message: Exclude<ControlPlaneMessage, { type: 'challenge' | 'welcome' | 'refused' }>,
  ): void {
    switch (message.type) {
      case 'manifest':
        return this.#applier.whole(message.nonce, message.whole);
      case 'manifestDelta':
        return this.#applier.delta(message.nonce, message.delta);
      case 'documents':
        return this.#applier.documents(message, connection.socket);
      case 'ping':
        this.#options.store.contact(message.time);
        this.#send({ type: 'pong', nonce: message.nonce, load: this.#options.load() });
        return this.#renewIfDue(connection);
      case 'renewed':
        return this.#renewed(connection, message);
      case 'watermark':
        for (const listener of this.#watermarkListeners) listener(message.epochs);
        return undefined;
      case 'peers':
        return this.#options.onPeers(message.peers);
      case 'discover':
        void this.#discover(message);
        return undefined;
      case 'credential':
        return this.#credentials.answered(message.requestId, message.outcome);
      case 'forgetCredentials':
        return this.#options.onForget(message.serverId, message.principalId);
      default:
        return message satisfies never;
    }
  }

  #hello(connection: Connection, nonce: string): void {
    const options = this.#options;
    connection.challenge = nonce;
    const { nodeId, key, certificate } = this.#identity;
    const byKey = nodeId !== undefined && key !== undefined && certificate !== undefined && !this.#identityRefused;
    if (!byKey && options.joinToken === null) {
      options.log.error('the node has no identity that is accepted and no join token');
      connection.socket.close(1000, 'no join token');
      return;
    }
    // A key is minted at each start; a reconnect of the same process keeps it.
    const offered = byKey && this.#keyRegisteredAt > 0 ? key : NodeKey.generate();
    connection.offered = offered;
    connection.joining = !byKey;
    const applied = options.store.built?.manifest;
    this.#send({
      type: 'hello',
      auth: byKey
        ? {
            kind: 'key',
            nodeId,
            publicKey: key.publicKey,
            signature: key.sign(helloSigningText(nonce, offered.publicKey)),
            certificate,
          }
        : { kind: 'join', token: options.joinToken ?? '' },
      publicKey: offered.publicKey,
      name: options.name,
      build: options.build,
      formats: [...snapshotFormatsRead],
      labels: { ...options.labels },
      peerUrl: options.peerUrl,
      peerCertificate: options.peerCertificate,
      applied:
        applied === undefined
          ? null
          : { historyId: applied.history.id, revision: applied.revision, hash: applied.hash },
      spoolEpochs: [...options.spoolEpochs()],
    });
  }

  #welcome(connection: Connection, message: Extract<ControlPlaneMessage, { type: 'welcome' }>): void {
    const { offered } = connection;
    const pinned = this.#identity.fleetPublicKey;
    const certified = nodeCertificateText(message.nodeId, offered?.publicKey ?? '', message.certificate.issuedAt);
    if (pinned !== undefined && pinned !== message.fleetPublicKey) {
      this.alarm(
        'FLEET_KEY_CHANGED',
        'this control plane has another fleet key than the one pinned when the node joined',
      );
      connection.socket.close(1008, 'another fleet');
      return;
    }
    if (offered === undefined || !signedByFleet(message.fleetPublicKey, certified, message.certificate.signature)) {
      connection.socket.close(1008, 'certificate not valid');
      return;
    }
    // Durable before anything else is sent: from the first answer on, the control plane drops the key before this one.
    this.#identity.register({ ...message, key: offered });
    connection.offered = undefined;
    connection.welcomed = true;
    connection.accepts = new Set(message.accepts);
    this.#identityRefused = false;
    this.#keyRegisteredAt = message.time;
    this.#options.store.contact(message.time);
    // What was to be forgotten while this node was away, nobody tells it any more.
    this.#options.onReturned();
    this.#credentials.connected();
    this.#options.log.info({ nodeId: message.nodeId }, 'connected to the control plane');
    this.#joined.resolve(message.nodeId);
    for (const alarm of this.#alarms.splice(0)) this.#send({ type: 'alarm', ...alarm });
  }

  #refused(connection: Connection, message: Extract<ControlPlaneMessage, { type: 'refused' }>): void {
    this.#options.log.error({ code: message.code }, `the control plane refused this node: ${message.message}`);
    if (message.code === 'KEY_REFUSED' && !connection.joining) {
      this.alarm('IDENTITY_REFUSED', message.message);
      this.#identityRefused = this.#options.joinToken !== null;
    } else if (connection.joining) {
      this.#identityRefused = false;
    }
    connection.socket.close(1000, 'refused');
  }

  #renewIfDue(connection: Connection): void {
    const { key, keyExpiresAt } = this.#identity;
    if (connection.offered !== undefined || key === undefined || keyExpiresAt === undefined) return;
    const life = keyExpiresAt - this.#keyRegisteredAt;
    if (keyExpiresAt - this.#options.store.now() > life * renewWhenLeft) return;
    const offered = NodeKey.generate();
    connection.offered = offered;
    const signature = key.sign(helloSigningText(connection.challenge ?? '', offered.publicKey));
    this.#send({ type: 'renew', publicKey: offered.publicKey, signature });
  }

  #renewed(connection: Connection, message: Extract<ControlPlaneMessage, { type: 'renewed' }>): void {
    const { nodeId, fleetPublicKey } = this.#identity;
    const { offered } = connection;
    if (offered?.publicKey !== message.publicKey || nodeId === undefined || fleetPublicKey === undefined) return;
    const certified = nodeCertificateText(nodeId, offered.publicKey, message.certificate.issuedAt);
    if (!signedByFleet(fleetPublicKey, certified, message.certificate.signature)) return;
    this.#identity.renew(offered, message.certificate, message.keyExpiresAt);
    this.#keyRegisteredAt = message.certificate.issuedAt;
    connection.offered = undefined;
  }

  async #discover({ requestId, url, credential }: Extract<ControlPlaneMessage, { type: 'discover' }>): Promise<void> {
    if (this.#discoveries >= discoveriesAtOnceMax) {
      this.#send({ type: 'discovered', requestId, outcome: { ok: false, problem: 'OVERLOADED' } });
      return;
    }
    this.#discoveries += 1;
    try {
      const lent = credential === undefined ? undefined : await this.lend(credential);
      if (lent?.ok === false) throw new AppError(lent.problem);
      const result = await this.#options.discover(url, headersFor(url, lent?.credential));
      const message: NodeMessage = { type: 'discovered', requestId, outcome: { ok: true, result } };
      // A larger frame would cost the connection.
      if (Buffer.byteLength(JSON.stringify(message)) > syncFrameBytesMax)
        throw new AppError('UPSTREAM_RESPONSE_TOO_LARGE');
      this.#send(message);
    } catch (error) {
      const problem = error instanceof AppError ? error.code : 'INTERNAL';
      this.#options.log.warn({ url, problem, error: toAppError(error).message }, 'discovery failed');
      this.#send({ type: 'discovered', requestId, outcome: { ok: false, problem } });
    } finally {
      this.#discoveries -= 1;
    }
  }
}

/** Of a credential, where it is for the URL's origin. */
function headersFor(url: string, credential: LentCredential | undefined): LentCredential['headers'] {
  if (credential === undefined) return [];
  if (credential.origin === new URL(url).origin) return credential.headers;
  throw new AppError('CREDENTIAL_MISSING', { internal: 'the credential is for another origin' });
}
