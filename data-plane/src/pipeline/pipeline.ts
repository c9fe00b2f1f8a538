import { AppError, toAppError } from '@sallyport/schema';
import type { Clock, FailedAttempts, Log } from '@sallyport/schema/platform';
import { corsHeaders, isAllowedOrigin, isPublicHost, preflightHeaders } from '../mcp/origin.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Connections } from '../upstream/connections.ts';
import { CredentialedConnections } from '../upstream/credentialed-connections.ts';
import type { UpstreamCredentials } from '../upstream/credentials.ts';
import type { DefinitionSightings } from '../upstream/definition-sightings.ts';
import type { ObservedHealth } from '../upstream/observed-health.ts';
import { Upstreams } from '../upstream/upstreams.ts';
import { AccessTokens } from './access-token.ts';
import { admit, type ExchangeSlots } from './admit.ts';
import { answerBatch, checkBatchRevision } from './answer-batch.ts';
import { authenticate } from './authenticate.ts';
import { authorize, reauthorize } from './authorize.ts';
import { captureOf } from './capture-exchange.ts';
import type { PayloadCapture } from '../telemetry/payload-capture.ts';
import type { Bridges } from './bridge.ts';
import { presentsApiKey } from './credential.ts';
import type { DecisionCache, DecisionContext } from './decisions.ts';
import type { Authenticated, Authorized, ProxyRequest, ProxyResponse, RuntimeSource } from './exchange.ts';
import { createBridges } from './create-bridges.ts';
import { contradictsEra, failureContradictsEra } from './era-doubt.ts';
import { forward } from './forward.ts';
import { HttpSseClients, opensHttpSse, postedWith } from './http-sse-clients.ts';
import { inspectRequest, type InspectRequestContext } from './inspect-request.ts';
import { inspectResponse } from './inspect-response.ts';
import { Inspector, type InspectorOptions } from './inspector.ts';
import { WebhookChain, type WebhookChainOptions } from './webhook-chain.ts';
import { OpenStreams } from './open-streams.ts';
import type { PeerHandlers, PeerLink } from './peer-link.ts';
import { holderOf, relayedRequest, relayExchange } from './relay-exchange.ts';
import { receive, type ReceiveSettings } from './receive.ts';
import { openRecord, type RecordContext } from './record.ts';
import type { Reviewed } from './review-message.ts';
import { resourceMetadata } from './resource-metadata.ts';
import { route } from './route.ts';

export interface PipelineOptions {
  readonly runtimes: RuntimeSource;
  readonly audit: RecordContext['audit'];
  readonly metrics: RecordContext['metrics'] & InspectorOptions['metrics'] & WebhookChainOptions['metrics'];
  readonly detectorPool: InspectorOptions['pool'];
  readonly webhookSender: WebhookChainOptions['sender'];
  readonly captures: Pick<PayloadCapture, 'begin'>;
  readonly inputSchemas: { readonly fits: WebhookChainOptions['fits'] };
  readonly connections: Connections;
  readonly credentials: UpstreamCredentials;
  readonly peers: PeerLink;
  readonly health: ObservedHealth;
  readonly sightings: Pick<DefinitionSightings, 'seen'>;
  readonly decisions: DecisionCache;
  readonly slots: ExchangeSlots;
  readonly receive: Omit<ReceiveSettings, 'tokens' | 'now'>;
  readonly failedAttempts: FailedAttempts;
  readonly clock: Clock;
  readonly log: Log;
  /** Between two readings of lists whose server tells of no changes, in milliseconds; a default where absent. */
  readonly listPollMs?: number;
}

const tooManyFailures = 'Too many API keys from your network were not valid; try again shortly with one that is.';

/** What a request passes on its way through the node, in the order that the types enforce. */
export class Pipeline {
  readonly streams: OpenStreams;
  /** What this node does when another asks. */
  readonly peerHandlers: PeerHandlers;
  readonly #bridges: Bridges;
  readonly #connections: CredentialedConnections;
  readonly #upstreams: Upstreams;
  readonly #httpSse: HttpSseClients;
  readonly #options: PipelineOptions;
  readonly #authorizing: DecisionContext;
  readonly #inspecting: InspectRequestContext & { readonly inspector: Inspector };
  readonly #now: () => number;
  readonly #tokens = new AccessTokens();
  readonly #receiving: ReceiveSettings;
  readonly #recording: RecordContext;

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.#receiving = { ...options.receive, tokens: this.#tokens, now: () => options.runtimes.now() };
    this.#authorizing = { decisions: options.decisions, runtimes: options.runtimes };
    const monotonic = (): number => options.clock.monotonic();
    const webhooks = new WebhookChain({
      nodeId: options.peers.nodeId,
      sender: options.webhookSender,
      fits: (schemas, values) => options.inputSchemas.fits(schemas, values),
      metrics: options.metrics,
      now: () => options.runtimes.now(),
      monotonic,
    });
    const inspector = new Inspector({ ...options, pool: options.detectorPool, webhooks, monotonic });
    this.#inspecting = { inspector, reauthorize: this.#reauthorize };
    this.#now = () => options.runtimes.now();
    const { audit, metrics, log } = options;
    this.#recording = { audit, metrics, clock: options.clock, log, now: this.#now };
    this.streams = new OpenStreams({ runtimes: options.runtimes, reauthorize: this.#reauthorize });
    const { peers, runtimes, clock } = options;
    const { nodeId } = peers;
    this.#connections = new CredentialedConnections(options.connections, options.credentials);
    const connections = this.#connections;
    this.#upstreams = new Upstreams({ connections, nodeId, limits: () => runtimes.current?.limits, clock });
    const handle = (request: ProxyRequest): Promise<ProxyResponse> => this.handle(request);
    this.#httpSse = new HttpSseClients({ nodeId, streams: this.streams, handle });
    const { bridges, peerHandlers } = createBridges({
      ...options,
      connections: this.#upstreams,
      reauthorize: this.#reauthorize,
      now: this.#now,
      sighted: (serverId, withheld) => options.sightings.seen(serverId, withheld),
    });
    this.#bridges = bridges;
    this.peerHandlers = {
      ...peerHandlers,
      exchange: (relayed, signal) => this.handle(relayedRequest(relayed, signal)),
    };
  }

  /** Ends what is open toward clients and upstreams. */
  close(): void {
    this.streams.endAll();
    this.streams.close();
    this.#bridges.forLegacyClients.close();
    this.#bridges.forModernClients.close();
    this.#upstreams.close();
    this.#connections.close();
  }

  readonly #reauthorize = (authorized: Authorized, runtime: Runtime): Authorized => {
    const { exchange } = authorized.routed.received;
    // A refusal must not be recorded with what an older configuration decided.
    exchange.runtime = runtime;
    exchange.decision = null;
    return reauthorize(authorized, runtime, this.#authorizing);
  };

  readonly #recheck = (authorized: Authorized): Authorized => {
    const running = this.#options.runtimes.current;
    return running === undefined || running === authorized.routed.runtime
      ? authorized
      : this.#reauthorize(authorized, running);
  };

  /** What an upstream says of its definitions is news for the control plane. */
  readonly #observe = ({ routed }: Authorized, { withheld, listsChanged }: Reviewed): void => {
    const { sightings, health } = this.#options;
    const { id } = routed.server.document;
    if (withheld.length > 0) sightings.seen(id, withheld);
    if (listsChanged) health.doubted(id);
  };

  /** Answers a request. Never rejects. */
  async handle(request: ProxyRequest): Promise<ProxyResponse> {
    const { runtimes, peers, health, clock } = this.#options;
    const unrecorded = this.#preflight(request) ?? this.#metadata(request);
    if (unrecorded !== undefined) return unrecorded;
    const entry = openRecord(request, this.#recording);
    const { exchange } = entry;
    try {
      const runtime = runtimes.current;
      if (runtime === undefined) throw new AppError('NOT_READY');
      exchange.runtime = runtime;
      const receiving = receive(exchange, runtime.limits, this.#receiving);
      const received = receiving instanceof Promise ? await receiving : receiving;
      const nowMs = runtimes.now();
      const authenticated = authenticate(received, runtime, this.#tokens, nowMs);
      const token = postedWith(request);
      if (token !== undefined)
        return this.#readableFor(request, await this.#postToStream(token, authenticated, runtime));
      const routed = route(authenticated, runtime, this.#authorizing);
      const holder = holderOf(routed);
      if (holder !== undefined && holder !== peers.nodeId) {
        return this.#readableFor(request, await relayExchange(holder, received, peers));
      }
      if (received.batch !== null) {
        checkBatchRevision(routed);
        // Each message is an exchange of its own; of the batch itself nothing is left to record.
        const answer = await answerBatch(received.batch, request, (member) => this.handle(member));
        return this.#readableFor(request, answer);
      }
      const authorized = authorize(routed, this.#authorizing);
      const admitted = admit(authorized, this.#options.slots);
      entry.onEnd(admitted.release);
      if (opensHttpSse(received)) {
        await entry.writeOpened();
        entry.opened();
        return this.#readableFor(request, await entry.follow(this.#httpSse.open(authorized)));
      }
      exchange.capture = captureOf(authorized, this.#options.captures);
      const inspection = inspectRequest(admitted, this.#inspecting);
      const inspected = inspection instanceof Promise ? await inspection : inspection;
      exchange.capture?.goesOn(inspected.body);
      const forwarded = await forward(inspected, {
        connections: this.#upstreams,
        credentials: this.#options.credentials,
        bridges: this.#bridges,
        health,
        runtimes,
        clock,
        reauthorize: this.#reauthorize,
        record: entry,
      });
      const inspecting = inspectResponse(forwarded, {
        streams: this.streams,
        recheck: this.#recheck,
        now: this.#now,
        observe: this.#observe,
        inspector: this.#inspecting.inspector,
        upstream: { connections: this.#upstreams, log: this.#options.log },
      });
      const answer = inspecting instanceof Promise ? await inspecting : inspecting;
      if (contradictsEra(exchange, forwarded.response.status)) health.doubted(routed.server.document.id);
      const followed = entry.follow(answer);
      return this.#readableFor(request, followed instanceof Promise ? await followed : followed);
    } catch (error) {
      const failure = this.#limited(request, toAppError(error));
      if (exchange.server !== null && failureContradictsEra(exchange, failure)) {
        health.doubted(exchange.server.document.id);
      }
      return this.#readableFor(request, await entry.fail(failure));
    }
  }

  /** What is public of a protected resource; for a name that this node has. */
  #metadata(request: ProxyRequest): ProxyResponse | undefined {
    const { runtimes, receive: settings } = this.#options;
    if (!isPublicHost(settings.access, request.headers)) return undefined;
    return resourceMetadata(request, runtimes.current);
  }

  /**
   * Where too many API keys from one network did not open lately, a further one is told to wait. One that opens is never
   * refused for the failures of others: a network is shared, and what decides here is in memory. Neither is an access
   * token that has expired, whose client must learn so from the 401.
   */
  #limited(request: ProxyRequest, failure: AppError): AppError {
    const { failedAttempts } = this.#options;
    if (failure.code !== 'UNAUTHENTICATED' || !presentsApiKey(request.headers)) return failure;
    const isOver = failedAttempts.isOver(request.remoteAddress);
    failedAttempts.failed(request.remoteAddress);
    return isOver ? new AppError('RATE_LIMITED', { publicMessage: tooManyFailures, cause: failure }) : failure;
  }

  /** The answer to bytes that the listener could not read as a request, which are recorded like one. Never rejects. */
  async refuse(error: AppError, remoteAddress: string | null): Promise<ProxyResponse> {
    const nothing = { method: '', path: '', query: '', headers: new Map<string, string>(), repeatedHeaders: [] };
    const { signal } = new AbortController();
    const request = { ...nothing, remoteAddress, signal, readBody: () => Promise.reject(error) };
    const entry = openRecord(request, this.#recording);
    entry.exchange.runtime = this.#options.runtimes.current ?? null;
    const response = await entry.fail(error);
    response.follower?.ended(true, 0, null);
    return response;
  }

  /** A message of an HTTP+SSE client goes to the node that holds its stream. */
  async #postToStream(token: string, authenticated: Authenticated, runtime: Runtime): Promise<ProxyResponse> {
    const { peers } = this.#options;
    // Whoever may not know of the server must not learn of it from what is said of a stream.
    const { server } = route(authenticated, runtime, this.#authorizing);
    const { nodeId, streamId } = this.#httpSse.placeOf(token, authenticated, server, runtime);
    const { received } = authenticated;
    if (nodeId !== peers.nodeId) return await relayExchange(nodeId, received, peers);
    return await this.#httpSse.post(streamId, received);
  }

  /** A browser's question whether it may ask; only of an origin that may. Anything else goes through the stages. */
  #preflight(request: ProxyRequest): ProxyResponse | undefined {
    const origin = request.headers.get('origin');
    if (request.method !== 'OPTIONS' || origin === undefined) return undefined;
    if (!request.headers.has('access-control-request-method')) return undefined;
    if (request.repeatedHeaders.includes('origin') || !isAllowedOrigin(this.#options.receive.access, origin)) {
      return undefined;
    }
    const headers = preflightHeaders(origin, request.headers.get('access-control-request-headers'));
    return { status: 204, headers, body: null, follower: null };
  }

  #readableFor(request: ProxyRequest, response: ProxyResponse): ProxyResponse {
    const origin = request.headers.get('origin');
    if (origin === undefined || !isAllowedOrigin(this.#options.receive.access, origin)) return response;
    return { ...response, headers: [...response.headers, ...corsHeaders(origin)] };
  }
}
