import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import {
  broughtSecretDescription,
  ChangeInput,
  connectionType,
  CreateInput,
  DateTime,
  graphqlEnum,
  Json,
  MutationInput,
  PageArguments,
} from '../graphql-connection.ts';
import type { SigningKeyRow } from '../fleet/signing-keys.ts';
import type { OAuthClientRow } from './oauth.tables.ts';

export const ClientAuthenticationEnum = graphqlEnum<OAuthClientRow['authentication']>(
  'OAuthClientAuthentication',
  'How an OAuth client proves who it is at the token endpoint.',
  {
    none: 'Not at all: a public client, which proves with PKCE that the code is its own.',
    secret: 'With a secret, by HTTP Basic (client_secret_basic).',
    secretPost: 'With a secret in the form (client_secret_post).',
    privateKeyJwt: 'With a JWT that its private key signs (private_key_jwt, RFC 7523).',
  },
);

export const ClientSourceEnum = graphqlEnum<OAuthClientRow['source']>(
  'OAuthClientSource',
  'How an OAuth client came to be registered.',
  { administrator: 'An administrator registered it.', dynamic: 'It registered itself (RFC 7591).' },
);

export const SigningKeyUseEnum = graphqlEnum<SigningKeyRow['use']>(
  'SigningKeyUse',
  'What a key of the authorization server does now.',
  { verify: 'Tokens signed with it are taken.', sign: 'It signs new tokens, and tokens signed with it are taken.' },
);

const stepUpServer = 'Id of the server.';
const stepUpAcr = 'The login must be of one of these authentication contexts (acr); none: of any.';
const stepUpAge = 'How long ago the login may be, in seconds: 60 to 2592000; null for any time.';

@ObjectType({
  description: 'How people must have logged in to use an endpoint (RFC 9470). Their API keys do not open it.',
})
export class StepUpRule {
  @Field(() => ID, { description: stepUpServer })
  serverId!: string;

  @Field(() => [String], { description: stepUpAcr })
  acrValues!: readonly string[];

  @Field(() => Int, { nullable: true, description: stepUpAge })
  maxAgeSeconds!: number | null;
}

@InputType({
  description: 'How people must have logged in to use an endpoint; names acrValues, maxAgeSeconds or both.',
})
export class StepUpRuleInput {
  @Field(() => ID, { description: stepUpServer })
  serverId!: string;

  @Field(() => [String], { nullable: true, description: stepUpAcr })
  acrValues?: string[] | null;

  @Field(() => Int, { nullable: true, description: stepUpAge })
  maxAgeSeconds?: number | null;
}

@ObjectType({ description: 'The OAuth authorization server of the control plane.' })
export class AuthorizationServerInfo {
  @Field(() => String, { nullable: true, description: 'Its issuer; null where none is configured.' })
  issuer!: string | null;

  @Field(() => String, { nullable: true, description: 'Under which clients reach the nodes; null where none is.' })
  nodesUrl!: string | null;

  @Field(() => Boolean, { description: 'Whether clients may register themselves (RFC 7591).' })
  dynamicRegistration!: boolean;

  @Field(() => [String], {
    description:
      'Domains at which clients may be named by the URL of their metadata document; "*" for any. Until somebody sets ' +
      'them none, or any where the issuer is on loopback.',
  })
  clientDomains!: string[];

  @Field(() => [StepUpRule], { description: 'Endpoints that need more than any login of a person.' })
  stepUp!: readonly StepUpRule[];

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;
}

@InputType({ description: 'Changes to the authorization server: absent fields keep their value.' })
export class UpdateAuthorizationServerInput extends MutationInput {
  @Field(() => Boolean, { nullable: true, description: 'Whether clients may register themselves.' })
  dynamicRegistration?: boolean | null;

  @Field(() => [String], {
    nullable: true,
    description:
      'Domains of client metadata documents: a domain, *.domain for all below it, or * for any; at most 200.',
  })
  clientDomains?: string[] | null;

  @Field(() => [StepUpRuleInput], {
    nullable: true,
    description: 'Endpoints that need more than any login of a person, in place of those before; at most 500.',
  })
  stepUp?: StepUpRuleInput[] | null;

  @Field(() => Int, {
    nullable: true,
    description: 'Refuse with CONFLICT unless the settings still have this revision.',
  })
  expectedRevision?: number | null;
}

@ObjectType({ description: 'A key that signs access tokens; its private part is never shown.' })
export class SigningKey {
  @Field(() => ID, { description: 'The `kid` of tokens that it signed.' })
  id!: string;

  @Field(() => SigningKeyUseEnum, { description: 'What it does now.' })
  use!: SigningKeyRow['use'];

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'Since when it signs or signed; null if it never did.' })
  signingSince!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'When it is forgotten; null while it may still sign.' })
  retiresAt!: Date | null;
}

@InputType({ description: 'A rotation of the key that signs access tokens.' })
export class RotateSigningKeyInput extends MutationInput {}

@ObjectType({ description: 'A client of the authorization server that is registered here.' })
export class OAuthClient {
  @Field(() => ID, { description: 'Its client_id.' })
  id!: string;

  @Field(() => ClientSourceEnum, { description: 'How it came to be registered.' })
  source!: OAuthClientRow['source'];

  @Field(() => String, { description: 'What it is called; of a dynamic client, by itself.' })
  name!: string;

  @Field(() => ID, { nullable: true, description: 'Id of the service account it acts as by itself; null if none.' })
  serviceAccountId!: string | null;

  @Field(() => [String], { description: 'Where codes for users may be sent.' })
  redirectUris!: string[];

  @Field(() => ClientAuthenticationEnum, { description: 'How it proves who it is.' })
  authentication!: OAuthClientRow['authentication'];

  @Field(() => Json, { nullable: true, description: 'Its public keys, as a JSON Web Key Set; null where it has none.' })
  jwks!: unknown;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { description: 'When it was registered.' })
  createdAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'When it was used last, to the hour; null if never.' })
  lastUsedAt!: Date | null;
}
export const OAuthClientConnection = connectionType('OAuthClient', 'OAuth clients', () => OAuthClient);

@ObjectType({ description: 'An OAuth client whose secret was just made.' })
export class IssuedOAuthClientPayload {
  @Field(() => OAuthClient, { description: 'The client as it is stored.' })
  client!: OAuthClient;

  @Field(() => String, {
    nullable: true,
    description:
      'Its secret, shown now and never again. Null where it has none, on a dry run, a repeated create, and where the caller brought it.',
  })
  secret!: string | null;
}

@InputType({ description: 'A new OAuth client.' })
export class CreateOAuthClientInput extends CreateInput {
  @Field(() => String, { description: 'What people call it: 1 to 128 characters.' })
  name!: string;

  @Field(() => ClientAuthenticationEnum, { description: 'How it proves who it is.' })
  authentication!: OAuthClientRow['authentication'];

  @Field(() => ID, {
    nullable: true,
    description: 'Id of the service account it acts as by itself (grant type client_credentials).',
  })
  serviceAccountId?: string | null;

  @Field(() => [String], {
    nullable: true,
    description: 'Where codes for users may be sent, at most 20: https, http on loopback, or a scheme of its own.',
  })
  redirectUris?: string[] | null;

  @Field(() => String, {
    nullable: true,
    description: 'Public keys as a JSON Web Key Set (RFC 7517); for PRIVATE_KEY_JWT alone.',
  })
  jwks?: string | null;

  @Field(() => String, { nullable: true, description: `${broughtSecretDescription} The prefix is sps_.` })
  secret?: string | null;
}

@InputType({ description: 'An OAuth client to give a new secret; the one before is void at once.' })
export class RotateOAuthClientSecretInput extends ChangeInput {}

@InputType({ description: 'An OAuth client to delete; all its tokens are void at once.' })
export class DeleteOAuthClientInput extends ChangeInput {}

@ObjectType({ description: 'What a user allowed a client to do in the user’s name.' })
export class OAuthConsent {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { description: 'Id of the user.' })
  principalId!: string;

  @Field(() => String, { description: 'The client: the URL of its metadata document, or the id of a registered one.' })
  clientId!: string;

  @Field(() => String, { description: 'What the client called itself.' })
  clientName!: string;

  @Field(() => String, { description: 'Where codes are sent; on loopback at any port, and written without one.' })
  redirectUri!: string;

  @Field(() => Boolean, {
    description:
      'Whether it is not asked again. False where any program of the machine could answer: on loopback and at a scheme of an application’s own.',
  })
  isRemembered!: boolean;

  @Field(() => String, { description: 'The MCP endpoint it is for.' })
  resource!: string;

  @Field(() => [String], { description: 'The scopes.' })
  scopes!: string[];

  @Field(() => DateTime, { description: 'When it was given first.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When it was given last.' })
  updatedAt!: Date;
}
export const OAuthConsentConnection = connectionType('OAuthConsent', 'consents', () => OAuthConsent);

@ArgsType()
export class OAuthConsentsArguments extends PageArguments {
  @Field(() => ID, { nullable: true, description: 'Only of this user; one’s own need no permission.' })
  principalId?: string | null;
}

@InputType({ description: 'A consent to withdraw: the client’s tokens for the user are void on every node.' })
export class RevokeOAuthConsentInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the consent.' })
  id!: string;
}

@InputType({ description: 'A code with which a user logs in once.' })
export class CreateLoginCodeInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the user.' })
  userId!: string;

  @Field(() => Int, { nullable: true, description: 'How long it can be used, in seconds: 1 to 86400; 900 if absent.' })
  lifetimeSeconds?: number | null;
}

@ObjectType({ description: 'A login code that was just made.' })
export class IssuedLoginCodePayload {
  @Field(() => DateTime, { description: 'It can be used until then.' })
  expiresAt!: Date;

  @Field(() => String, { nullable: true, description: 'The code, shown now and never again; null on a dry run.' })
  code!: string | null;
}

@InputType({ description: 'A user whose browser sessions and tokens to end; API keys stay.' })
export class EndSessionsInput extends MutationInput {
  @Field(() => ID, {
    description: 'Id of the user or service account. What clients got by themselves as the account ends too.',
  })
  principalId!: string;
}

@ObjectType({ description: 'What was ended.' })
export class EndSessionsPayload {
  @Field(() => Int, {
    description: 'Authorizations of clients whose tokens are void now, and clients of a service account.',
  })
  authorizations!: number;
}
