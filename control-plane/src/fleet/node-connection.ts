import { randomBytes } from 'node:crypto';
import {
  type ControlPlaneMessage,
  controlPlaneAccepts,
  type CredentialNeed,
  type CredentialOutcome,
  type HealthObservation,
  lendingContext,
  lendingKeyText,
  type LentCredential,
  type Manifest,
  type NodeLoad,
  type NodeMessage,
  nodeMessageSchema,
  type Sighting,
} from '@sallyport/schema';
import { type Clock, isLendingKey, type Log, sealTo } from '@sallyport/schema/platform';
import { type FleetKey, signedBy } from './fleet-keys.ts';
import type { ManifestFeed } from './manifest-feed.ts';
import type { Hello, NodeAdmission } from './node-admission.ts';
import type { NamedPeer, NodeReports, Reporter } from './node-reports.ts';

/** Largest message of a node that has not proved who it is, in characters. */
const helloLengthMax = 64 * 1024;
/** Messages accepted at once, and per second after that; a node in order sends a few a second. */
const messagesBurst = 400;
const messagesPerSecondMax = 100;
/** No further documents are sent while more than this waits in the socket, in bytes. */
const bufferedBytesMax = 1024 * 1024;
const drainPollMs = 10;
/** A node that has not answered an offer for this long is offered again, whole. */
const offerTimeoutMs = 60_000;
const watermarkIntervalMs = 1_000;
/** Credentials being made for one node; further needs are told to come again. */
const lendingsAtOnceMax = 512;

export type DiscoveryOutcome = Extract<NodeMessage, { type: 'discovered' }>['outcome'];
export type SpoolWatermarks = Extract<ControlPlaneMessage, { type: 'watermark' }>['epochs'];

/** A credential, or why there is none. */
export type Lending =
  | { readonly ok: true; readonly credential: LentCredential }
  | Extract<CredentialOutcome, { ok: false }>;

/** What to look at, and what to be lent for it. */
export interface DiscoveryTarget {
  readonly url: string;
  readonly credential: CredentialNeed | null;
}

/** What a connection needs of a WebSocket. */
export interface Wire {
  send(text: string): void;
  close(code: number, reason: string): void;
  terminate(): void;
  readonly bufferedAmount: number;
}

export interface ConnectionDependencies {
  readonly admission: NodeAdmission;
  readonly reports: NodeReports;
  readonly feed: ManifestFeed;
  readonly fleetKey: FleetKey;
  readonly clock: Clock;
  readonly log: Log;
  /** Highest contiguous sequence stored for each spool epoch of the node. */
  readonly watermarksOf: (nodeId: string) => Promise<SpoolWatermarks>;
  /** The node said which spool epochs it still holds. */
  readonly spoolEpochsReported: (nodeId: string, epochs: readonly string[]) => Promise<void>;
  readonly recordHealth: (nodeId: string, observations: readonly HealthObservation[]) => Promise<void>;
  /** What a node may be lent. Never rejects. */
  readonly lend: (nodeId: string, need: CredentialNeed) => Promise<Lending>;
  /** A node doubts the protocol revisions that a server is published with. */
  readonly doubtServer: (serverId: string) => Promise<void>;
  /** A node withheld definitions that nobody approved. Not waited for: what is told takes a scan. */
  readonly definitionsSighted: (nodeId: string, serverId: string, sightings: readonly Sighting[]) => void;
}

type Applied = NonNullable<Hello['applied']>;

interface Offer {
  readonly nonce: string;
  readonly manifest: Manifest;
  readonly offeredAt: number;
}

/**
 * The control plane's end of one node's socket. At most one configuration is on offer at a time; what is published
 * meanwhile is offered when the node has answered, as one change.
 */
export class NodeConnection {
  readonly #deps: ConnectionDependencies;
  readonly #wire: Wire;
  readonly #from: string | null;
  readonly #challenge = randomBytes(24).toString('base64url');
  readonly #discoveries = new Map<string, (outcome: DiscoveryOutcome) => void>();
  #reporter: Reporter | undefined;
  #publicKey: string | undefined;
  #keyConfirmed = false;
  #hello: 'awaited' | 'checking' | 'done' = 'awaited';
  /** What the node runs, as far as it said so. */
  #applied: Applied | undefined;
  #offer: Offer | undefined;
  /** Refused by the node; not offered again until something else is published. */
  #refused: Offer | undefined;
  #ping: { readonly nonce: string; readonly sentAt: number } | undefined;
  #contactAt: number;
  #contactMonotonic: number;
  #load: NodeLoad | null = null;
  /** Undefined for a node that takes no part in it. */
  #peersSent: string | undefined;
  #watermarkSent = '';
  #watermarkAskedAt = 0;
  #work: Promise<void> = Promise.resolve();
  #lendings = 0;
  /** A node that never asked knows no such message. */
  #hasLent = false;
  #credit = messagesBurst;
  #creditAt: number;
  #closed = false;

  /** @param from the address of the other end; null where that cannot be told */
  constructor(wire: Wire, deps: ConnectionDependencies, from: string | null) {
    this.#wire = wire;
    this.#from = from;
    this.#deps = deps;
    this.#contactAt = deps.clock.now();
    this.#contactMonotonic = deps.clock.monotonic();
    this.#creditAt = deps.clock.monotonic();
    this.#send({ type: 'challenge', nonce: this.#challenge });
  }

  /** Undefined until the node has proved who it is. */
  get reporter(): Reporter | undefined {
    return this.#reporter;
  }

  get contact(): { readonly contactAt: number; readonly load: NodeLoad | null } {
    return { contactAt: this.#contactAt, load: this.#load };
  }

  get discoveriesOpen(): number {
    return this.#discoveries.size;
  }

  /** Milliseconds since the node last answered. */
  silentMs(): number {
    return this.#deps.clock.monotonic() - this.#contactMonotonic;
  }

  /** Takes one frame. Frames are worked off one after the other, in order. */
  receive(text: string): void {
    if (!this.#takeCredit()) return this.#refuse('TOO_MANY_MESSAGES', 'the node sends more messages than it may');
    if (this.#reporter === undefined && text.length > helloLengthMax) {
      return this.#refuse('HELLO_NOT_VALID', 'the first message is too large');
    }
    let message: NodeMessage;
    try {
      message = nodeMessageSchema.parse(JSON.parse(text));
    } catch {
      return this.#refuse('MESSAGE_NOT_UNDERSTOOD', 'a message does not fit the schema of this control plane');
    }
    // Contact must not wait behind documents that are being sent.
    if (message.type === 'pong') this.#ponged(message);
    // What arrived before the socket closed counts, a goodbye above all.
    this.#work = this.#work
      .then(() => this.#handle(message))
      .catch((error: unknown) => {
        this.#deps.log.error({ err: error, nodeId: this.#reporter?.nodeId }, 'a message of a node failed');
        this.#wire.close(1011, 'internal error');
      });
  }

  closed(): void {
    this.#closed = true;
    for (const settle of this.#discoveries.values()) settle({ ok: false, problem: 'NODE_UNREACHABLE' });
    this.#discoveries.clear();
  }

  /** Something was published, or the time to look again has come. */
  published(): void {
    this.#work = this.#work
      .then(() => this.#offerCurrent())
      .catch((error: unknown) => {
        this.#deps.log.error({ err: error, nodeId: this.#reporter?.nodeId }, 'offering a configuration failed');
        this.#wire.close(1011, 'internal error');
      });
  }

  /** Sends the heartbeat, and what became due with the time. */
  tick(): void {
    if (this.#reporter === undefined || this.#closed) return;
    const nonce = randomBytes(12).toString('base64url');
    this.#ping = { nonce, sentAt: this.#deps.clock.monotonic() };
    this.#send({ type: 'ping', nonce, time: this.#deps.clock.now() });
    if (this.#offer !== undefined && this.#deps.clock.monotonic() - this.#offer.offeredAt > offerTimeoutMs) {
      this.#offer = undefined;
      this.#applied = undefined;
      this.published();
    }
  }

  /** Tells the node what of its audit spool is stored, where that changed. */
  async sendWatermark(): Promise<void> {
    if (this.#reporter === undefined || this.#closed) return;
    const now = this.#deps.clock.monotonic();
    if (now - this.#watermarkAskedAt < watermarkIntervalMs && this.#watermarkSent !== '') return;
    this.#watermarkAskedAt = now;
    const epochs = await this.#deps.watermarksOf(this.#reporter.nodeId);
    const text = JSON.stringify(epochs);
    if (text === this.#watermarkSent) return;
    this.#watermarkSent = text;
    this.#send({ type: 'watermark', epochs: [...epochs] });
  }

  /** Tells the node which others there are, where that changed. */
  sendPeers(all: readonly NamedPeer[]): void {
    if (this.#peersSent === undefined || this.#closed) return;
    const peers = all.filter(({ nodeId }) => nodeId !== this.#reporter?.nodeId);
    const text = JSON.stringify(peers);
    if (text === this.#peersSent) return;
    this.#peersSent = text;
    this.#send({ type: 'peers', peers });
  }

  /** Asks the node to look at an upstream; settles with a problem when it takes longer than `timeoutMs`. */
  discover(requestId: string, { url, credential }: DiscoveryTarget, timeoutMs: number): Promise<DiscoveryOutcome> {
    return new Promise((resolve) => {
      const settle = (outcome: DiscoveryOutcome): void => {
        clearTimeout(deadline);
        this.#discoveries.delete(requestId);
        resolve(outcome);
      };
      const deadline = setTimeout(() => settle({ ok: false, problem: 'UPSTREAM_TIMEOUT' }), timeoutMs);
      this.#discoveries.set(requestId, settle);
      this.#send({ type: 'discover', requestId, url, ...(credential === null ? {} : { credential }) });
    });
  }

  /** Ends the connection because another one, or nobody, speaks for the node now. */
  replaced(): void {
    this.#wire.close(1008, 'replaced or removed');
  }

  async #handle(message: NodeMessage): Promise<void> {
    if (message.type === 'hello') return this.#admit(message);
    const reporter = this.#reporter;
    if (reporter === undefined) return this.#refuse('HELLO_NOT_VALID', 'the first message must be a hello');
    await this.#confirmKey(reporter);
    switch (message.type) {
      case 'need':
        return this.#sendDocuments(message.nonce, message.hashes);
      case 'needWhole':
        if (this.#offer?.nonce === message.nonce) this.#sendWhole(this.#offer);
        return undefined;
      case 'ack':
        return this.#acknowledged(reporter, message);
      case 'nack':
        return this.#nacked(reporter, message);
      case 'pong':
        return undefined;
      case 'health':
        return this.#deps.recordHealth(reporter.nodeId, message.observations);
      case 'doubt':
        return this.#deps.doubtServer(message.serverId);
      case 'sighted':
        return this.#deps.definitionsSighted(reporter.nodeId, message.serverId, message.definitions);
      case 'discovered':
        this.#discoveries.get(message.requestId)?.(message.outcome);
        return undefined;
      case 'needCredentials':
        return this.#lend(reporter, message);
      case 'renew':
        return this.#renew(reporter, message);
      case 'alarm':
        return this.#deps.reports.alarmed(reporter.nodeId, message.code, message.message);
      case 'leaving':
        await this.#deps.reports.left(reporter);
        return this.#wire.close(1000, 'goodbye');
      default:
        return message satisfies never;
    }
  }

  async #admit(hello: Hello): Promise<void> {
    if (this.#hello !== 'awaited') return this.#refuse('HELLO_NOT_VALID', 'there is one hello in a connection');
    this.#hello = 'checking';
    const admission = await this.#deps.admission.admit(hello, this.#challenge, this.#from);
    if (!admission.admitted) return this.#refuse(admission.code, admission.message);
    const { nodeId, connectionId, keyExpiresAt, certificate } = admission;
    const history = this.#deps.feed.history;
    if (history === undefined) return this.#refuse('NOT_READY', 'nothing has been published yet');
    this.#hello = 'done';
    this.#reporter = { nodeId, connectionId };
    this.#publicKey = hello.publicKey;
    this.#applied = hello.applied ?? undefined;
    this.#peersSent = hello.peerCertificate === null ? undefined : '';
    this.#contact();
    const fleetPublicKey = this.#deps.fleetKey.publicKey;
    const time = this.#deps.clock.now();
    const accepts = [...controlPlaneAccepts];
    this.#send({ type: 'welcome', nodeId, keyExpiresAt, certificate, time, fleetPublicKey, history, accepts });
    await this.#deps.reports.connected();
    await this.#deps.spoolEpochsReported(nodeId, hello.spoolEpochs);
    await this.#offerCurrent();
    await this.sendWatermark();
  }

  async #offerCurrent(): Promise<void> {
    const reporter = this.#reporter;
    const current = this.#deps.feed.current;
    if (reporter === undefined || current === undefined || this.#offer !== undefined || this.#closed) return;
    const applied = this.#applied;
    const sameHistory = applied?.historyId === current.history.id;
    if (sameHistory && applied.hash === current.hash && applied.revision === current.revision) return;
    if (this.#refused?.manifest === current) return;
    if (sameHistory && applied.revision >= current.revision) return this.#aheadOfUs(reporter, applied, current);
    const offer: Offer = {
      nonce: randomBytes(12).toString('base64url'),
      manifest: current,
      offeredAt: this.#deps.clock.monotonic(),
    };
    this.#offer = offer;
    const delta = applied === undefined ? undefined : await this.#deps.feed.deltaFrom(applied);
    // A publication during the query makes a delta to something else than what is on offer.
    if (delta?.revision === current.revision) this.#send({ type: 'manifestDelta', nonce: offer.nonce, delta });
    else this.#sendWhole(offer);
  }

  /** The node runs what this database never published: it was restored from an older backup. */
  async #aheadOfUs(reporter: Reporter, applied: Applied, current: Manifest): Promise<void> {
    const message =
      `the node runs a revision ${applied.revision} of this history that this database, at revision ` +
      `${current.revision}, did not publish: it was restored from an older backup; run "sallyport admin new-history" once`;
    this.#deps.log.error({ nodeId: reporter.nodeId }, message);
    this.#refused = { nonce: '', manifest: current, offeredAt: 0 };
    await this.#deps.reports.refused(reporter, current.revision, [{ document: 'manifest', path: 'revision', message }]);
  }

  #sendWhole(offer: Offer): void {
    this.#send({ type: 'manifest', nonce: offer.nonce, whole: offer.manifest });
  }

  async #sendDocuments(nonce: string, hashes: readonly string[]): Promise<void> {
    const offer = this.#offer;
    if (offer?.nonce !== nonce) return;
    for await (const { complete, documents } of this.#deps.feed.documents(hashes)) {
      if (!complete) {
        // It was replaced while the node was away or slow: start over with what is current.
        this.#offer = undefined;
        return this.#offerCurrent();
      }
      while (this.#wire.bufferedAmount > bufferedBytesMax && !this.#closed) {
        await new Promise((resolve) => setTimeout(resolve, drainPollMs));
      }
      this.#send({ type: 'documents', nonce, documents });
    }
  }

  async #acknowledged(reporter: Reporter, ack: Extract<NodeMessage, { type: 'ack' }>): Promise<void> {
    // A configuration that could not be written to disk is refused first and acknowledged when that worked.
    const answered = [this.#offer, this.#refused].find((offer) => offer?.nonce === ack.nonce);
    if (answered === undefined || answered.manifest.revision !== ack.revision) return;
    this.#offer = this.#offer === answered ? undefined : this.#offer;
    this.#refused = undefined;
    const { history, revision, hash } = answered.manifest;
    this.#applied = { historyId: history.id, revision, hash };
    this.#contact();
    await this.#deps.reports.acknowledged(reporter, history.id, revision);
    await this.#offerCurrent();
  }

  async #nacked(reporter: Reporter, nack: Extract<NodeMessage, { type: 'nack' }>): Promise<void> {
    const offer = this.#offer;
    if (offer?.nonce !== nack.nonce) return;
    this.#offer = undefined;
    this.#refused = offer;
    this.#contact();
    this.#deps.log.error(
      { nodeId: reporter.nodeId, revision: offer.manifest.revision, problems: nack.problems.slice(0, 5) },
      'a node refused the configuration',
    );
    await this.#deps.reports.refused(reporter, offer.manifest.revision, nack.problems);
    await this.#offerCurrent();
  }

  #ponged(pong: Extract<NodeMessage, { type: 'pong' }>): void {
    if (this.#ping?.nonce !== pong.nonce) return;
    this.#ping = undefined;
    this.#load = pong.load;
    this.#contact();
  }

  async #confirmKey(reporter: Reporter): Promise<void> {
    if (this.#keyConfirmed || this.#publicKey === undefined) return;
    this.#keyConfirmed = true;
    await this.#deps.admission.confirmKey(reporter.nodeId, this.#publicKey);
  }

  async #renew(reporter: Reporter, renewal: Extract<NodeMessage, { type: 'renew' }>): Promise<void> {
    const current = this.#publicKey ?? '';
    const renewed = await this.#deps.admission.renew(reporter.nodeId, current, this.#challenge, renewal);
    if (renewed === undefined) return this.#refuse('KEY_REFUSED', 'the renewal is not signed by the key in force');
    this.#publicKey = renewal.publicKey;
    this.#send({ type: 'renewed', publicKey: renewal.publicKey, ...renewed });
  }

  /** In the background: what is made for one of them over the network keeps no other message waiting. */
  #lend(reporter: Reporter, message: Extract<NodeMessage, { type: 'needCredentials' }>): void {
    const { publicKey, signature, needs } = message;
    const isOfNode = signedBy(this.#publicKey ?? '', lendingKeyText(this.#challenge, publicKey), signature);
    const refuse = (requestId: string): void => {
      const outcome = { ok: false, problem: 'CREDENTIAL_UNAVAILABLE', connectUrl: null } as const;
      this.#send({ type: 'credential', requestId, outcome });
    };
    for (const { requestId, need } of needs) {
      if (!isOfNode || !isLendingKey(publicKey) || this.#lendings >= lendingsAtOnceMax) {
        refuse(requestId);
        continue;
      }
      this.#lendings += 1;
      this.#hasLent = true;
      void this.#deps.lend(reporter.nodeId, need).then((lending) => {
        this.#lendings -= 1;
        if (!lending.ok) return this.#send({ type: 'credential', requestId, outcome: lending });
        const context = lendingContext(reporter.nodeId, requestId);
        const sealed = sealTo(publicKey, context, JSON.stringify(lending.credential));
        return this.#send({ type: 'credential', requestId, outcome: { ok: true, sealed } });
      });
    }
  }

  /** Tells the node to let go of what it was lent; null stands for all. */
  forgetCredentials(serverId: string | null, principalId: string | null): void {
    if (this.#hasLent) this.#send({ type: 'forgetCredentials', serverId, principalId });
  }

  #contact(): void {
    this.#contactAt = this.#deps.clock.now();
    this.#contactMonotonic = this.#deps.clock.monotonic();
  }

  #takeCredit(): boolean {
    const now = this.#deps.clock.monotonic();
    const earned = ((now - this.#creditAt) / 1_000) * messagesPerSecondMax;
    this.#credit = Math.min(messagesBurst, this.#credit + earned) - 1;
    this.#creditAt = now;
    return this.#credit >= 0;
  }

  #refuse(code: string, message: string): void {
    this.#send({ type: 'refused', code, message });
    this.#wire.close(1008, code);
  }

  #send(message: ControlPlaneMessage): void {
    if (!this.#closed) this.#wire.send(JSON.stringify(message));
  }
}
