import type { CredentialMode } from '@sallyport/schema';
import { Arg, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { Server } from '../catalog/catalog.graphql.ts';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Context } from '../context.ts';
import {
  CredentialKeys,
  CredentialModeEnum,
  DeleteServerCredentialInput,
  RotateServerCredentialInput,
  ServerCredential,
  SetServerCredentialInput,
} from './credential.graphql.ts';
import type { RewrapService } from './rewrap.service.ts';
import type { ServerCredential as Credential, ServerCredentialService } from './server-credential.service.ts';

export interface CredentialResolverDependencies {
  readonly serverCredentials: ServerCredentialService;
  readonly rewrapping: RewrapService;
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

  @FieldResolver()
  isComplete(@Root() { settings }: Credential): boolean {
    return settings !== null;
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
