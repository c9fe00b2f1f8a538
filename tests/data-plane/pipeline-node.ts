import { BlockList } from 'node:net';
import {
  buildFromDocuments,
  Connections,
  DecisionCache,
  DetectorPool,
  decisionCacheBytesMax,
  ExchangeSlots,
  InputSchemas,
  LibraryPools,
  Listener,
  type ListenerLimits,
  loneNode,
  ObservedHealth,
  PayloadCapture,
  type PayloadCaptureOptions,
  SealerPool,
  type CredentialSource,
  type PeerLink,
  Pipeline,
  type PipelineOptions,
  RuntimeStore,
  UpstreamCredentials,
  UpstreamPools,
  WireListener,
} from '@sallyport/data-plane';
import {
  AppError,
  type AuditRecord,
  type ConfigDocument,
  defaultExtensions,
  defaultLimits,
  checkDefinition,
  definitionDigest,
  type DefinitionEntry,
  grantDefaults,
  type GrantEntry,
  type LimitsDocument,
  type OAuthDocument,
  type PayloadKeyDocument,
  type PayloadRecord,
  type PolicyEntry,
  principalShard,
  protocolRevisions,
  type ServerCredentialReference,
  sha256,
  type Sighting,
  type UpstreamAsks,
  type UpstreamTransport,
  type WebhookEntry,
} from '@sallyport/schema';
import {
  createEgress,
  createLog,
  discoverUpstream,
  type EgressOptions,
  FailedAttempts,
  parseEgressAllowList,
  systemClock,
  WebhookSender,
} from '@sallyport/schema/platform';
import { type HttpEngine, testConfig } from '../kit/config.ts';

import { describeTool } from '../kit/fake-upstream.ts';

export const testKey = 'sp_test_key_of_the_first_principal';
export const otherKey = 'sp_test_key_of_another_principal';
const sealingSecret = Buffer.alloc(32, 7).toString('base64');

export interface TestServer {
  readonly slug: string;
  readonly url: string;
  readonly protocolRevisions?: readonly string[];
  /** Approved definitions, by kind. */
  readonly tools?: readonly string[];
  readonly prompts?: readonly string[];
  readonly definitions?: readonly DefinitionEntry[];
  /** Of tools by name: arguments that travel in headers. */
  readonly paramHeaders?: Readonly<Record<string, DefinitionEntry['paramHeaders']>>;
  readonly auditMode?: 'buffered' | 'strict';
  /** Default: tasks and MCP Apps. */
  readonly extensions?: readonly string[];
  readonly transport?: UpstreamTransport;
  readonly configStalenessMaxMs?: number;
  readonly credential?: ServerCredentialReference;
  readonly labels?: Readonly<Record<string, string>>;
  /** Default: everything, as much as there may be. */
  readonly asks?: Partial<UpstreamAsks>;
}

export interface TestGrant extends Partial<Omit<GrantEntry, 'id'>> {
  readonly server: string;
}

export interface TestConfiguration {
  readonly servers: readonly TestServer[];
  readonly grants: readonly TestGrant[];
  readonly limits?: Partial<LimitsDocument>;
  readonly principals?: readonly {
    id: string;
    key: string;
    kind?: 'user' | 'serviceAccount';
    epoch?: number;
    status?: 'active' | 'disabled';
    revokedFamilies?: readonly string[];
  }[];
  readonly oauth?: OAuthDocument;
  readonly policies?: readonly PolicyEntry[];
  readonly webhooks?: readonly WebhookEntry[];
  readonly payloadKey?: PayloadKeyDocument;
  /** Default: plenty of memory and room. */
  readonly capture?: Partial<Pick<PayloadCaptureOptions, 'heldBytesMax' | 'spool' | 'seal'>>;
  /** Looks at long texts; default a thread. */
  readonly detectorPool?: PipelineOptions['detectorPool'];
  readonly sealing?: readonly { id: string; secret: string; use: 'open' | 'seal' }[];
  readonly revision?: number;
  readonly listener?: Partial<ListenerLimits>;
  readonly trustedProxies?: readonly string[];
  readonly listPollMs?: number;
  /** Default 1000. */
  readonly exchangesMax?: number;
  /** Default true; false where there would be too many. */
  readonly keepRecords?: boolean;
  /** Stands for the control plane; default: it has none. */
  readonly lend?: CredentialSource['lend'];
  /** Default: as the environment says. */
  readonly httpEngine?: HttpEngine;
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer };
  readonly egress?: Pick<EgressOptions, 'connectionsPerOriginMax' | 'resolve'>;
}

/** Most tests are about what comes of questions, not whether they may be asked. */
const allAsks: UpstreamAsks = {
  sampling: true,
  roots: true,
  elicitation: true,
  perExchangeMax: 64,
  samplingTokensMax: 1_000_000,
  bytesMax: 1_048_576,
  elicitationHosts: [],
};

/** By default in the words of the fake upstream. */
function approved(kind: DefinitionEntry['kind'], name: string, raw: unknown = describeTool(name)): DefinitionEntry {
  return { kind, name, approvedDigests: [definitionDigest(raw)], state: 'approved', labels: null };
}

/** Definitions approved as an upstream sends them. */
export function approvedAs(kind: DefinitionEntry['kind'], raws: readonly Record<string, unknown>[]): DefinitionEntry[] {
  return raws.map((raw) => {
    const checked = checkDefinition(kind, raw);
    if (!checked.ok) throw new Error(checked.problem);
    return approved(kind, checked.name, raw);
  });
}

function documentsOf(configuration: TestConfiguration): ConfigDocument[] {
  const documents: ConfigDocument[] = [
    { ...defaultLimits, ...configuration.limits },
    { kind: 'keys', sealing: [...(configuration.sealing ?? [{ id: 'k1', secret: sealingSecret, use: 'seal' }])] },
  ];
  if (configuration.policies !== undefined) documents.push({ kind: 'policies', policies: [...configuration.policies] });
  if (configuration.webhooks !== undefined) documents.push({ kind: 'webhooks', webhooks: [...configuration.webhooks] });
  documents.push(...[configuration.oauth, configuration.payloadKey].filter((one) => one !== undefined));
  for (const server of configuration.servers) {
    const id = `server-${server.slug}`;
    documents.push({
      kind: 'server',
      id,
      slug: server.slug,
      lifecycle: 'approved',
      url: server.url,
      protocolRevisions: [...(server.protocolRevisions ?? protocolRevisions)],
      transport: server.transport ?? 'streamableHttp',
      extensions: [...(server.extensions ?? defaultExtensions)],
      labels: { ...server.labels },
      definitions: [
        ...(server.tools ?? []).map((name) => approved('tool', name)),
        ...(server.prompts ?? []).map((name) => approved('prompt', name)),
        ...(server.definitions ?? []),
      ].map((definition) => {
        const paramHeaders = server.paramHeaders?.[definition.name];
        return paramHeaders === undefined ? definition : { ...definition, paramHeaders };
      }),
      auditMode: server.auditMode ?? 'buffered',
      configStalenessMaxMs: server.configStalenessMaxMs ?? null,
      ...(server.credential === undefined ? {} : { credential: server.credential }),
      asks: { ...allAsks, ...server.asks },
    });
    const grants = configuration.grants
      .filter((grant) => grant.server === server.slug)
      .map(
        ({ server: _server, ...grant }, index): GrantEntry => ({
          ...grantDefaults,
          subject: { kind: 'everyone' },
          effect: 'allow',
          ...grant,
          id: `grant-${server.slug}-${index}`,
        }),
      );
    documents.push({ kind: 'grants', serverId: id, grants });
  }
  const principals = configuration.principals ?? [
    { id: 'first', key: testKey },
    { id: 'another', key: otherKey },
  ];
  const shards = Map.groupBy(principals, ({ id }) => principalShard(id));
  for (const [shard, members] of shards) {
    documents.push({
      kind: 'principals',
      shard,
      principals: members.map(({ id, key, kind, epoch, status, revokedFamilies }) => ({
        id,
        kind: kind ?? 'serviceAccount',
        name: id,
        status: status ?? 'active',
        groups: [],
        epoch: epoch ?? 0,
        expiresAt: null,
        revokedFamilies: [...(revokedFamilies ?? [])],
        keys: [{ id: `key-of-${id}`, hash: sha256(key), scopes: ['mcp'], expiresAt: Date.UTC(2100, 0) }],
      })),
    });
  }
  return documents;
}

/** What an upstream defines, approved as it stands: the tools of these names, and all else. */
export async function approvedBy(url: string, tools: readonly string[]): Promise<DefinitionEntry[]> {
  const { allow } = parseEgressAllowList('127.0.0.0/8:1-65535');
  const egress = createEgress({ allow });
  const clientInfo = { name: 'test', version: '1' };
  const found = await discoverUpstream({ url, egress, timeoutMs: 10_000, clientInfo });
  await egress.close();
  const entries = new Map<string, DefinitionEntry>();
  for (const { kind, name, digest } of found.definitions) {
    if (kind === 'tool' && !tools.includes(name)) continue;
    const known = entries.get(`${kind} ${name}`)?.approvedDigests ?? [];
    entries.set(`${kind} ${name}`, {
      kind,
      name,
      approvedDigests: [...known, digest],
      state: 'approved',
      labels: null,
    });
  }
  return [...entries.values()];
}

const listenerLimits: ListenerLimits = {
  requestHeaderBytesMax: 32 * 1024,
  requestHeadersTimeoutMs: 10_000,
  requestBodyTimeoutMs: 5_000,
  requestBodiesBytesMax: 64 * 1024 * 1024,
  connectionsMax: 1000,
  connectionIdleTimeoutMs: 5_000,
};

function trustedProxiesOf(configuration: TestConfiguration): BlockList {
  const trusted = new BlockList();
  for (const cidr of configuration.trustedProxies ?? []) {
    const [address = '', prefix] = cidr.split('/');
    trusted.addSubnet(address, Number(prefix));
  }
  return trusted;
}

const silent = createLog({ name: 'node', level: 'silent' });

/** Stands for the spool. */
class ArrayAudit {
  readonly records: AuditRecord[] = [];
  fails = false;
  disk: Promise<void> = Promise.resolve();
  readonly #keep: boolean;

  constructor(keep: boolean) {
    this.#keep = keep;
  }

  append(record: AuditRecord): Promise<void> {
    if (this.#keep) this.records.push(record);
    return Promise.resolve();
  }

  async appendDurable(record: AuditRecord): Promise<void> {
    if (this.fails) throw new AppError('AUDIT_UNAVAILABLE');
    void this.append(record);
    await this.disk;
  }
}

function observing(store: RuntimeStore, { lend = noCredential }: TestConfiguration) {
  const doubted: string[] = [];
  const doubt = (serverId: string): void => void doubted.push(serverId);
  const sightings: (Sighting & { readonly serverId: string })[] = [];
  const saw = (serverId: string, seen: readonly Sighting[]): void =>
    void sightings.push(...seen.map((each) => ({ serverId, ...each })));
  const credentials = new UpstreamCredentials({ lend, now: () => store.now(), runtime: () => store.current });
  const health = new ObservedHealth({ now: () => store.now(), report: () => undefined, doubt });
  return { doubted, seen: sightings, health, credentials, sightings: { seen: saw } };
}

function inspecting({ detectorPool }: TestConfiguration) {
  const own = new DetectorPool({ threadsMax: 1 });
  const detected: string[] = [];
  const inspected = (_server: unknown, detector: string): void => void detected.push(detector);
  const metrics = { inspected, judged: () => undefined, asked: () => undefined };
  return { detected, metrics, pool: detectorPool ?? own, close: () => own.close() };
}

function capturing({ capture, keepRecords = true }: TestConfiguration) {
  const sealer = new SealerPool();
  const payloads: PayloadRecord[] = [];
  const append = (record: { readonly type: string }): Promise<void> => {
    if (keepRecords && record.type === 'payload') payloads.push(record as PayloadRecord);
    return Promise.resolve();
  };
  const captures = new PayloadCapture({
    nodeId: 'node-1',
    spool: { append, hasRoomFor: () => true },
    seal: (job) => sealer.seal(job),
    heldBytesMax: 64 * 1_048_576,
    metrics: { captured: () => undefined },
    log: silent,
    ...capture,
  });
  return { captures, payloads, closeSealer: () => sealer.close() };
}

function receiveSettings({ listener }: TestConfiguration) {
  return {
    access: { publicHosts: new Set(['127.0.0.1', 'localhost']), allowedOrigins: new Set(['https://app.example']) },
    requestBodyTimeoutMs: listener?.requestBodyTimeoutMs ?? 5_000,
  };
}

const noCredential: CredentialSource['lend'] = () =>
  Promise.resolve({ ok: false, problem: 'CREDENTIAL_MISSING', connectUrl: null });

/** The way out, on the network's rim of the test. */
function egressOf({ egress: options, httpEngine = testConfig.httpEngine }: TestConfiguration) {
  const { connectionsPerOriginMax = 1024 } = options ?? {};
  const { allow } = parseEgressAllowList('127.0.0.0/8:1-65535');
  const egress = createEgress({ allow, ...options, connectionsPerOriginMax });
  const isWire = httpEngine === 'wire';
  const pools = isWire ? new UpstreamPools({ egress, connectionsPerOriginMax, clock: systemClock }) : undefined;
  return {
    egress,
    connections: new Connections(pools ?? new LibraryPools(egress)),
    Listening: isWire ? WireListener : Listener,
    close: async (): Promise<void> => {
      pools?.close();
      await egress.close();
    },
  };
}

function senderOf({ egress }: Pick<ReturnType<typeof egressOf>, 'egress'>, store: RuntimeStore): WebhookSender {
  return new WebhookSender({ egress, now: () => store.now(), monotonic: () => systemClock.monotonic() });
}

function listenerFor(
  { Listening }: Pick<ReturnType<typeof egressOf>, 'Listening'>,
  pipeline: Pipeline,
  configuration: TestConfiguration,
): Listener | WireListener {
  return new Listening({
    host: '127.0.0.1',
    port: 0,
    tls: configuration.tls ?? null,
    limits: { ...listenerLimits, ...configuration.listener },
    trustedProxies: trustedProxiesOf(configuration),
    handle: (request) => pipeline.handle(request),
    refuse: (error, remoteAddress) => pipeline.refuse(error, remoteAddress),
    clock: systemClock,
    log: silent,
  });
}

/** A data-plane node without a control plane: the real listener, pipeline, store and egress; the spool is an array. */
export async function startPipelineNode(configuration: TestConfiguration, peers: PeerLink = loneNode('node-1')) {
  const clock = systemClock;
  const store = new RuntimeStore({ clock });
  const configure = (next: TestConfiguration): void =>
    store.swap(buildFromDocuments(documentsOf(next), { revision: next.revision ?? 1 }));
  store.contact(clock.now());
  configure(configuration);
  const edges = egressOf(configuration);
  const { doubted, seen, ...observed } = observing(store, configuration);
  const audit = new ArrayAudit(configuration.keepRecords ?? true);
  const inspected = inspecting(configuration);
  const { closeSealer, ...captured } = capturing(configuration);
  const pipeline = new Pipeline({
    runtimes: store,
    audit,
    metrics: { exchangeClosed: () => undefined, ...inspected.metrics },
    detectorPool: inspected.pool,
    captures: captured.captures,
    connections: edges.connections,
    webhookSender: senderOf(edges, store),
    inputSchemas: new InputSchemas(),
    peers,
    ...observed,
    decisions: new DecisionCache({ bytesMax: decisionCacheBytesMax }),
    slots: new ExchangeSlots({ exchangesMax: configuration.exchangesMax ?? 1000 }),
    receive: receiveSettings(configuration),
    failedAttempts: new FailedAttempts({ clock }),
    clock,
    log: silent,
    ...(configuration.listPollMs === undefined ? {} : { listPollMs: configuration.listPollMs }),
  });
  const listener = listenerFor(edges, pipeline, configuration);
  const port = await listener.listen();
  return {
    records: audit.records,
    /** What was captured, sealed. */
    ...captured,
    /** Detectors that looked, as metrics were told of them. */
    detected: inspected.detected,
    /** Servers whose protocol revisions the node asked to have discovered again. */
    doubted,
    /** What it withheld since nobody approved it, as often as it was seen. */
    sightings: seen,
    store,
    credentials: observed.credentials,
    /** As a full disk does where the audit is strict. */
    failAudit: (fails: boolean): void => {
      audit.fails = fails;
    },
    /** As a slow disk does where the audit is strict. @returns a function that lets it go on */
    holdDisk: (): (() => void) => {
      const held = Promise.withResolvers<void>();
      audit.disk = held.promise;
      return held.resolve;
    },
    configure,
    pipeline,
    listener,
    port,
    url: (slug: string) => `http://127.0.0.1:${port}/mcp/${slug}`,
    stop: async () => {
      pipeline.close();
      await Promise.all([inspected.close(), closeSealer()]);
      observed.health.close();
      observed.credentials.close();
      listener.close();
      await edges.close();
    },
  };
}

export type PipelineNode = Awaited<ReturnType<typeof startPipelineNode>>;
