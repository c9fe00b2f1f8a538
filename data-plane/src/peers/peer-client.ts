import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { AppError, ERRORS, peerRoutes, toAppError, type ErrorCode } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { z } from 'zod';
import type { SessionName, ToldState } from '../bridge/session-state.ts';
import type {
  AskedSessions,
  PeerLink,
  PeerNotice,
  RelayedExchange,
  RelayedResponse,
  RelayedReturn,
} from '../pipeline/peer-link.ts';
import type { Cancellation, UpstreamResponse } from '../upstream/connections.ts';
import type { KnownPeers, Peer } from './known-peers.ts';
import type { PeerIdentity } from './peer-certificate.ts';
import { toldSchema } from './peer-server.ts';

/** To connect and be heard, in milliseconds; nodes are near each other. */
const answerTimeoutMs = 5_000;
const answerBytesMax = 64 * 1024;
/** A session's subscriptions are many and long at worst. */
const sessionBytesMax = 8 * 1024 * 1024;
/** For a session that a client waits with, in milliseconds. */
const sessionTimeoutMs = 1_000;
/** Notices under way at once, to all nodes together. Clients cause them and wait for none, so a slow node holds up many. */
const noticesMax = 256;
/** To the head of an answer to a client, which its upstream may take its time for; in milliseconds. */
const exchangeTimeoutMs = 10 * 60_000;

const answerSchema = z.looseObject({ isKnown: z.boolean().optional(), code: z.string().optional() });

/** Asks other nodes. What is sent is sent once: a node that does not answer may have done it. */
export class PeerClient implements PeerLink {
  readonly nodeId: string;
  readonly #options: { readonly identity: PeerIdentity; readonly peers: KnownPeers; readonly log: Log };
  /** By the certificate that is expected: a node that starts anew has another. */
  #agents = new Map<string, Agent>();
  #notices = 0;

  constructor(
    nodeId: string,
    options: { readonly identity: PeerIdentity; readonly peers: KnownPeers; readonly log: Log },
  ) {
    this.nodeId = nodeId;
    this.#options = options;
    options.peers.onChange(() => this.#forgetOthers());
  }

  async tell(notice: PeerNotice, nodeId?: string): Promise<readonly string[]> {
    const peers = this.#options.peers.all.filter((peer) => nodeId === undefined || peer.nodeId === nodeId);
    const told = await Promise.all(peers.map(async (peer) => await this.#tellOne(peer, notice)));
    // One that is named no more, or with another certificate, knows nothing and will ask.
    return peers.flatMap((peer, at) =>
      told[at] !== true && this.#options.peers.byFingerprint(peer.fingerprint) !== undefined ? [peer.nodeId] : [],
    );
  }

  async #tellOne(peer: Peer, notice: PeerNotice): Promise<boolean> {
    if (this.#notices >= noticesMax) {
      this.#notTold(peer, notice, 'too many notices are under way');
      return false;
    }
    this.#notices += 1;
    try {
      await this.#ask(peer, peerRoutes.notice.path, notice);
      return true;
    } catch (error) {
      this.#notTold(peer, notice, toAppError(error).message);
      return false;
    } finally {
      this.#notices -= 1;
    }
  }

  #notTold({ nodeId }: Peer, { kind }: PeerNotice, reason: string): void {
    this.#options.log.warn({ nodeId, reason, kind }, 'another node was not told');
  }

  async askSession(name: SessionName): Promise<AskedSessions> {
    const asked = await Promise.allSettled(this.#options.peers.all.map((peer) => this.#askForSession(peer, name)));
    const known = asked.flatMap((each) => (each.status === 'fulfilled' && each.value !== null ? [each.value] : []));
    return { known, unreached: asked.filter(({ status }) => status === 'rejected').length };
  }

  /** Null where that node does not know it. */
  async #askForSession(peer: Peer, name: SessionName): Promise<ToldState | null> {
    const incoming = await this.#send(peer, peerRoutes.session.path, name, sessionTimeoutMs, null);
    const answer = await readAnswer(incoming, sessionBytesMax);
    if (incoming.statusCode !== 200) throw refusalOf(answerSchema.parse(answer));
    return toldSchema.parse(answer).told;
  }

  async respond(nodeId: string, relayed: RelayedResponse): Promise<boolean> {
    const { isKnown } = await this.#ask(this.#peer(nodeId), peerRoutes.response.path, relayed);
    return isKnown ?? false;
  }

  async resume(nodeId: string, relayed: RelayedReturn, signal: Cancellation): Promise<UpstreamResponse> {
    const incoming = await this.#send(
      this.#lostPeer(nodeId),
      peerRoutes.resume.path,
      relayed,
      relayed.timeoutMs,
      signal,
    );
    const status = Number(incoming.headers['sallyport-status']);
    if (incoming.statusCode === 200 && Number.isInteger(status)) return new PeerResponse(incoming, status);
    throw refusalOf(answerSchema.parse(await readAnswer(incoming)));
  }

  async exchange(nodeId: string, relayed: RelayedExchange, signal: Cancellation): Promise<UpstreamResponse> {
    const peer = this.#options.peers.get(nodeId);
    // A session that was held there is gone with it, and its client can begin another.
    if (peer === undefined) throw new AppError('SESSION_NOT_FOUND', { internal: `node ${nodeId} is not known` });
    const body = { ...relayed, body: relayed.body.toString('base64') };
    const incoming = await this.#send(peer, peerRoutes.exchange.path, body, exchangeTimeoutMs, signal);
    const status = Number(incoming.headers['sallyport-status']);
    if (incoming.statusCode === 200 && Number.isInteger(status)) return new PeerResponse(incoming, status);
    throw refusalOf(answerSchema.parse(await readAnswer(incoming)));
  }

  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
    this.#agents.clear();
  }

  #peer(nodeId: string): Peer {
    const peer = this.#options.peers.get(nodeId);
    if (peer === undefined) throw new AppError('PEER_UNREACHABLE', { internal: `node ${nodeId} is not known` });
    return peer;
  }

  /** What a node held is lost with it. */
  #lostPeer(nodeId: string): Peer {
    const peer = this.#options.peers.get(nodeId);
    if (peer === undefined) throw new AppError('CALL_LOST', { internal: `node ${nodeId} is not known` });
    return peer;
  }

  async #ask(peer: Peer, path: string, body: object): Promise<z.infer<typeof answerSchema>> {
    const incoming = await this.#send(peer, path, body, answerTimeoutMs, null);
    const answer = answerSchema.parse(await readAnswer(incoming));
    if (incoming.statusCode !== 200) throw refusalOf(answer);
    return answer;
  }

  /** Resolves with the head of the answer. @throws AppError PEER_UNREACHABLE */
  #send(
    peer: Peer,
    path: string,
    body: object,
    timeoutMs: number,
    signal: Cancellation | null,
  ): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const outgoing = request(
        new URL(path, peer.url),
        {
          method: 'POST',
          agent: this.#agentOf(peer),
          headers: { 'content-type': 'application/json' },
          ...(signal === null ? {} : { signal: abortSignalOf(signal) }),
        },
        (incoming) => {
          clearTimeout(timer);
          resolve(incoming);
        },
      );
      const timer = setTimeout(() => outgoing.destroy(new Error('no answer in time')), timeoutMs);
      outgoing.once('error', (cause) => {
        clearTimeout(timer);
        reject(new AppError('PEER_UNREACHABLE', { cause, internal: `node ${peer.nodeId}: ${cause.message}` }));
      });
      outgoing.end(JSON.stringify(body));
    });
  }

  #agentOf(peer: Peer): Agent {
    const known = this.#agents.get(peer.fingerprint);
    if (known !== undefined) return known;
    const { identity } = this.#options;
    const agent = new Agent({
      keepAlive: true,
      cert: identity.certificatePem,
      key: identity.privateKeyPem,
      // This one certificate and no other; which name it bears says nothing.
      ca: peer.certificatePem,
      checkServerIdentity: () => undefined,
      minVersion: 'TLSv1.3',
      timeout: answerTimeoutMs,
    });
    this.#agents.set(peer.fingerprint, agent);
    return agent;
  }

  #forgetOthers(): void {
    for (const [fingerprint, agent] of this.#agents) {
      if (this.#options.peers.byFingerprint(fingerprint) !== undefined) continue;
      this.#agents.delete(fingerprint);
      agent.destroy();
    }
  }
}

function refusalOf({ code }: z.infer<typeof answerSchema>): AppError {
  const isKnown = code !== undefined && Object.hasOwn(ERRORS, code);
  return new AppError(isKnown ? (code as ErrorCode) : 'PEER_UNREACHABLE', {
    internal: `another node said ${code ?? ''}`,
  });
}

async function readAnswer(incoming: IncomingMessage, bytesMax = answerBytesMax): Promise<unknown> {
  let text = '';
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    text += chunk.toString('utf8');
    if (text.length > bytesMax) throw new AppError('PEER_UNREACHABLE', { internal: 'an answer is too large' });
  }
  return JSON.parse(text);
}

/** Another node's answer to a client's return, read as if it came from an upstream. */
class PeerResponse implements UpstreamResponse {
  readonly status: number;
  readonly #incoming: IncomingMessage;
  readonly #chunks: AsyncIterator<Buffer>;

  constructor(incoming: IncomingMessage, status: number) {
    this.status = status;
    this.#incoming = incoming;
    this.#chunks = (incoming as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  }

  header(name: string): string | undefined {
    const value = this.#incoming.headers[name];
    return Array.isArray(value) ? value.join(', ') : value;
  }

  async next(): Promise<Buffer | undefined> {
    try {
      const { value, done } = await this.#chunks.next();
      return done === true ? undefined : (value as Buffer);
    } catch (cause) {
      throw new AppError('PEER_UNREACHABLE', { cause, internal: 'the connection to another node broke' });
    }
  }

  async collect(limits: { readonly bytesMax: number }): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let length = 0;
    for (let chunk = await this.next(); chunk !== undefined; chunk = await this.next()) {
      length += chunk.length;
      if (length > limits.bytesMax) {
        const error = new AppError('UPSTREAM_RESPONSE_TOO_LARGE');
        this.abort(error);
        throw error;
      }
      chunks.push(chunk);
    }
    return Buffer.concat(chunks, length);
  }

  abort(error: AppError): void {
    this.#incoming.destroy(error);
  }
}

/** node:http takes no less. */
function abortSignalOf(cancellation: Cancellation): AbortSignal {
  const controller = new AbortController();
  const abort = (): void => controller.abort();
  if (cancellation.aborted) abort();
  else cancellation.addEventListener('abort', abort, { once: true });
  return controller.signal;
}
