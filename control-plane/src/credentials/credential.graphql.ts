import type { CredentialMode } from '@sallyport/schema';
import { Field, ID, InputType, Int, ObjectType } from 'type-graphql';
import { DateTime, graphqlEnum, idempotencyKeyDescription, MutationInput } from '../graphql-connection.ts';
import type { CredentialHeader, CredentialInput } from './credential-form.ts';

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

@InputType({ description: 'Inherited by the inputs that set secrets.' })
abstract class PutServerCredentialInput extends MutationInput implements CredentialInput {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => StaticHeadersInput, { nullable: true, description: 'For the mode staticHeaders.' })
  staticHeaders?: StaticHeadersInput | null;

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
