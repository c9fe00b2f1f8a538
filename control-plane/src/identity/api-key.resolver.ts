import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { Label, labelsFrom } from '../catalog/catalog.graphql.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import type { ApiKeyService, IssuedApiKey } from './api-key.service.ts';
import type { Bootstrapped, BootstrapService } from './bootstrap.service.ts';
import {
  ApiKey,
  ApiKeyConnection,
  ApiKeysArguments,
  BootstrapInput,
  BootstrapPayload,
  CreateApiKeyInput,
  IssuedApiKeyPayload,
  Principal,
  RevokeApiKeyInput,
  RotateApiKeyInput,
} from './identity.graphql.ts';
import type { ApiKeyRow, PrincipalRow } from './identity.tables.ts';
import type { PrincipalService } from './principal.service.ts';

interface Services {
  readonly apiKeys: ApiKeyService;
  readonly principals: PrincipalService;
  readonly bootstrap: BootstrapService;
}

@Resolver(() => ApiKey)
export class ApiKeyResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => ApiKey, { description: 'An API key by its id.' })
  apiKey(@Ctx() ctx: Context, @Arg('id', () => ID, { description: 'Id of the key.' }) id: string): Promise<ApiKeyRow> {
    return this.services.apiKeys.get(ctx, id);
  }

  @Query(() => ApiKeyConnection, { name: 'apiKeys', description: 'API keys, oldest first, ended ones too.' })
  async list(
    @Ctx() ctx: Context,
    @Args(() => ApiKeysArguments) args: ApiKeysArguments,
  ): Promise<ConnectionOf<ApiKeyRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.apiKeys.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => IssuedApiKeyPayload, { description: 'Makes an API key and shows it, this once.' })
  createApiKey(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateApiKeyInput, { description: 'The key.' }) input: CreateApiKeyInput,
  ): Promise<IssuedApiKey> {
    return this.services.apiKeys.create(ctx, input);
  }

  @Mutation(() => IssuedApiKeyPayload, {
    description: 'Makes a successor with the same holder and scopes; the old key ends after the overlap.',
  })
  rotateApiKey(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateApiKeyInput, { description: 'The key to replace.' }) input: RotateApiKeyInput,
  ): Promise<IssuedApiKey> {
    return this.services.apiKeys.rotate(ctx, input);
  }

  @Mutation(() => ApiKey, { description: 'Ends an API key now.' })
  revokeApiKey(
    @Ctx() ctx: Context,
    @Arg('input', () => RevokeApiKeyInput, { description: 'The key.' }) input: RevokeApiKeyInput,
  ): Promise<ApiKeyRow> {
    return this.services.apiKeys.revoke(ctx, input);
  }

  @Mutation(() => BootstrapPayload, {
    description: 'Makes the first owner. Needs the bootstrap token, which opens once and only while there is no owner.',
  })
  bootstrap(
    @Ctx() ctx: Context,
    @Arg('input', () => BootstrapInput, { description: 'The token and whom to make.' }) input: BootstrapInput,
  ): Promise<Bootstrapped> {
    return this.services.bootstrap.bootstrap(ctx, input);
  }

  @FieldResolver(() => [Label], {
    nullable: true,
    description: 'It opens servers that carry all of these labels; null where no labels limit it.',
  })
  serverLabels(@Root() row: ApiKeyRow): Label[] | null {
    return row.serverLabels === null ? null : labelsFrom(row.serverLabels);
  }

  @FieldResolver(() => Principal, { description: 'Whom it identifies.' })
  principal(@Root() row: ApiKeyRow): Promise<PrincipalRow | undefined> {
    return this.services.principals.load(row.principalId);
  }
}
