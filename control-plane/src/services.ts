import type { Clock, Log } from '@sallyport/schema/platform';
import { GrantResolver } from './access/grant.resolver.ts';
import { GrantService } from './access/grant.service.ts';
import { RoleResolver } from './access/role.resolver.ts';
import { RoleService } from './access/role.service.ts';
import type { Database } from './database/client.ts';
import { ApiKeyResolver } from './identity/api-key.resolver.ts';
import { ApiKeyService } from './identity/api-key.service.ts';
import { AuthenticateService } from './identity/authenticate.service.ts';
import { BootstrapService } from './identity/bootstrap.service.ts';
import { GroupResolver } from './identity/group.resolver.ts';
import { groupExists, GroupService } from './identity/group.service.ts';
import { ServiceAccountResolver, UserResolver } from './identity/principal.resolver.ts';
import { principalLookup, PrincipalService } from './identity/principal.service.ts';

export interface ServicesOptions {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
}

export type Services = ReturnType<typeof createServices>;

/** Every service, made by hand in the order of what needs what, and the resolver objects over them. */
export function createServices(options: ServicesOptions) {
  const { database, clock, log } = options;
  const roles = new RoleService(database, principalLookup);
  const grants = new GrantService(database, {
    principalKind: principalLookup.principalKind,
    groupExists,
    serverExists: () => Promise.resolve(false),
  });
  const principals = new PrincipalService(database, roles, grants);
  const groups = new GroupService(database, grants);
  const apiKeys = new ApiKeyService(database, roles);
  const bootstrap = new BootstrapService(database, roles, principals, apiKeys);
  const authenticate = new AuthenticateService({ database, roles, clock, log });
  const resolvers = [
    new GrantResolver(grants),
    new RoleResolver(roles),
    new UserResolver({ principals, groups }),
    new ServiceAccountResolver({ principals, groups }),
    new GroupResolver(groups),
    new ApiKeyResolver({ apiKeys, principals, bootstrap }),
  ];
  return { roles, grants, principals, groups, apiKeys, bootstrap, authenticate, resolvers };
}
