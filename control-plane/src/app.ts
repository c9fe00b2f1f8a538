import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { apiRoutes, auditQueue, metricsQueue, oauthRoutes, payloadQueue } from '@sallyport/schema';
import {
  type Clock,
  clientAddress,
  createQueues,
  ensureQueueSchema,
  type Log,
  startOperationsServer,
  systemClock,
} from '@sallyport/schema/platform';
import { Registry } from 'prom-client';
import { handleExport } from './audit/export-endpoint.ts';
import { startTail } from './audit/tail.ts';
import type { ControlPlaneConfig } from './config.ts';
import { systemContext } from './context.ts';
import { awaitDatabase } from './database/await-database.ts';
import { type Database, openDatabase } from './database/client.ts';
import { migrate } from './database/migrate.ts';
import { createGraphqlEndpoint } from './graphql.ts';
import { buildApiSchema } from './graphql-schema.ts';
import { closeHttp, listen, listenUrl } from './http-server.ts';
import { startJobs } from './jobs.ts';
import { scimHandlers } from './identity/scim/scim-endpoint.ts';
import { ControlPlaneMetrics } from './metrics.ts';
import { createResolvers } from './resolvers.ts';
import { type Services, startServices } from './services.ts';
import { connectSignals, createSignals } from './signals.ts';

export interface ControlPlaneDependencies {
  readonly log: Log;
  readonly clock?: Clock;
}

export interface ControlPlane {
  /** Where GraphQL is served; undefined for a process that is only a worker. */
  readonly graphqlUrl: string | undefined;
  /** The WebSocket URL that nodes connect to; undefined for a process that is only a worker. */
  readonly syncUrl: string | undefined;
  readonly operationsUrl: string;
  /** A bootstrap token that was made by this start; also logged. */
  readonly bootstrapToken: string | undefined;
  /** Stops in reverse order of starting; lets requests end within the drain timeout. */
  stop(): Promise<void>;
}

/** What was started, so that it can be stopped in reverse. */
class Started {
  private readonly stops: (() => Promise<void>)[] = [];

  add(stop: () => Promise<void>): void {
    this.stops.push(stop);
  }

  /** Stops all, last first; one that fails does not keep the others running. */
  async stop(log: Log): Promise<void> {
    for (const stop of this.stops.splice(0).reverse()) {
      await stop().catch((error: unknown) => log.error({ err: error }, 'stopping failed'));
    }
  }
}

async function armBootstrap(services: Services, config: ControlPlaneConfig, clock: Clock, log: Log) {
  const ctx = systemContext('startup', [], { clock, log });
  const token = await services.bootstrap.arm(ctx, config.bootstrapToken);
  if (token !== undefined) log.warn(`There is no owner yet. Bootstrap token, once and for 24 hours: ${token}`);
  return token;
}

/** Starts the roles that the configuration names. Nothing is left running if a part of it fails to start. */
export async function startControlPlane(
  config: ControlPlaneConfig,
  dependencies: ControlPlaneDependencies,
): Promise<ControlPlane> {
  const started = new Started();
  try {
    return await start(config, dependencies, started);
  } catch (error) {
    await started.stop(dependencies.log);
    throw error;
  }
}

async function start(
  config: ControlPlaneConfig,
  dependencies: ControlPlaneDependencies,
  started: Started,
): Promise<ControlPlane> {
  const { log, clock = systemClock } = dependencies;
  const database = openDatabase({ url: config.databaseUrl, connectionsMax: config.databaseConnectionsMax });
  // Whoever waits for readiness calls the API next, so it must listen by then; and nothing new comes while it stops.
  let isUp = false;
  const registry = new Registry();
  const metrics = new ControlPlaneMetrics({ registry, clock, log });
  const operations = await startOperationsServer({
    ...config.operations,
    registry,
    ready: () => readiness(database, isUp),
  });
  started.add(() => operations.close());
  started.add(() => database.close());
  await awaitDatabase(database, { clock, log });
  const applied = await migrate(database.raw);
  if (applied.length > 0) log.info({ applied }, 'database migrated');
  const addressOf = addressReader(config, log);
  const services = await startServices({
    database,
    secretKey: config.secretKey,
    credentialKeys: config.credentialKeys,
    publicUrls: config.publicUrls,
    egressAllow: config.egressAllow,
    egressProxy: config.egressProxy,
    requestRates: config.requestRates,
    build: config.build,
    metrics,
    addressOf,
    clock,
    log,
  });
  started.add(() => services.stop());
  // Shown by a process that can take it.
  const bootstrapToken = config.roles.includes('api') ? await armBootstrap(services, config, clock, log) : undefined;
  // In every process: one that only works has no nodes connected, so it could not ask any to discover.
  services.discovery.start();
  started.add(() => services.discovery.stop());
  const parts: Parts = { database, services, metrics, addressOf, clock, log, started };
  const queues = config.roles.includes('worker') ? await startWorker(config, parts) : undefined;
  const api = config.roles.includes('api') ? await startApi(config, parts) : undefined;
  metrics.watch({
    fleet: () => services.fleet.nodes.counts(clock.now()),
    audit: () => services.checkpoints.state(),
    queues,
    syncConnections: () => services.fleet.syncServer.connections,
    graphqlSockets: () => api?.graphqlSockets() ?? 0,
  });
  isUp = true;
  started.add(() => Promise.resolve(void (isUp = false)));
  return {
    graphqlUrl: api?.graphqlUrl,
    syncUrl: api?.syncUrl,
    operationsUrl: operations.url,
    bootstrapToken,
    stop: () => started.stop(log),
  };
}

interface Parts {
  readonly database: Database;
  readonly services: Services;
  readonly metrics: ControlPlaneMetrics;
  readonly addressOf: (request: IncomingMessage) => string | null;
  readonly clock: Clock;
  readonly log: Log;
  readonly started: Started;
}

/** Reads who asks from a request, past the proxies that are trusted. */
function addressReader({ trustedProxies }: ControlPlaneConfig, log: Log): (request: IncomingMessage) => string | null {
  if (trustedProxies === undefined) {
    log.warn(
      'SALLYPORT_TRUSTED_PROXIES is not set: behind the proxy all callers look alike, so their failures are not limited',
    );
    return () => null;
  }
  return ({ socket, headers }) =>
    clientAddress(socket.remoteAddress, headers['x-forwarded-for']?.toString(), trustedProxies);
}

/** @returns how many jobs each queue holds */
async function startWorker(config: ControlPlaneConfig, parts: Parts) {
  const { database, services, metrics, clock, log, started } = parts;
  const { redisUrl, databaseUrl } = config;
  if (redisUrl === undefined) await ensureQueueSchema(databaseUrl);
  const queues = createQueues(redisUrl === undefined ? { databaseUrl } : { redisUrl }, { log });
  const jobs = startJobs({ database, services, queues, metrics, clock, log });
  started.add(() => jobs.stop());
  const gauges = [auditQueue, metricsQueue, payloadQueue].map((name) => ({ name, gauge: queues.gauge(name) }));
  started.add(async () => void (await Promise.all(gauges.map(({ gauge }) => gauge.close()))));
  return async () =>
    Object.fromEntries(await Promise.all(gauges.map(async ({ name, gauge }) => [name, await gauge.depth()] as const)));
}

async function startApi(config: ControlPlaneConfig, parts: Parts) {
  const { database, services, metrics, addressOf, clock, log, started } = parts;
  const signals = createSignals();
  started.add(await connectSignals(database, signals));
  const schema = buildApiSchema({ resolvers: createResolvers(services), signals });
  const { authentication } = services;
  const authenticate = (apiKey: string, from: string | null) => authentication.actorFor(apiKey, from);
  const graphql = await createGraphqlEndpoint({ schema, authentication, addressOf, metrics, clock, log });
  const { exports, events } = services;
  const tail = startTail({ events, signals, clock, log });
  started.add(() => tail.stop());
  const { syncServer } = services.fleet;
  const server: Server = await listen(config, {
    requests: {
      ...scimHandlers({
        ...scimParts(services),
        publicUrl: () => config.publicUrls?.issuer ?? url,
        addressOf,
        clock,
        log,
      }),
      ...oauthHandlers(services),
      graphql: (request, response) => graphql.handle(request, response),
      auditExport: (request, response) =>
        handleExport({ exports, authenticate, addressOf, clock, log }, request, response),
    },
    upgrades: {
      graphql: (request, socket, head) => graphql.handleUpgrade(request, socket, head),
      sync: (request, socket, head) => syncServer.handleUpgrade(request, socket, head),
    },
  });
  started.add(() => closeHttp(server, config.drainTimeoutMs));
  // Before the server is closed: an open subscription would hold it until the deadline.
  started.add(() => graphql.stop());
  const secure = config.tls !== undefined;
  const url = listenUrl(server, secure ? 'https' : 'http', config.listen.host);
  return {
    graphqlUrl: `${url}${apiRoutes.graphql.path}`,
    graphqlSockets: () => graphql.sockets,
    syncUrl: `${listenUrl(server, secure ? 'wss' : 'ws', config.listen.host)}${apiRoutes.sync.path}`,
  };
}

function scimParts({ scim: { users, groups }, scimAuthentication: authentication, limits }: Services) {
  return { users, groups, authentication, limits };
}

/** All of them are served by the authorization server, where there is one. */
function oauthHandlers({ authorizationServer }: Pick<Services, 'authorizationServer'>) {
  const handle = (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (authorizationServer !== undefined) return authorizationServer.handle(request, response);
    response.writeHead(404).end();
    return Promise.resolve();
  };
  const names = Object.keys(oauthRoutes) as (keyof typeof oauthRoutes)[];
  return Object.fromEntries(names.map((name) => [name, handle])) as Record<keyof typeof oauthRoutes, typeof handle>;
}

async function readiness(database: Database, isUp: boolean): Promise<{ ready: boolean; reasons: string[] }> {
  const reasons = isUp ? [] : ['it is starting or stopping'];
  try {
    await database.raw`select 1`;
  } catch {
    reasons.push('the database does not answer');
  }
  return { ready: reasons.length === 0, reasons };
}
