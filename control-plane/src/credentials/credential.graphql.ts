import type { CredentialMode } from '@sallyport/schema';
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import {
  connectionType,
  DateTime,
  graphqlEnum,
  idempotencyKeyDescription,
  MutationInput,
  PageArguments,
} from '../graphql-connection.ts';
import type { ClientAuthentication } from './client-authentication.ts';
import type {
  ClientInput,
  CredentialHeader,
  CredentialInput,
  IdentityClaim,
  UserOAuthFields,
} from './credential-form.ts';
import type { ConnectionStatus } from './credential.tables.ts';
import type { UpstreamKey } from './upstream-keys.service.ts';

export const CredentialModeEnum = graphqlEnum<CredentialMode>(
  'CredentialMode',
  'How the gateway proves itself to a server. What a client sent is never passed on.',
  {
    none: 'Not at all.',
    staticHeaders: 'By headers that are the same for everybody: the server sees one service.',
    clientCredentials: 'By access tokens that the gateway gets for itself (OAuth 2.1, client credentials).',
    userOAuth: 'By access tokens of the very user who calls, who connected his account.',
    tokenExchange: 'By access tokens for the user who calls, had by token exchange (RFC 8693).',
    identityAssertion: 'By access tokens for the user who calls, had by an identity assertion (ID-JAG).',
    identityToken: 'By a short token, signed by the control plane, that says who calls.',
  },
);

export const ClientAuthenticationEnum = graphqlEnum<ClientAuthentication>(
  'UpstreamClientAuthentication',
  'How the gateway proves to an authorization server that it is the client.',
  {
    none: 'Not at all: a public client, by PKCE alone.',
    clientSecretBasic: 'By a secret in the header.',
    clientSecretPost: 'By a secret in the body.',
    privateKeyJwt:
      'By a signature (RFC 7523): of the private key that is given, else of the gateway’s own key (see upstreamSigningKeys).',
  },
);

export const IdentityClaimEnum = graphqlEnum<IdentityClaim>(
  'IdentityClaim',
  'What a token says of the caller, besides who it is.',
  {
    name: 'What he is called.',
    email: 'His address, where one is known.',
    groups: 'Names of his groups; where they are more than 100, `hasgroups` in their place.',
  },
);

const audienceText = 'Name of the server at the authorization server, where its URL (`resource`) does not tell.';
const namesActorText = 'Whether the gateway names itself as the one who acts for the user (`actor_token`).';
const identityAudienceText = '`aud` of the token; if absent, the URL of the server.';
const lifetimeText = 'How long a token is good, in seconds: 30 to 300; 120 if absent.';
const claimsText = 'What a token says besides who calls.';

@ObjectType({ description: 'What a server is called with: everything but the secret, which no field ever returns.' })
export class ServerCredential {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => CredentialModeEnum, { description: 'How the gateway proves itself.' })
  mode!: CredentialMode;

  @Field(() => Boolean, {
    description:
      'Whether everything that the mode needs is stored. Not so after the server moved to another origin, which destroys ' +
      'what was set for the old one: calls fail until it is set anew.',
  })
  isComplete!: boolean;

  @Field(() => [String], { description: 'Names of the headers, of static ones.' })
  headerNames!: string[];

  @Field(() => String, { nullable: true, description: 'The authorization server, where one was set.' })
  issuer!: string | null;

  @Field(() => String, { nullable: true, description: 'Id of the client there, where one was set.' })
  clientId!: string | null;

  @Field(() => ClientAuthenticationEnum, {
    nullable: true,
    description: 'How the gateway proves itself to the authorization server, where a client was set.',
  })
  authentication!: ClientAuthentication | null;

  @Field(() => [String], { description: 'Scopes that are asked for.' })
  scopes!: string[];

  @Field(() => [String], {
    description: 'Hosts on which the authorization endpoint may be, besides the issuer’s own.',
  })
  authorizationHosts!: string[];

  @Field(() => String, { nullable: true, description: 'Whom tokens are for, where it was set.' })
  audience!: string | null;

  @Field(() => Boolean, { nullable: true, description: `${namesActorText} Of the mode TOKEN_EXCHANGE.` })
  namesActor!: boolean | null;

  @Field(() => Int, { nullable: true, description: `${lifetimeText} Of the mode IDENTITY_TOKEN.` })
  lifetimeSeconds!: number | null;

  @Field(() => [IdentityClaimEnum], { description: `${claimsText} Of the mode IDENTITY_TOKEN.` })
  claims!: readonly IdentityClaim[];

  @Field(() => Boolean, { description: 'Whether users are asked to connect their account when they log in.' })
  requiredAtLogin!: boolean;

  @Field(() => Int, { description: 'Raised by each change; pass it as expectedRevision.' })
  revision!: number;

  @Field(() => DateTime, { nullable: true, description: 'When a credential was set first.' })
  createdAt!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'When the secret was set last.' })
  rotatedAt!: Date | null;
}

@InputType('CredentialHeaderInput', { description: 'A header that is sent with each request to a server.' })
export class CredentialHeaderInput implements CredentialHeader {
  @Field(() => String, {
    description:
      'Such as Authorization or X-Api-Key. Host, Mcp-*, Content-* and headers of the connection are refused.',
  })
  name!: string;

  @Field(() => String, { description: 'The secret. It is sealed, and never returned.' })
  value!: string;
}

@InputType({ description: 'Headers that are the same for everybody.' })
export class StaticHeadersInput {
  @Field(() => [CredentialHeaderInput], { description: '1 to 16 of them.' })
  headers!: CredentialHeaderInput[];
}

const clientScopes = 'What to ask for.';

@InputType({ description: 'Inherited by the inputs of modes that have a client.' })
abstract class ProvenClientInput {
  @Field(() => ClientAuthenticationEnum, {
    nullable: true,
    description: 'How it proves itself; by default with the secret in the header, where one is given.',
  })
  authentication?: ClientAuthentication | null;

  @Field(() => String, {
    nullable: true,
    description:
      'The secret, or the private key as JWK, without which PRIVATE_KEY_JWT signs with the gateway’s own. It is sealed, and ' +
      'never returned.',
  })
  secret?: string | null;

  @Field(() => [String], { nullable: true, description: clientScopes })
  scopes?: string[] | null;
}

@InputType({ description: 'A client that gets tokens for itself (OAuth 2.1, client credentials).' })
export class ClientCredentialsInput extends ProvenClientInput implements ClientInput {
  @Field(() => String, { description: 'The authorization server.' })
  issuer!: string;

  @Field(() => String, { description: 'Id of the client there.' })
  clientId!: string;
}

@InputType({
  description:
    'Tokens for the user who calls, had at an authorization server for one that the control plane signs (RFC 8693): its issuer ' +
    'is `<public URL>/oauth/upstream`, its keys are published there, its audience is the authorization server.',
})
export class TokenExchangeInput extends ClientCredentialsInput {
  @Field(() => String, { nullable: true, description: audienceText })
  audience?: string | null;

  @Field(() => Boolean, { nullable: true, description: namesActorText })
  namesActor?: boolean | null;
}

@InputType({
  description:
    'Tokens for the user who calls, had by an assertion of the identity provider that he logged in with (ID-JAG, enterprise-managed ' +
    'authorization). Who did not log in there is asked to.',
})
export class IdentityAssertionInput extends ProvenClientInput implements ClientInput {
  @Field(() => String, {
    nullable: true,
    description: 'The authorization server; if absent, the one that the server names (RFC 9728).',
  })
  issuer?: string | null;

  @Field(() => String, {
    nullable: true,
    description:
      'Id of a client registered there; if absent, the gateway is known by the document it serves, if it is taken there.',
  })
  clientId?: string | null;
}

@InputType({
  description:
    'A short token that says who calls, for servers of one’s own: signed by the control plane, to be verified with the keys ' +
    'at `<public URL>/oauth/upstream/jwks`.',
})
export class IdentityTokenInput {
  @Field(() => String, { nullable: true, description: identityAudienceText })
  audience?: string | null;

  @Field(() => Int, { nullable: true, description: lifetimeText })
  lifetimeSeconds?: number | null;

  @Field(() => [IdentityClaimEnum], { nullable: true, description: claimsText })
  claims?: IdentityClaim[] | null;
}

@InputType({ description: 'Tokens of the very user who calls, who connects his account.' })
export class UserOAuthInput extends ProvenClientInput implements UserOAuthFields {
  @Field(() => String, {
    nullable: true,
    description: 'The authorization server; if absent, the one that the server names (RFC 9728).',
  })
  issuer?: string | null;

  @Field(() => String, {
    nullable: true,
    description: 'Id of a client registered there; if absent, the gateway registers itself.',
  })
  clientId?: string | null;

  @Field(() => [String], { nullable: true, description: `${clientScopes} If absent, what the server names.` })
  override scopes?: string[] | null;

  @Field(() => [String], {
    nullable: true,
    description: 'Hosts on which the authorization endpoint may be, besides the issuer’s own.',
  })
  authorizationHosts?: string[] | null;

  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether users who may use the server are asked to connect their account when they log in with any client; false if ' +
      'absent. They may put it off.',
  })
  requiredAtLogin?: boolean | null;
}

@InputType({ description: 'Inherited by the inputs that set secrets.' })
abstract class PutServerCredentialInput extends MutationInput implements CredentialInput {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => StaticHeadersInput, { nullable: true, description: 'For the mode staticHeaders.' })
  staticHeaders?: StaticHeadersInput | null;

  @Field(() => ClientCredentialsInput, { nullable: true, description: 'For the mode clientCredentials.' })
  clientCredentials?: ClientCredentialsInput | null;

  @Field(() => UserOAuthInput, { nullable: true, description: 'For the mode userOAuth.' })
  userOAuth?: UserOAuthInput | null;

  @Field(() => TokenExchangeInput, { nullable: true, description: 'For the mode tokenExchange.' })
  tokenExchange?: TokenExchangeInput | null;

  @Field(() => IdentityAssertionInput, { nullable: true, description: 'For the mode identityAssertion.' })
  identityAssertion?: IdentityAssertionInput | null;

  @Field(() => IdentityTokenInput, { nullable: true, description: 'For the mode identityToken.' })
  identityToken?: IdentityTokenInput | null;

  @Field(() => Int, {
    nullable: true,
    description: 'Refuse with CONFLICT unless the credential still has this revision.',
  })
  expectedRevision?: number | null;

  @Field(() => String, { nullable: true, description: idempotencyKeyDescription })
  idempotencyKey?: string | null;
}

@InputType({ description: 'What a server is to be called with: exactly one of the modes.' })
export class SetServerCredentialInput extends PutServerCredentialInput {}

@InputType({ description: 'A new secret for the mode that is set.' })
export class RotateServerCredentialInput extends PutServerCredentialInput {}

@InputType({ description: 'A server whose credential goes.' })
export class DeleteServerCredentialInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => Int, {
    nullable: true,
    description: 'Refuse with CONFLICT unless the credential still has this revision.',
  })
  expectedRevision?: number | null;
}

@ObjectType({ description: 'How many secrets are sealed under one version of the key-encryption key.' })
export class CredentialKeyUse {
  @Field(() => String, { description: 'Provider, key and version.' })
  keyId!: string;

  @Field(() => Int, { description: 'How many. A version may be retired once it is 0.' })
  secrets!: number;
}

@ObjectType({ description: 'The key-encryption key that credentials are sealed under.' })
export class CredentialKeys {
  @Field(() => String, { nullable: true, description: 'file or transit; null where none is configured.' })
  provider!: string | null;

  @Field(() => String, { nullable: true, description: 'The version that seals now; null where it cannot be had.' })
  currentKeyId!: string | null;

  @Field(() => [CredentialKeyUse], { description: 'What is sealed under which version.' })
  uses!: CredentialKeyUse[];
}

export const UpstreamSigningKeyUseEnum = graphqlEnum<UpstreamKey['use']>(
  'UpstreamSigningKeyUse',
  'What a key toward upstreams does now.',
  { publish: 'It is published, so that what it signs or signed is verified.', sign: 'It signs, and is published.' },
);

@ObjectType({ description: 'A key that signs what the gateway says toward upstreams.' })
export class UpstreamSigningKey {
  @Field(() => ID, { description: 'The `kid` of what it signed.' })
  id!: string;

  @Field(() => UpstreamSigningKeyUseEnum, { description: 'What it does now.' })
  use!: UpstreamKey['use'];

  @Field(() => DateTime, { description: 'When it was made.' })
  createdAt!: Date;

  @Field(() => DateTime, { nullable: true, description: 'Since when it signs or signed; null if it never did.' })
  signingSince!: Date | null;

  @Field(() => DateTime, { nullable: true, description: 'When it is forgotten; null while it may still sign.' })
  retiresAt!: Date | null;
}

@InputType({ description: 'A rotation of the key that signs toward upstreams.' })
export class RotateUpstreamSigningKeyInput extends MutationInput {}

export const UpstreamAccountStatusEnum = graphqlEnum<ConnectionStatus>(
  'UpstreamAccountStatus',
  'Whether a connection is of use.',
  {
    active: 'Calls are made with it.',
    reauthRequired: 'The user has to connect again; see the reason.',
    ended: 'It waits to be revoked at the authorization server, and is then destroyed.',
  },
);

@ObjectType({ description: 'The account of a user at a server, connected by himself. No field returns a token.' })
export class UpstreamAccount {
  @Field(() => ID, { description: 'Unique and permanent.' })
  id!: string;

  @Field(() => ID, { description: 'Id of the user.' })
  principalId!: string;

  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => String, { description: 'The authorization server that issued the tokens.' })
  issuer!: string;

  @Field(() => String, { description: 'What the tokens are for.' })
  resource!: string;

  @Field(() => [String], { description: 'What the user was asked to allow, and what the server says he did.' })
  scopes!: string[];

  @Field(() => UpstreamAccountStatusEnum, { description: 'Whether it is of use.' })
  status!: ConnectionStatus;

  @Field(() => String, { nullable: true, description: 'Why the user has to connect again.' })
  reason!: string | null;

  @Field(() => DateTime, { description: 'When the account was connected.' })
  createdAt!: Date;

  @Field(() => DateTime, { description: 'When tokens were had last.' })
  updatedAt!: Date;
}

export const UpstreamAccountConnection = connectionType('UpstreamAccount', 'accounts', () => UpstreamAccount);

@ArgsType()
export class UpstreamAccountsArguments extends PageArguments {
  @Field(() => ID, { nullable: true, description: 'Of this user; needs credential:read unless it is oneself.' })
  principalId?: string | null;

  @Field(() => ID, { nullable: true, description: 'To this server.' })
  serverId?: string | null;
}

@InputType({ description: 'An account that is disconnected.' })
export class DisconnectInput extends MutationInput {
  @Field(() => ID, { description: 'Id of the connected account.' })
  accountId!: string;
}
