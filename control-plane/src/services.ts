import type { IncomingMessage } from 'node:http';
import type { Permission } from '@sallyport/schema';
import {
  type Clock,
  createEgress,
  type Egress,
  type EgressAllowance,
  type EgressProxy,
  FailedAttempts,
  type Log,
  WebhookSender,
} from '@sallyport/schema/platform';
import { GrantService } from './access/grant.service.ts';
import { captureServices } from './capture/capture-services.ts';
import { CustomRoleService } from './access/custom-role.service.ts';
import { type OwnerLookup, OwnerService } from './access/owner.service.ts';
import { RoleProposalService } from './access/role-proposal.service.ts';
import { RoleService } from './access/role.service.ts';
import { auditDeliveryOf } from './audit-delivery.ts';
import { CheckpointService } from './audit/checkpoint.service.ts';
import { EpochService } from './audit/epoch.service.ts';
import { EventQueryService } from './audit/event-query.service.ts';
import { ExportService } from './audit/export.service.ts';
import type { NodeKeys } from './audit/accept-batch.ts';
import type { AuditAlarm, RaiseAlarm } from './audit/ingest.service.ts';
import { TrafficQueryService } from './audit/traffic-query.service.ts';
import { DefinitionService } from './catalog/definition.service.ts';
import { DiscoveryJob, type DiscoveryJobDependencies } from './catalog/discovery.job.ts';
import { serverExists, serverOfSlug } from './catalog/server-lookup.service.ts';
import { DiscoveryService } from './catalog/discovery.service.ts';
import { HealthService } from './catalog/health.service.ts';
import { ServerAsksService } from './catalog/server-asks.service.ts';
import { ServerService, type ServerServiceDependencies } from './catalog/server.service.ts';
import { type Context, systemContext } from './context.ts';
import { AuthorizationServers } from './credentials/authorization-servers.ts';
import { type ConnectionRow, ConnectionService } from './credentials/connection.service.ts';
import { CredentialVault } from './credentials/credential-vault.ts';
import { createKeyProvider, type KeySettings } from './credentials/create-key-provider.ts';
import { Exchanges } from './credentials/exchange.service.ts';
import { CredentialFailures } from './credentials/failure.service.ts';
import { IdentityTokens } from './credentials/identity-token.service.ts';
import { LoginTokens } from './credentials/login-tokens.service.ts';
import { LendingService, needOf } from './credentials/lending.service.ts';
import { onForgotten } from './credentials/forgotten.service.ts';
import { RefreshService } from './credentials/refresh.service.ts';
import { RevocationService } from './credentials/revocation.service.ts';
import { RewrapService } from './credentials/rewrap.service.ts';
import { ServerCredentialService } from './credentials/server-credential.service.ts';
import { TokenLending } from './credentials/token-lending.service.ts';
import { UpstreamClients } from './credentials/upstream-client.service.ts';
import { UpstreamKeys } from './credentials/upstream-keys.service.ts';
import type { Database, Reader, Transaction } from './database/client.ts';
import { isUuid } from './database/mutation.ts';
import type { PublicUrls } from './fleet/compile-snapshot.ts';
import { type Fleet, type FleetOptions, startFleet } from './fleet/fleet.ts';
import { FleetVault } from './fleet/fleet-keys.ts';
import { ApiKeyService } from './identity/api-key.service.ts';
import { AuthenticateService } from './identity/authenticate.service.ts';
import { BootstrapService } from './identity/bootstrap.service.ts';
import { GuardedAuthentication } from './identity/guarded-authentication.ts';
import { groupExists, GroupService } from './identity/group.service.ts';
import { KeyUses } from './identity/key-uses.service.ts';
import { principalLookup, PrincipalService, unusablePrincipals } from './identity/principal.service.ts';
import { BackChannelLogoutService, endLogins } from './identity/idp/back-channel-logout.service.ts';
import { FederatedLoginService } from './identity/idp/federated-login.service.ts';
import { IdentityProviderService } from './identity/idp/identity-provider.service.ts';
import { OidcConnections } from './identity/idp/oidc-connection.ts';
import { ProvidedGroupService } from './identity/idp/provided-groups.service.ts';
import { ScimDirectoryService } from './identity/scim/directory.service.ts';
import { ScimGroupService } from './identity/scim/scim-group.service.ts';
import { ScimUserService } from './identity/scim/scim-user.service.ts';
import { type OpenedDirectory, ScimTokenService } from './identity/scim/token.service.ts';
import { DefinitionHookService } from './inspection/definition-hooks.service.ts';
import { PolicyService } from './inspection/policy.service.ts';
import { PolicyTrialService } from './inspection/policy-trial.service.ts';
import { WebhookService } from './inspection/webhook.service.ts';
import { WebhookTrialService } from './inspection/webhook-trial.service.ts';
import type { ControlPlaneMetrics } from './metrics.ts';
import { AuthorizationServer } from './oauth/authorization-server.ts';
import { ClientService } from './oauth/client.service.ts';
import { ConsentService } from './oauth/consent.service.ts';
import { LoginCodeService } from './oauth/login-code.service.ts';
import { ObjectStore } from './oauth/object-store.service.ts';
import { slugOfResource } from './oauth/provider.ts';
import { OAuthSettingsService } from './oauth/settings.service.ts';
import { StepUpService } from './oauth/step-up.service.ts';
import { EffectiveAccessService } from './policy/effective-access.service.ts';
import { ExplainService } from './policy/explain.service.ts';
import { PreviewService } from './policy/preview.service.ts';
import { RequestLimits, type RequestRates } from './request-limits.ts';

export interface ServicesOptions {
  readonly database: Database;
  readonly secretKey: string;
  /** Where the key that seals credentials lives; undefined where there is none. */
  readonly credentialKeys: KeySettings | undefined;
  readonly publicUrls: PublicUrls | undefined;
  readonly egressAllow: readonly EgressAllowance[];
  readonly egressProxy: EgressProxy | undefined;
  readonly requestRates: RequestRates;
  readonly build: string;
  readonly metrics: Pick<ControlPlaneMetrics, 'auditAlarm' | 'authenticationFailed' | 'compiled' | 'definitionAsked'>;
  /** Who asks; null where that cannot be told. */
  readonly addressOf: (request: IncomingMessage) => string | null;
  readonly clock: Clock;
  readonly log: Log;
}

export type Services = Awaited<ReturnType<typeof startServices>>;

const discoveryPermissions: readonly Permission[] = ['server:read', 'server:write'];

/** What an operator must know of a node's trail: in the log, and on the node's page where the node is known. */
function alarm(
  fleet: Fleet,
  { log, metrics }: ServicesOptions,
  code: AuditAlarm,
  nodeId: string,
  message: string,
): void {
  metrics.auditAlarm(code);
  log.error({ nodeId, code }, message);
  if (!isUuid(nodeId)) return;
  fleet.reports
    .alarmed(nodeId, code, message)
    .catch((error: unknown) => log.warn({ err: error, nodeId, code }, 'an alarm was not stored'));
}

function nodeKeysOf({ reports }: Fleet): NodeKeys {
  return {
    accepts: (nodeId, publicKey) => reports.knowsKey(nodeId, publicKey),
    maySucceed: (nodeId, formerNodeId) => reports.maySucceed(nodeId, formerNodeId),
  };
}

function scimOf({ database, clock, log }: ServicesOptions, principals: PrincipalService, groups: GroupService) {
  return {
    directories: new ScimDirectoryService(database),
    tokens: new ScimTokenService({ database, groups, clock, log }),
    users: new ScimUserService(database, principals),
    groups: new ScimGroupService(database, groups),
  };
}

/** Of roles; `operator-key.ts` needs them without the rest. */
export function accessServices(database: Database, keyKnownTo: OwnerLookup['keyKnownTo']) {
  const owners = new OwnerService({ ...principalLookup, keyKnownTo });
  const roles = new RoleService(database, { ...principalLookup, groupExists }, owners);
  return {
    roles,
    customRoles: new CustomRoleService(database, roles),
    roleProposals: new RoleProposalService(database, roles, principalLookup),
  };
}

function inspectionServices(
  { database, secretKey, metrics, clock, log }: ServicesOptions,
  others: {
    readonly egress: Egress;
    readonly vault: CredentialVault;
    readonly onAlarm: RaiseAlarm;
  },
) {
  const { egress, onAlarm } = others;
  const captures = captureServices({ database, vault: others.vault, onAlarm, clock, log });
  const policies = new PolicyService(database, {
    ...principalLookup,
    groupExists,
    serverExists,
    payloadKeys: captures.payloadKeys,
  });
  const vault = new FleetVault(secretKey);
  const webhooks = new WebhookService({ database, vault, egress });
  const newSender = (): WebhookSender =>
    new WebhookSender({ egress, now: () => clock.now(), monotonic: () => clock.monotonic() });
  const definitionHooks = new DefinitionHookService({
    database,
    vault,
    sender: newSender(),
    onAsked: (webhookId, durationMs, failure) => metrics.definitionAsked(webhookId, durationMs, failure),
    now: () => clock.now(),
    monotonic: () => clock.monotonic(),
  });
  return {
    definitionHooks,
    ...captures,
    policies,
    policyTrials: new PolicyTrialService(database, policies, captures.payloadSamples),
    webhooks,
    webhookTrials: new WebhookTrialService(webhooks, vault, newSender),
  };
}

function policyServices(database: Database, apiKeys: ApiKeyService) {
  return {
    effectiveAccess: new EffectiveAccessService(database),
    explanations: new ExplainService(database, apiKeys),
    preview: new PreviewService(database),
  };
}

/** Of the authorization server, which runs where public URLs are configured, and of the login by identity providers. */
function oauthServices(
  options: ServicesOptions,
  others: {
    readonly apiKeys: ApiKeyService;
    readonly groups: GroupService;
    readonly roles: RoleService;
    readonly fleet: Fleet;
    readonly egress: Egress;
    readonly userConnections: ConnectionService;
    readonly upstreamKeys: UpstreamKeys;
    readonly loginTokens: LoginTokens;
    readonly limits: RequestLimits;
    readonly authentication: GuardedAuthentication;
  },
) {
  const { database, secretKey, publicUrls: urls, addressOf, clock, log } = options;
  const { apiKeys, roles, fleet, egress, userConnections, upstreamKeys, loginTokens, limits, authentication } = others;
  const vault = new FleetVault(secretKey);
  const clients = new ClientService({ database, apiKeys, clock, log });
  const serverOf = async (resource: string): Promise<string | null> => {
    const slug = urls === undefined ? undefined : slugOfResource(urls.nodesUrl, resource);
    return slug === undefined ? null : serverOfSlug(database.db, slug);
  };
  const store = new ObjectStore({ database, vault, clients, serverOf, clock });
  const endLogin = (tx: Transaction, loginId: string): Promise<unknown> =>
    store.endFamilies(tx, { loginId }).then(() => loginTokens.end(tx, loginId));
  const groups = new ProvidedGroupService(others.groups);
  const providers: IdentityProviderService = new IdentityProviderService({
    database,
    vault,
    egress,
    groups,
    roles,
    endLogins: (tx, providerId) => endLogins(tx, endLogin, new Date(clock.now()), { providerId }),
  });
  const connections = new OidcConnections({ egress, secretOf: (provider) => providers.secretOf(provider), clock });
  const logins = new FederatedLoginService({
    issuer: urls?.issuer,
    database,
    vault,
    providers,
    connections,
    groups,
    keep: (provider, login, given) => loginTokens.keep(provider, login, given),
    clock,
    log,
  });
  const logouts = new BackChannelLogoutService({ database, providers, connections, endLogin, clock, log });
  const consents = new ConsentService({ database, store, clients, serverOf });
  const loginCodes = new LoginCodeService(database, apiKeys, clock);
  const settings = new OAuthSettingsService(database, urls?.issuer);
  const stepUp = new StepUpService({ settings, serverOf, clock });
  const guards = { stepUp, limits, authentication, addressOf };
  const parts = { secretKey, database, settings, store, clients, consents, loginCodes, egress, ...guards, clock, log };
  const federation = { providers, connections, userConnections, upstreamKeys, loginTokens, logins, logouts };
  const { signingKeys } = fleet;
  return {
    publicUrls: urls,
    identityProviders: providers,
    identityProviderConnections: connections,
    oauthClients: clients,
    consents,
    loginCodes,
    oauthSettings: settings,
    oauthStore: store,
    authorizationServer:
      urls === undefined ? undefined : new AuthorizationServer({ ...parts, ...federation, urls, signingKeys }),
  };
}

function discoveryOf(
  { database, build, clock, log }: ServicesOptions,
  health: HealthService,
  webhooks: DefinitionHookService,
  parts: Pick<DiscoveryJobDependencies, 'egress' | 'askNode' | 'credentialHeaders'>,
): DiscoveryJob {
  const store = new DiscoveryService(database, health, webhooks);
  const asSystem = systemContext('discovery', discoveryPermissions, { clock, log });
  return new DiscoveryJob({ ...parts, database, store, systemContext: asSystem, build });
}

/** What comes later in the order of services, and is used once all are there. */
type Federation = () => Pick<ReturnType<typeof oauthServices>, 'identityProviders' | 'identityProviderConnections'>;

function credentialServices(
  options: ServicesOptions,
  servers: ServerService,
  {
    egress,
    vault,
    federation,
  }: { readonly egress: Egress; readonly vault: CredentialVault; readonly federation: Federation },
) {
  const { database, secretKey, publicUrls, clock, log } = options;
  const authorizationServers = new AuthorizationServers(egress, clock);
  const base = { database, vault, servers: authorizationServers, clock, log };
  const issuer = publicUrls?.issuer;
  const keys = new UpstreamKeys({ database, vault, clock });
  const clients = new UpstreamClients({ ...base, keys, issuer });
  const clientOf = (row: ConnectionRow) => clients.clientOf(row);
  const forgetClient = (row: ConnectionRow) => clients.forget(row);
  const refreshes = new RefreshService({ ...base, clientOf, forgetClient });
  const loginTokens = new LoginTokens({
    ...base,
    providers: { usableById: (id) => federation().identityProviders.usableById(id) },
    idp: { renew: (...of) => federation().identityProviderConnections.renew(...of) },
  });
  const seals = new FleetVault(secretKey);
  const access = new EffectiveAccessService(database);
  const isUserOf = (principalId: string, serverId: string) => access.isUserOf(principalId, serverId, clock.now());
  const connections = new ConnectionService({ ...base, clients, isUserOf, issuer, seals, logins: loginTokens });
  const identityTokens = new IdentityTokens({ database, keys, issuer, clock });
  const idp = {
    assertion: (...of: Parameters<OidcConnections['assertion']>) =>
      federation().identityProviderConnections.assertion(...of),
  };
  const failures = new CredentialFailures({ database, clock, log });
  const unusable = (reader: Reader, ids: readonly string[]) => unusablePrincipals(reader, ids, clock.now());
  return {
    serverCredentials: new ServerCredentialService({
      database,
      vault,
      servers,
      connections,
      isPublic: issuer !== undefined,
    }),
    connections,
    upstreamKeys: keys,
    loginTokens,
    revocations: new RevocationService({ ...base, refreshes, clientOf, unusable }),
    rewrapping: new RewrapService({ database, vault, log }),
    lending: new LendingService({
      ...base,
      tokens: new TokenLending({ ...base, clients, refreshes, failures }),
      exchanges: new Exchanges({ ...base, clients, identityTokens, logins: loginTokens, idp, failures }),
      identityTokens,
      failures,
      linkTo: (principalId, serverId) => connections.linkTo(principalId, serverId),
    }),
  };
}

/** The catalog, and what its servers are called with. */
function serverServices(
  options: ServicesOptions,
  others: Omit<ServerServiceDependencies, 'database' | 'credentials' | 'egress'> & {
    readonly egress: Egress;
    readonly federation: Federation;
    readonly vault: CredentialVault;
  },
) {
  const { database } = options;
  const servers: ServerService = new ServerService({
    ...others,
    database,
    credentials: { destroyFor: (tx, ctx, server) => credentials.serverCredentials.destroyFor(tx, ctx, server) },
  });
  const credentials = credentialServices(options, servers, others);
  return { servers, credentials };
}

/** Keys for the API and tokens of directories; what fails at either counts for the network. */
function guardedAuthentication(
  { database, metrics, clock }: ServicesOptions,
  roles: RoleService,
  uses: KeyUses,
  scimTokens: ScimTokenService,
) {
  const service = new AuthenticateService({ database, roles, uses, clock });
  const attempts = new FailedAttempts({ clock });
  const onFailure = (isLimited: boolean): void => metrics.authenticationFailed(isLimited);
  const actorFor = (apiKey: string, address: string | null) => service.actorFor(apiKey, { address });
  return {
    authentication: new GuardedAuthentication({ actorFor, attempts, clock, onFailure }),
    scimAuthentication: new GuardedAuthentication<OpenedDirectory>({
      actorFor: (token) => scimTokens.directoryFor(token),
      attempts,
      clock,
      onFailure,
    }),
  };
}

async function fleetOf(
  options: ServicesOptions,
  spools: readonly Pick<EpochService, 'watermarksOf' | 'spoolEpochsReported'>[],
  health: HealthService,
  asked: Pick<FleetOptions, 'doubtServer' | 'definitionsSighted' | 'lend'>,
): Promise<Fleet> {
  const { database, secretKey, publicUrls, addressOf, metrics, clock, log } = options;
  const fleet = await startFleet({
    database,
    secretKey,
    publicUrls,
    addressOf,
    clock,
    log,
    onCompiled: (outcome, durationMs) => metrics.compiled(outcome, durationMs),
    watermarksOf: async (nodeId) => (await Promise.all(spools.map((spool) => spool.watermarksOf(nodeId)))).flat(),
    spoolEpochsReported: async (nodeId, held) => {
      for (const spool of spools) await spool.spoolEpochsReported(nodeId, held);
    },
    recordHealth: (nodeId, observations) => health.report(nodeId, observations),
    ...asked,
  });
  const unlisten = await onForgotten(database, (serverId, principalId) =>
    fleet.syncServer.forgetCredentials(serverId, principalId),
  );
  const stop = async (): Promise<void> => {
    await unlisten();
    await fleet.stop();
  };
  return { ...fleet, stop };
}

function auditServices(database: Database, { fleetKey }: Fleet, clock: Clock) {
  const checkpoints = new CheckpointService(database, fleetKey, clock);
  return {
    checkpoints,
    events: new EventQueryService(database),
    exports: new ExportService(database, checkpoints),
    traffic: new TrafficQueryService(database),
  };
}

/** Every service, made by hand in the order of what needs what. Starts the configuration push; `stop` ends it. */
export async function startServices(options: ServicesOptions) {
  const { database, clock, log } = options;
  const egress = createEgress({ allow: options.egressAllow, proxy: options.egressProxy });
  const health = new HealthService(database);
  const keyUses = new KeyUses(database, log);
  const access = accessServices(database, (reader, keyId) => apiKeys.knownTo(reader, keyId));
  const { roles } = access;
  const grants: GrantService = new GrantService(database, { ...principalLookup, groupExists, serverExists });
  const onUndiscovered = (): void => discovery.kick();
  const onDeleted = (tx: Transaction, ctx: Context, id: string) => oauth.consents.endWithServer(tx, ctx, id);
  const onAlarm: RaiseAlarm = (code, nodeId, message) => alarm(fleet, options, code, nodeId, message);
  const outside = { egress, vault: new CredentialVault(createKeyProvider(options.credentialKeys, clock)) };
  const inspection = inspectionServices(options, { ...outside, onAlarm });
  const { definitionHooks: webhooks, payloadStore } = inspection;
  const federation: Federation = () => oauth;
  const known = { ...outside, grants, health, groupExists, webhooks, onDeleted, onUndiscovered, federation };
  const { servers, credentials } = serverServices(options, known);
  const principals = new PrincipalService(database, roles, grants);
  const groups = new GroupService({ database, grants, roles, serversOwned: (...of) => servers.countOwnedBy(...of) });
  const apiKeys: ApiKeyService = new ApiKeyService(database, roles, serverExists);
  const epochs = new EpochService({ database, log, onAlarm });
  const fleet: Fleet = await fleetOf(options, [epochs, payloadStore], health, {
    doubtServer: (serverId) => discovery.doubt(serverId),
    definitionsSighted: (nodeId, serverId, sightings) => discovery.sighted(nodeId, serverId, sightings),
    lend: (nodeId, need) => credentials.lending.lend(nodeId, need),
  });
  const discovery: DiscoveryJob = discoveryOf(options, health, webhooks, {
    egress,
    askNode: (server) => fleet.syncServer.discoverThroughNode({ url: server.url, credential: needOf(server) }),
    credentialHeaders: (server) => credentials.lending.headersFor(server),
  });
  const scim = scimOf(options, principals, groups);
  const limits = new RequestLimits(clock, options.requestRates);
  const authentications = guardedAuthentication(options, roles, keyUses, scim.tokens);
  const { connections: userConnections, upstreamKeys, loginTokens } = credentials;
  const people = { apiKeys, groups, roles, fleet, egress, userConnections, upstreamKeys, loginTokens };
  const oauth: ReturnType<typeof oauthServices> = oauthServices(options, { ...people, limits, ...authentications });
  return {
    ...auditServices(database, fleet, clock),
    auditDelivery: auditDeliveryOf(options, roles, inspection.webhooks, egress),
    nodeKeys: nodeKeysOf(fleet),
    onAlarm,
    health,
    ...access,
    grants,
    servers,
    ...credentials,
    serverAsks: new ServerAsksService(database),
    definitions: new DefinitionService(database, webhooks),
    principals,
    groups,
    apiKeys,
    scim,
    limits,
    ...policyServices(database, apiKeys),
    ...inspection,
    bootstrap: new BootstrapService(database, roles, principals, apiKeys),
    ...authentications,
    ...oauth,
    keyUses,
    fleet,
    discovery,
    stop: async () => {
      await keyUses.flush();
      await fleet.stop();
      await egress.close();
    },
  };
}
