import { GrantResolver } from './access/grant.resolver.ts';
import { RoleProposalResolver, RoleResolver } from './access/role.resolver.ts';
import { AuditResolver } from './audit/audit.resolver.ts';
import { CaptureResolver } from './capture/capture.resolver.ts';
import { TrafficResolver } from './audit/traffic.resolver.ts';
import { DefinitionBodyResolver, DefinitionDriftResolver, DefinitionResolver } from './catalog/definition.resolver.ts';
import { ServerAsksResolver } from './catalog/server-asks.resolver.ts';
import { ServerResolver } from './catalog/server.resolver.ts';
import { CredentialResolver, ServerCredentialModeResolver } from './credentials/credential.resolver.ts';
import { FleetResolver } from './fleet/fleet.resolver.ts';
import { ApiKeyResolver } from './identity/api-key.resolver.ts';
import { GroupResolver } from './identity/group.resolver.ts';
import { ServiceAccountResolver, UserResolver } from './identity/principal.resolver.ts';
import { IdentityProviderResolver } from './identity/idp/identity-provider.resolver.ts';
import { ScimResolver } from './identity/scim/scim.resolver.ts';
import { InspectionPolicyResolver } from './inspection/policy.resolver.ts';
import { WebhookResolver } from './inspection/webhook.resolver.ts';
import { OAuthConsentResolver, OAuthResolver } from './oauth/oauth.resolver.ts';
import { GrantExplanationResolver, PolicyResolver, TargetUserResolver } from './policy/policy.resolver.ts';
import type { Services } from './services.ts';

/** Every resolver class of the API. */
export const resolverClasses = [
  ApiKeyResolver,
  AuditResolver,
  CaptureResolver,
  CredentialResolver,
  DefinitionBodyResolver,
  DefinitionDriftResolver,
  DefinitionResolver,
  FleetResolver,
  GrantExplanationResolver,
  GrantResolver,
  GroupResolver,
  IdentityProviderResolver,
  InspectionPolicyResolver,
  OAuthConsentResolver,
  OAuthResolver,
  PolicyResolver,
  RoleProposalResolver,
  RoleResolver,
  ScimResolver,
  ServerAsksResolver,
  ServerCredentialModeResolver,
  ServerResolver,
  ServiceAccountResolver,
  TargetUserResolver,
  TrafficResolver,
  UserResolver,
  WebhookResolver,
] as const;

/** One object of each class. */
export function createResolvers(services: Services): readonly object[] {
  return [
    new ApiKeyResolver(services),
    new AuditResolver(services),
    new CaptureResolver(services),
    new CredentialResolver(services),
    new DefinitionBodyResolver(),
    new DefinitionDriftResolver(),
    new DefinitionResolver(services),
    new FleetResolver(services.fleet),
    new GrantExplanationResolver(services),
    new GrantResolver(services),
    new GroupResolver(services),
    new IdentityProviderResolver(services),
    new InspectionPolicyResolver(services),
    new OAuthConsentResolver(),
    new OAuthResolver(services),
    new PolicyResolver(services),
    new RoleProposalResolver(),
    new RoleResolver(services),
    new ScimResolver(services.scim),
    new ServerAsksResolver(services),
    new ServerCredentialModeResolver(),
    new ServerResolver(services),
    new ServiceAccountResolver(services),
    new TargetUserResolver(services),
    new TrafficResolver(services),
    new UserResolver(services),
    new WebhookResolver(services),
  ];
}
