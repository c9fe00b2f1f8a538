import { constants } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { TLSSocket } from 'node:tls';
import { AppError, peerRoutes, routeMatcher, toAppError } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { z } from 'zod';
import { logLevels } from '../bridge/translate.ts';
import { parseLossless } from '../mcp/lossless-json.ts';
import type { PeerHandlers } from '../pipeline/peer-link.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import type { KnownPeers } from './known-peers.ts';
import type { PeerIdentity } from './peer-certificate.ts';

const matchRoute = routeMatcher<keyof typeof peerRoutes>(peerRoutes);

/** A client's answers travel in it, bounded by the request that brought them. */
const bodyBytesMax = 16 * 1024 * 1024;
const bodyTimeoutMs = 10_000;

const object = z.record(z.string(), z.unknown());
const owner = { principalId: z.string(), serverId: z.string() };
const sessionName = { sessionId: z.string(), principalId: z.string() };
const at = z.number();
const toldState = z.strictObject({
  logLevel: z.strictObject({ level: z.enum(logLevels), at }).optional(),
  subscriptions: z.array(z.tuple([z.string(), z.boolean(), at])).optional(),
  listening: z.strictObject({ streamId: z.string(), at }).optional(),
  isEnded: z.boolean().optional(),
});
/** What a node answers that is asked for a session. */
export const toldSchema = z.strictObject({ told: toldState.nullable() });
const noticeSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('session'), ...sessionName, told: toldState, isWhole: z.boolean() }),
  z.strictObject({
    kind: z.literal('cancelled'),
    sessionId: z.string(),
    requestId: z.union([z.string(), z.number()]),
  }),
]);
const responseSchema = z.strictObject({ ...owner, sessionId: z.string(), questionId: z.string(), response: object });
const resumeSchema = z.strictObject({
  ...owner,
  callId: z.string(),
  digest: z.string(),
  requestId: z.union([z.string(), z.number()]),
  responses: object,
  timeoutMs: z.number().positive(),
});

const exchangeSchema = z.strictObject({
  method: z.string(),
  path: z.string(),
  query: z.string(),
  remoteAddress: z.string().nullable(),
  headers: z.array(z.tuple([z.string(), z.string()])),
  body: z.base64(),
});

/**
 * Answers other nodes of the fleet, over TLS in which both sides show the certificate that the control plane named for
 * them. Anybody else gets no connection; a node that is no longer named gets no answer.
 */
export class PeerServer {
  readonly #options: { readonly identity: PeerIdentity; readonly peers: KnownPeers; readonly log: Log };
  readonly #server: Server;
  #handlers: PeerHandlers | undefined;

  constructor(options: { readonly identity: PeerIdentity; readonly peers: KnownPeers; readonly log: Log }) {
    this.#options = options;
    this.#server = createServer(
      { ...this.#context(), requestCert: true, rejectUnauthorized: true },
      (incoming, outgoing) => {
        void this.#serve(incoming, outgoing);
      },
    );
    this.#server.on('tlsClientError', (error) => {
      options.log.info({ reason: error.message }, 'a stranger was refused at the port for other nodes');
    });
    options.peers.onChange(() => this.#server.setSecureContext(this.#context()));
  }

  /** @returns the port listened on */
  async listen(host: string, port: number): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(port, host, resolve);
    });
    return (this.#server.address() as AddressInfo).port;
  }

  /** From now on there is something to answer with. */
  serve(handlers: PeerHandlers): void {
    this.#handlers = handlers;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #context() {
    const { identity, peers } = this.#options;
    return {
      cert: identity.certificatePem,
      key: identity.privateKeyPem,
      ca: peers.all.map(({ certificatePem }) => certificatePem),
      minVersion: 'TLSv1.3' as const,
      // A resumed session would not show its certificate again.
      secureOptions: constants.SSL_OP_NO_TICKET,
    };
  }

  async #serve(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { peers, log } = this.#options;
    outgoing.on('error', () => undefined);
    try {
      const socket = incoming.socket;
      const certificate = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
      const peer = certificate === undefined ? undefined : peers.byFingerprint(certificate.fingerprint256);
      if (peer === undefined) throw new AppError('UNAUTHENTICATED');
      if (this.#handlers === undefined) throw new AppError('NOT_READY');
      const match = matchRoute(incoming.url ?? '');
      if (match === undefined) throw new AppError('NOT_FOUND');
      if (!match.route.methods.some((one) => one === incoming.method)) throw new AppError('METHOD_NOT_ALLOWED');
      await this.#answer(match.name, await readJson(incoming), this.#handlers, outgoing);
    } catch (thrown) {
      const error =
        thrown instanceof z.ZodError ? new AppError('INVALID_REQUEST', { cause: thrown }) : toAppError(thrown);
      if (error.code === 'INTERNAL') log.error({ err: thrown }, 'a request of another node failed');
      if (outgoing.headersSent) outgoing.destroy();
      else reply(outgoing, 500, { code: error.code });
    }
  }

  async #answer(
    route: keyof typeof peerRoutes,
    body: unknown,
    handlers: PeerHandlers,
    outgoing: ServerResponse,
  ): Promise<void> {
    switch (route) {
      case 'notice':
        handlers.notice(noticeSchema.parse(body));
        return reply(outgoing, 200, {});
      case 'session': {
        const told = handlers.session(z.strictObject(sessionName).parse(body)) ?? null;
        return reply(outgoing, 200, { told });
      }
      case 'response':
        return reply(outgoing, 200, { isKnown: handlers.response(responseSchema.parse(body)) });
      case 'resume': {
        const closed = new AbortController();
        outgoing.once('close', () => closed.abort());
        return await relay(outgoing, await handlers.resume(resumeSchema.parse(body), closed.signal));
      }
      case 'exchange': {
        const closed = new AbortController();
        outgoing.once('close', () => {
          if (!outgoing.writableFinished) closed.abort();
        });
        const { body: text, ...asked } = exchangeSchema.parse(body);
        const relayed = { ...asked, body: Buffer.from(text, 'base64') };
        return await answerFor(outgoing, await handlers.exchange(relayed, closed.signal));
      }
      default:
        route satisfies never;
    }
  }
}

function reply(outgoing: ServerResponse, status: number, body: object): void {
  outgoing.writeHead(status, { 'content-type': 'application/json' });
  outgoing.end(JSON.stringify(body));
}

/** The answer as it comes; reads on only when the other node took what was written. */
async function relay(outgoing: ServerResponse, response: UpstreamResponse): Promise<void> {
  const gone = new AppError('CANCELLED', { internal: 'the other node went away' });
  if (outgoing.destroyed) return response.abort(gone);
  outgoing.once('close', () => response.abort(gone));
  outgoing.writeHead(200, {
    'content-type': response.header('content-type') ?? '',
    'sallyport-status': String(response.status),
  });
  outgoing.flushHeaders();
  for (let chunk = await response.next(); chunk !== undefined; chunk = await response.next()) {
    if (outgoing.destroyed) return;
    await written(outgoing, chunk);
  }
  outgoing.end();
}

/** Resolves when the other node took it, or is gone. */
async function written(outgoing: ServerResponse, chunk: Buffer): Promise<void> {
  if (outgoing.destroyed || outgoing.write(chunk)) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      outgoing.off('drain', done).off('close', done);
      resolve();
    };
    outgoing.once('drain', done).once('close', done);
  });
}

/** The answer to another node's client; its record ends as it does for a client of one's own. */
async function answerFor(
  outgoing: ServerResponse,
  response: Awaited<ReturnType<PeerHandlers['exchange']>>,
): Promise<void> {
  const { status, headers, body, follower } = response;
  let bytes = 0;
  try {
    if (outgoing.destroyed) {
      if (body !== null && !Buffer.isBuffer(body)) await body.cancel();
      return;
    }
    outgoing.writeHead(200, [...headers, 'sallyport-status', String(status)]);
    if (body === null || Buffer.isBuffer(body)) {
      bytes = body?.length ?? 0;
      outgoing.end(body ?? undefined);
    } else {
      outgoing.flushHeaders();
      let sourceDone: Promise<void> | undefined;
      outgoing.once('close', () => {
        if (!outgoing.writableFinished) sourceDone = body.cancel();
      });
      for (let chunk = await body.next(); chunk !== undefined; chunk = await body.next()) {
        bytes += chunk.length;
        await written(outgoing, chunk);
      }
      outgoing.end();
      await sourceDone;
    }
  } finally {
    follower?.ended(!outgoing.destroyed || outgoing.writableFinished, bytes, null);
  }
}

async function readJson(incoming: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let length = 0;
  const timer = setTimeout(() => incoming.destroy(), bodyTimeoutMs);
  try {
    for await (const chunk of incoming as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > bodyBytesMax) throw new AppError('BODY_TOO_LARGE');
      chunks.push(chunk);
    }
  } finally {
    clearTimeout(timer);
  }
  return parseLossless(Buffer.concat(chunks).toString('utf8'));
}
