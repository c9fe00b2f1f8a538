import type { CredentialMode } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { Server } from '../catalog/catalog.graphql.ts';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import {
  CredentialKeys,
  CredentialModeEnum,
  DeleteServerCredentialInput,
  DisconnectInput,
  RotateServerCredentialInput,
  RotateUpstreamSigningKeyInput,
  ServerCredential,
  SetServerCredentialInput,
  UpstreamAccount,
  UpstreamAccountConnection,
  UpstreamAccountsArguments,
  UpstreamSigningKey,
} from './credential.graphql.ts';
import type { ClientAuthentication } from './client-authentication.ts';
import type { ClientSettings, CredentialSettings, IdentityClaim } from './credential-form.ts';
import type { ConnectionRow, ConnectionService } from './connection.service.ts';
import type { RewrapService } from './rewrap.service.ts';
import type { ServerCredential as Credential, ServerCredentialService } from './server-credential.service.ts';
import type { UpstreamKey, UpstreamKeys } from './upstream-keys.service.ts';

export interface CredentialResolverDependencies {
  readonly serverCredentials: ServerCredentialService;
  readonly rewrapping: RewrapService;
  readonly connections: ConnectionService;
  readonly upstreamKeys: UpstreamKeys;
}

@Resolver(() => ServerCredential)
export class CredentialResolver {
  private readonly deps: CredentialResolverDependencies;

  constructor(deps: CredentialResolverDependencies) {
    this.deps = deps;
  }

  @Query(() => ServerCredential, { description: 'What a server is called with, without the secret.' })
  serverCredential(
    @Ctx() ctx: Context,
    @Arg('serverId', () => ID, { description: 'Id of the server.' }) serverId: string,
  ): Promise<Credential> {
    return this.deps.serverCredentials.get(ctx, serverId);
  }

  @Query(() => CredentialKeys, { description: 'The key-encryption key, and what is sealed under which version of it.' })
  credentialKeys(@Ctx() ctx: Context): Promise<CredentialKeys> {
    return this.deps.rewrapping.describe(ctx);
  }

  @Query(() => [UpstreamSigningKey], {
    description:
      'Keys that sign what the gateway says toward upstreams and their authorization servers, oldest first. Their public parts ' +
      'are at `<public URL>/oauth/upstream/jwks`.',
  })
  upstreamSigningKeys(@Ctx() ctx: Context): Promise<UpstreamKey[]> {
    return this.deps.upstreamKeys.list(ctx);
  }

  @Mutation(() => UpstreamSigningKey, {
    description:
      'Makes a new key toward upstreams: it is published at once, and signs an hour later, when everybody has read it.',
  })
  rotateUpstreamSigningKey(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateUpstreamSigningKeyInput, { description: 'The rotation.' })
    input: RotateUpstreamSigningKeyInput,
  ): Promise<UpstreamKey> {
    return this.deps.upstreamKeys.rotate(ctx, input);
  }

  @Mutation(() => ServerCredential, {
    description:
      'Sets what a server is called with, instead of whatever was set before. The secret is sealed before it is stored, and ' +
      'is bound to the origin of the server: when that moves elsewhere, it is destroyed.',
  })
  setServerCredential(
    @Ctx() ctx: Context,
    @Arg('input', () => SetServerCredentialInput, { description: 'The credential.' }) input: SetServerCredentialInput,
  ): Promise<Credential> {
    return this.deps.serverCredentials.set(ctx, input);
  }

  @Mutation(() => ServerCredential, { description: 'Replaces the secret of a server by a new one of the same mode.' })
  rotateServerCredential(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateServerCredentialInput, { description: 'The new secret.' })
    input: RotateServerCredentialInput,
  ): Promise<Credential> {
    return this.deps.serverCredentials.rotate(ctx, input);
  }

  @Mutation(() => ServerCredential, {
    description: 'Destroys the secret of a server, which is called without any from then on.',
  })
  deleteServerCredential(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteServerCredentialInput, { description: 'The server.' })
    input: DeleteServerCredentialInput,
  ): Promise<Credential> {
    return this.deps.serverCredentials.delete(ctx, input);
  }

  @Query(() => UpstreamAccountConnection, {
    description: 'Accounts that users connected, oldest first: one’s own, or with credential:read those of others.',
  })
  async upstreamAccounts(
    @Ctx() ctx: Context,
    @Args(() => UpstreamAccountsArguments) args: UpstreamAccountsArguments,
  ): Promise<ConnectionOf<ConnectionRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.deps.connections.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Query(() => String, { description: 'Where the asking user connects his account to a server; good for an hour.' })
  connectLink(
    @Ctx() ctx: Context,
    @Arg('serverId', () => ID, { description: 'Id of the server.' }) serverId: string,
  ): Promise<string> {
    return this.deps.connections.linkFor(ctx, serverId);
  }

  @Mutation(() => UpstreamAccount, {
    description:
      'Disconnects an account: nodes use it no more, it is revoked at its authorization server as far as that answers, and then ' +
      'destroyed. One’s own, or with credential:write another’s.',
  })
  disconnect(
    @Ctx() ctx: Context,
    @Arg('input', () => DisconnectInput, { description: 'The account.' }) input: DisconnectInput,
  ): Promise<ConnectionRow> {
    return this.deps.connections.disconnect(ctx, input);
  }

  @FieldResolver()
  isComplete(@Root() { settings }: Credential): boolean {
    return settings !== null;
  }

  @FieldResolver()
  issuer(@Root() { settings }: Credential): string | null {
    return clientSettings(settings)?.issuer ?? null;
  }

  @FieldResolver()
  clientId(@Root() { settings }: Credential): string | null {
    return clientSettings(settings)?.clientId ?? null;
  }

  @FieldResolver()
  authentication(@Root() { settings }: Credential): ClientAuthentication | null {
    return clientSettings(settings)?.authentication ?? null;
  }

  @FieldResolver()
  authorizationHosts(@Root() { settings }: Credential): readonly string[] {
    return settings?.mode === 'userOAuth' ? settings.authorizationHosts : [];
  }

  @FieldResolver()
  scopes(@Root() { settings }: Credential): readonly string[] {
    return clientSettings(settings)?.scopes ?? [];
  }

  @FieldResolver()
  audience(@Root() { settings }: Credential): string | null {
    return settings !== null && 'audience' in settings ? settings.audience : null;
  }

  @FieldResolver()
  namesActor(@Root() { settings }: Credential): boolean | null {
    return settings?.mode === 'tokenExchange' ? settings.namesActor : null;
  }

  @FieldResolver()
  lifetimeSeconds(@Root() { settings }: Credential): number | null {
    return settings?.mode === 'identityToken' ? settings.lifetimeSeconds : null;
  }

  @FieldResolver()
  claims(@Root() { settings }: Credential): readonly IdentityClaim[] {
    return settings?.mode === 'identityToken' ? settings.claims : [];
  }

  @FieldResolver()
  requiredAtLogin(@Root() { settings }: Credential): boolean {
    return settings?.mode === 'userOAuth' && settings.requiredAtLogin === true;
  }

  @FieldResolver()
  headerNames(@Root() { settings }: Credential): readonly string[] {
    return settings?.mode === 'staticHeaders' ? settings.headerNames : [];
  }
}

function clientSettings(settings: CredentialSettings | null): ClientSettings | null {
  return settings !== null && 'clientId' in settings ? settings : null;
}

@Resolver(() => Server)
export class ServerCredentialModeResolver {
  @FieldResolver(() => CredentialModeEnum, {
    description: 'How the gateway proves itself to it; see serverCredential.',
  })
  credentialMode(@Root() { credentialMode }: ServerRow): CredentialMode {
    return credentialMode;
  }
}
