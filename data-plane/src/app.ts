import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { auditQueue, discoveryDefinitionsBytesMax, metricsQueue, payloadEpoch, payloadQueue } from '@sallyport/schema';
import {
  type Clock,
  createEgress,
  discoverUpstream,
  type Egress,
  FailedAttempts,
  type Log,
  type OperationsServer,
  type Readiness,
  startOperationsServer,
  systemClock,
  WebhookSender,
} from '@sallyport/schema/platform';
import { Registry } from 'prom-client';
import type { NodeConfig } from './config.ts';
import { DetectorPool } from './inspection/detector-pool.ts';
import { SealerPool } from './inspection/sealer-pool.ts';
import { InputSchemas } from './inspection/input-schemas.ts';
import { ExchangeSlots } from './pipeline/admit.ts';
import { DecisionCache } from './pipeline/decisions.ts';
import { KnownPeers } from './peers/known-peers.ts';
import { createPeerIdentity, type PeerIdentity } from './peers/peer-certificate.ts';
import { PeerClient } from './peers/peer-client.ts';
import { PeerServer } from './peers/peer-server.ts';
import { Pipeline } from './pipeline/pipeline.ts';
import { RuntimeStore } from './runtime/runtime-store.ts';
import { SyncClient } from './runtime/sync-client.ts';
import { Listener, type ListenerOptions } from './server.ts';
import { AuditShipper, type BatchSigner } from './telemetry/audit-shipper.ts';
import { AuditSpool } from './telemetry/audit-spool.ts';
import { LoadMeter } from './telemetry/load-meter.ts';
import { PayloadCapture } from './telemetry/payload-capture.ts';
import { Metrics, registerNodeGauges } from './telemetry/metrics.ts';
import { QueueThread } from './telemetry/queue-thread.ts';
import { Connections } from './upstream/connections.ts';
import { UpstreamCredentials } from './upstream/credentials.ts';
import { DefinitionSightings } from './upstream/definition-sightings.ts';
import { LibraryPools } from './upstream/library-pools.ts';
import { ObservedHealth } from './upstream/observed-health.ts';
import { UpstreamPools } from './wire/upstream-pools.ts';
import { WireListener } from './wire/wire-listener.ts';

/** Written into records and shown with the node. */
const build = '0.1.0';
/** Below what the control plane waits for the answer. */
const discoveryTimeoutMs = 30_000;
/** Share of the drain time kept for bringing the audit spool home. */
const spoolDrainShare = 0.3;
/** Above a sealed payload of the size that a policy may ask for at most, in bytes. */
const payloadLineBytesMax = 4 * 1024 * 1024;

export interface NodeDependencies {
  readonly log: Log;
  readonly clock?: Clock;
}

export interface RunningNode {
  /** Where MCP endpoints are served: `<url>/mcp/<slug>`. */
  readonly url: string;
  readonly operationsUrl: string;
  readonly nodeId: string;
  readonly store: RuntimeStore;
  /** Whether it should get traffic, as `/readyz` says. */
  readiness(): Readiness;
  /** As `/metrics` shows it. */
  metrics(): Promise<string>;
  /** Drains and stops: see `stopNode`. */
  stop(): Promise<Stopped>;
}

export interface Stopped {
  /** Records of the spools, payloads included, that nobody has confirmed; they are sent after the next start. */
  readonly recordsUnconfirmed: number;
}

/** The audit trail and what is counted, once the node knows who it is. */
interface Telemetry {
  readonly spool: AuditSpool;
  readonly shipper: AuditShipper;
  readonly payloads: PayloadTelemetry;
  readonly metrics: Metrics;
}

interface PayloadTelemetry {
  readonly captures: PayloadCapture;
  readonly sealer: SealerPool;
  readonly spool: AuditSpool;
  readonly shipper: AuditShipper;
}

/**
 * Starts a node: last known good configuration, control plane, spool, listener. Resolves when it listens, which on the
 * very first start waits until the control plane let it join; `/readyz` says so meanwhile.
 */
export async function startNode(config: NodeConfig, dependencies: NodeDependencies): Promise<RunningNode> {
  const { log, clock = systemClock } = dependencies;
  const store = new RuntimeStore({ clock });
  const state: State = { listening: false, draining: false, telemetry: undefined };
  const registry = new Registry();
  if (config.worker !== null) registry.setDefaultLabels({ worker: String(config.worker) });
  const egress = createEgress({
    allow: config.egressAllow,
    proxy: config.egressProxy,
    connectionsPerOriginMax: config.upstreamConnectionsMax,
  });
  const wirePools =
    config.httpEngine === 'wire'
      ? new UpstreamPools({ egress, connectionsPerOriginMax: config.upstreamConnectionsMax, clock })
      : undefined;
  const queues = new QueueThread({ backend: config.queues, logLevel: config.logLevel }, log);
  const slots = new ExchangeSlots({ exchangesMax: config.exchangesMax });
  const load = new LoadMeter(clock);
  const peers = await startPeers(config, log);
  const credentials: UpstreamCredentials = new UpstreamCredentials({
    lend: (need) => sync.lend(need),
    now: () => store.now(),
    runtime: () => store.current,
  });
  const detectorPool = new DetectorPool({ threadsMax: config.inspectionThreads });
  const own = { config, log, clock, store, state, egress, wirePools, slots, load, peers };
  const base: Base = { ...own, credentials, detectorPool, queues };
  const sync: SyncClient = createSyncClient(base);
  const operations = await startOperationsServer({
    ...config.operations,
    registry,
    ready: () => readinessOf(state, store),
  });
  const openHere = (nodeId: string): Telemetry => openTelemetry({ ...base, nodeId, sync, registry });
  // The spool's epochs belong into the first hello, where the node knows its id from an earlier start.
  if (sync.signer !== undefined) state.telemetry = openHere(sync.signer.nodeId);
  sync.start();
  const nodeId = await sync.joined();
  const telemetry = (state.telemetry ??= openHere(nodeId));
  sync.onWatermark((epochs) => {
    telemetry.shipper.onWatermark(epochs);
    telemetry.payloads.shipper.onWatermark(epochs);
  });
  telemetry.shipper.start();
  telemetry.payloads.shipper.start();
  telemetry.metrics.start();
  const parts: Parts = { ...base, sync, operations, telemetry, ...createEdges({ ...base, sync, telemetry, nodeId }) };
  const port = await parts.listener.listen();
  state.listening = true;
  const host = config.listen.host.includes(':') ? `[${config.listen.host}]` : config.listen.host;
  let stopping: Promise<Stopped> | undefined;
  return {
    url: `${config.tls === undefined ? 'http' : 'https'}://${host}:${port}`,
    operationsUrl: operations.url,
    nodeId,
    store,
    readiness: () => readinessOf(state, store),
    metrics: () => registry.metrics(),
    stop: () => (stopping ??= stopNode(parts)),
  };
}

/** The way to and from the other nodes. */
interface PeerParts {
  readonly identity: PeerIdentity;
  readonly known: KnownPeers;
  readonly server: PeerServer;
  readonly url: string;
}

async function startPeers({ peer, name }: NodeConfig, log: Log): Promise<PeerParts> {
  const identity = createPeerIdentity(name);
  const known = new KnownPeers(log);
  const server = new PeerServer({ identity, peers: known, log });
  const port = await server.listen(peer.host, peer.port);
  const host = peer.host.includes(':') ? `[${peer.host}]` : peer.host;
  return { identity, known, server, url: peer.url ?? `https://${host}:${port}` };
}

interface State {
  listening: boolean;
  draining: boolean;
  telemetry: Telemetry | undefined;
}

interface Base {
  readonly config: NodeConfig;
  readonly log: Log;
  readonly clock: Clock;
  readonly store: RuntimeStore;
  readonly state: State;
  readonly egress: Egress;
  /** Undefined where undici keeps the connections to upstreams. */
  readonly wirePools: UpstreamPools | undefined;
  readonly slots: ExchangeSlots;
  readonly load: LoadMeter;
  readonly peers: PeerParts;
  readonly credentials: UpstreamCredentials;
  readonly detectorPool: DetectorPool;
  readonly queues: QueueThread;
}

function readinessOf(state: State, store: RuntimeStore): Readiness {
  const reasons = [
    ...(state.draining ? ['draining'] : []),
    ...(store.current === undefined ? ['no configuration yet'] : []),
    ...(state.listening ? [] : ['not listening yet']),
  ];
  return { ready: reasons.length === 0, reasons };
}

function createSyncClient({
  config,
  log,
  clock,
  store,
  state,
  egress,
  slots,
  load,
  peers,
  credentials,
}: Base): SyncClient {
  const clientInfo = { name: 'sallyport', version: build };
  return new SyncClient({
    url: config.syncUrl,
    joinToken: config.joinToken,
    dataDirectory: config.dataDirectory,
    nodeSecret: config.nodeSecret,
    name: config.name,
    build,
    labels: config.labels,
    peerUrl: peers.url,
    peerCertificate: peers.identity.certificate,
    onPeers: (named) => peers.known.replace(named),
    store,
    clock,
    log,
    spoolEpochs: () => [
      ...(state.telemetry?.shipper.epochs ?? []),
      ...(state.telemetry?.payloads.shipper.epochs ?? []),
    ],
    load: () => load.read(slots.total, state.telemetry),
    onReturned: () => credentials.forgetUsers(),
    onForget: (serverId, principalId) => credentials.forget(serverId, principalId),
    discover: (url, credentialHeaders) =>
      discoverUpstream({
        url,
        credentialHeaders,
        egress,
        timeoutMs: discoveryTimeoutMs,
        clientInfo,
        definitionsBytesMax: discoveryDefinitionsBytesMax,
      }),
  });
}

/** The pipeline between its two edges. */
function createEdges(
  options: Base & { readonly sync: SyncClient; readonly telemetry: Telemetry; readonly nodeId: string },
) {
  const { config, log, clock, store, egress, wirePools, slots, load, sync, telemetry, nodeId, credentials } = options;
  const { detectorPool } = options;
  const { identity, known, server } = options.peers;
  const peerClient = new PeerClient(nodeId, { identity, peers: known, log });
  const health = new ObservedHealth({
    now: () => store.now(),
    report: (observations) => sync.reportHealth(observations),
    doubt: (serverId) => sync.doubt(serverId),
  });
  const sightings = new DefinitionSightings({
    now: () => clock.monotonic(),
    send: (serverId, definitions) => sync.reportSightings(serverId, definitions),
  });
  const decisions = new DecisionCache({ bytesMax: config.decisionCacheBytesMax });
  store.onSwap((runtime) => decisions.keepOnly(runtime.serverById.values()));
  const pipeline = new Pipeline({
    runtimes: store,
    audit: telemetry.spool,
    metrics: telemetry.metrics,
    detectorPool,
    captures: telemetry.payloads.captures,
    webhookSender: new WebhookSender({ egress, now: () => store.now(), monotonic: () => clock.monotonic() }),
    inputSchemas: new InputSchemas(),
    connections: new Connections(wirePools ?? new LibraryPools(egress)),
    credentials,
    peers: peerClient,
    health,
    sightings,
    decisions,
    slots,
    receive: { access: config.access, requestBodyTimeoutMs: config.listener.requestBodyTimeoutMs },
    failedAttempts: new FailedAttempts({ clock }),
    clock,
    log,
  });
  const listener = createListener(config.httpEngine, {
    ...config.listen,
    tls:
      config.tls === undefined
        ? null
        : { cert: readFileSync(config.tls.certFile), key: readFileSync(config.tls.keyFile) },
    limits: config.listener,
    trustedProxies: config.trustedProxies,
    handle: (request) => {
      load.requests++;
      return pipeline.handle(request);
    },
    refuse: (error, remoteAddress) => pipeline.refuse(error, remoteAddress),
    clock,
    log,
  });
  server.serve(pipeline.peerHandlers);
  return { health, sightings, pipeline, listener, peerClient };
}

function createListener(engine: NodeConfig['httpEngine'], options: ListenerOptions): Listener | WireListener {
  return engine === 'wire' ? new WireListener(options) : new Listener(options);
}

interface Parts extends Base {
  readonly sync: SyncClient;
  readonly operations: OperationsServer;
  readonly telemetry: Telemetry;
  readonly health: ObservedHealth;
  readonly sightings: DefinitionSightings;
  readonly pipeline: Pipeline;
  readonly listener: Listener | WireListener;
  readonly peerClient: PeerClient;
}

/**
 * Stops without losing anything: not ready, no new connections, subscriptions ended the way their servers would, calls
 * under way until the deadline, then the spool until the control plane has it or the time is up.
 */
async function stopNode(parts: Parts): Promise<Stopped> {
  const { config, log, pipeline, listener, telemetry, state } = parts;
  state.draining = true;
  const spoolTimeoutMs = config.drainTimeoutMs * spoolDrainShare;
  listener.stopAccepting();
  pipeline.streams.endSubscriptions();
  if (!(await listener.idle(config.drainTimeoutMs - spoolTimeoutMs))) {
    log.warn({ exchanges: listener.open }, 'the drain time is up: exchanges under way are ended');
    pipeline.streams.endAll();
    await listener.idle(1_000);
  }
  listener.close();
  pipeline.close();
  await telemetry.payloads.captures.settled(spoolTimeoutMs);
  await Promise.all([telemetry.payloads.sealer.close(), parts.detectorPool.close()]);
  parts.peerClient.close();
  parts.peers.server.close();
  parts.health.close();
  parts.sightings.close();
  await telemetry.metrics.close(spoolTimeoutMs);
  await telemetry.spool.close();
  await telemetry.payloads.spool.close();
  const [{ recordsUnconfirmed }, payloads] = await Promise.all([
    telemetry.shipper.drain(spoolTimeoutMs),
    telemetry.payloads.shipper.drain(spoolTimeoutMs),
  ]);
  await parts.queues.close();
  log.info({ recordsUnconfirmed, payloadsUnconfirmed: payloads.recordsUnconfirmed }, 'the node stops');
  await parts.sync.stop();
  parts.credentials.close();
  parts.wirePools?.close();
  await parts.egress.close();
  await parts.operations.close();
  parts.load.close();
  return { recordsUnconfirmed: recordsUnconfirmed + payloads.recordsUnconfirmed };
}

interface TelemetryParts extends Pick<Base, 'config' | 'store' | 'slots' | 'queues' | 'clock' | 'log'> {
  readonly nodeId: string;
  readonly sync: SyncClient;
  readonly registry: Registry;
}

function openTelemetry(parts: TelemetryParts): Telemetry {
  const { config, store, slots, nodeId, sync, queues, registry, clock, log } = parts;
  const now = (): number => store.now();
  const spool = AuditSpool.open({
    directory: join(config.dataDirectory, 'spool'),
    nodeId,
    build,
    auditSpoolBytesMax: config.auditSpoolBytesMax,
    clock,
    now,
    log,
    onAlarm: (code, message) => sync.alarm(code, message),
  });
  const signer = (): BatchSigner => {
    if (sync.signer === undefined) throw new Error('a node that has a spool has joined');
    return sync.signer;
  };
  const shipper = new AuditShipper({ spool, queue: queues.producer(auditQueue), signer, clock, log });
  const metrics = new Metrics({
    epoch: spool.epoch,
    signer: {
      // The key is renewed while the node runs; joining anew, as after a restore, gives it another id as well.
      get nodeId() {
        return signer().nodeId;
      },
      get publicKey() {
        return signer().publicKey;
      },
      sign: (text) => signer().sign(text),
    },
    queue: queues.producer(metricsQueue),
    registry,
    clock,
    now,
    log,
  });
  const payloads = openPayloads(parts, { epoch: spool.epoch, signer, metrics });
  registerNodeGauges(registry, () => ({
    spoolBytes: spool.bytes,
    shedCount: spool.shedCount,
    recordsUnconfirmed: shipper.recordsUnconfirmed,
    exchangesOpen: slots.total,
    configRevision: store.current?.revision ?? 0,
    contactAgeMs: store.contactAgeMs(),
    payloadSpoolBytes: payloads.spool.bytes,
    payloadsShedCount: payloads.spool.shedCount,
    payloadsUnconfirmed: payloads.shipper.recordsUnconfirmed,
    payloadBytesHeld: payloads.captures.heldBytes,
  }));
  return { spool, shipper, payloads, metrics };
}

/** Payloads have a spool of their own: no amount of them takes room from the audit trail. */
function openPayloads(
  parts: TelemetryParts,
  { epoch, signer, metrics }: { epoch: string; signer: () => BatchSigner; metrics: Metrics },
): PayloadTelemetry {
  const { config, store, nodeId, sync, queues, clock, log } = parts;
  const sealer = new SealerPool();
  const spool = AuditSpool.open({
    content: 'PAYLOAD',
    epoch: payloadEpoch(epoch),
    lineBytesMax: payloadLineBytesMax,
    directory: join(config.dataDirectory, 'payloads'),
    nodeId,
    build,
    auditSpoolBytesMax: config.payloadSpoolBytesMax,
    clock,
    now: () => store.now(),
    log,
    onAlarm: (code, message) => sync.alarm(code, message),
  });
  const queue = queues.producer(payloadQueue);
  const shipper = new AuditShipper({ spool, queue, content: 'payloadBatch', signer, clock, log });
  const captures = new PayloadCapture({
    nodeId,
    spool,
    seal: (job) => sealer.seal(job),
    heldBytesMax: config.payloadMemoryBytesMax,
    metrics,
    log,
  });
  return { captures, sealer, spool, shipper };
}
