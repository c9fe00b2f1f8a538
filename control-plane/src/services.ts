import type { Permission } from '@sallyport/schema';
import { type Clock, createEgress, type EgressAllowance, type Log } from '@sallyport/schema/platform';
import { GrantService } from './access/grant.service.ts';
import { RoleService } from './access/role.service.ts';
import { DefinitionService } from './catalog/definition.service.ts';
import { DiscoveryJob } from './catalog/discovery.job.ts';
import { DiscoveryService } from './catalog/discovery.service.ts';
import { HealthService } from './catalog/health.service.ts';
import { ServerService } from './catalog/server.service.ts';
import { systemContext } from './context.ts';
import type { Database } from './database/client.ts';
import { type Fleet, startFleet } from './fleet/fleet.ts';
import { ApiKeyService } from './identity/api-key.service.ts';
import { AuthenticateService } from './identity/authenticate.service.ts';
import { BootstrapService } from './identity/bootstrap.service.ts';
import { groupExists, GroupService } from './identity/group.service.ts';
import { principalLookup, PrincipalService } from './identity/principal.service.ts';

export interface ServicesOptions {
  readonly database: Database;
  readonly secretKey: string;
  readonly egressAllow: readonly EgressAllowance[];
  readonly build: string;
  readonly clock: Clock;
  readonly log: Log;
}

export type Services = Awaited<ReturnType<typeof startServices>>;

const discoveryPermissions: readonly Permission[] = ['server:read', 'server:write'];

/** Every service, made by hand in the order of what needs what. Starts the configuration push; `stop` ends it. */
export async function startServices(options: ServicesOptions) {
  const { database, clock, log } = options;
  const egress = createEgress({ allow: options.egressAllow });
  const health = new HealthService(database);
  const roles = new RoleService(database, principalLookup);
  const grants: GrantService = new GrantService(database, {
    principalKind: principalLookup.principalKind,
    groupExists,
    serverExists: (reader, id) => servers.exists(reader, id),
  });
  const servers: ServerService = new ServerService({
    database,
    egress,
    grants,
    health,
    onUndiscovered: () => discovery.kick(),
  });
  const definitions = new DefinitionService(database);
  const principals = new PrincipalService(database, roles, grants);
  const groups = new GroupService(database, grants);
  const apiKeys = new ApiKeyService(database, roles);
  const fleet: Fleet = await startFleet({
    database,
    secretKey: options.secretKey,
    clock,
    log,
    watermarksOf: () => Promise.resolve([]),
    spoolEpochsReported: () => Promise.resolve(),
    recordHealth: (nodeId, observations) => health.report(nodeId, observations),
  });
  const discovery: DiscoveryJob = new DiscoveryJob({
    database,
    egress,
    store: new DiscoveryService(database, health),
    systemContext: systemContext('discovery', discoveryPermissions, { clock, log }),
    askNode: (_serverId, url) => fleet.syncServer.discoverThroughNode(url),
    build: options.build,
  });
  return {
    health,
    roles,
    grants,
    servers,
    definitions,
    principals,
    groups,
    apiKeys,
    bootstrap: new BootstrapService(database, roles, principals, apiKeys),
    authenticate: new AuthenticateService({ database, roles, clock, log }),
    fleet,
    discovery,
    stop: async () => {
      await fleet.stop();
      await egress.close();
    },
  };
}
