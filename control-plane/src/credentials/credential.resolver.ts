import type { CredentialMode } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { Server } from '../catalog/catalog.graphql.ts';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import type { ClientAuthentication } from './authorization-servers.ts';
import {
  CredentialKeys,
  CredentialModeEnum,
  DeleteServerCredentialInput,
  DisconnectInput,
  RotateServerCredentialInput,
  ServerCredential,
  SetServerCredentialInput,
  UpstreamAccount,
  UpstreamAccountConnection,
  UpstreamAccountsArguments,
} from './credential.graphql.ts';
import type { ConnectionRow, ConnectionService } from './connection.service.ts';
import type { RewrapService } from './rewrap.service.ts';
import type { ServerCredential as Credential, ServerCredentialService } from './server-credential.service.ts';

export interface CredentialResolverDependencies {
  readonly serverCredentials: ServerCredentialService;
  readonly rewrapping: RewrapService;
  readonly connections: ConnectionService;
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
    return settings === null || settings.mode === 'staticHeaders' ? null : settings.issuer;
  }

  @FieldResolver()
  clientId(@Root() { settings }: Credential): string | null {
    return settings === null || settings.mode === 'staticHeaders' ? null : settings.clientId;
  }

  @FieldResolver()
  authentication(@Root() { settings }: Credential): ClientAuthentication | null {
    return settings === null || settings.mode === 'staticHeaders' ? null : settings.authentication;
  }

  @FieldResolver()
  authorizationHosts(@Root() { settings }: Credential): readonly string[] {
    return settings?.mode === 'userOAuth' ? settings.authorizationHosts : [];
  }

  @FieldResolver()
  scopes(@Root() { settings }: Credential): readonly string[] {
    return settings === null || settings.mode === 'staticHeaders' ? [] : settings.scopes;
  }

  @FieldResolver()
  headerNames(@Root() { settings }: Credential): readonly string[] {
    return settings?.mode === 'staticHeaders' ? settings.headerNames : [];
  }
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
