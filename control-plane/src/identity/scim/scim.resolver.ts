import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../../context.ts';
import { type ConnectionOf, connectionFrom, PageArguments, pageOf } from '../../graphql-connection.ts';
import type { ScimDirectoryService } from './directory.service.ts';
import {
  CreateScimDirectoryInput,
  CreateScimTokenInput,
  DeleteScimDirectoryInput,
  IssuedScimTokenPayload,
  RevokeScimTokenInput,
  RotateScimTokenInput,
  ScimDirectory,
  ScimDirectoryConnection,
  ScimToken,
  UpdateScimDirectoryInput,
} from './scim.graphql.ts';
import type { ScimDirectoryRow, ScimTokenRow } from './scim.tables.ts';
import type { IssuedScimToken, ScimTokenService } from './token.service.ts';

interface Services {
  readonly directories: ScimDirectoryService;
  readonly tokens: ScimTokenService;
}

@Resolver(() => ScimDirectory)
export class ScimResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => ScimDirectory, { description: 'A directory by its id.' })
  scimDirectory(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the directory.' }) id: string,
  ): Promise<ScimDirectoryRow> {
    return this.services.directories.get(ctx, id);
  }

  @Query(() => ScimDirectoryConnection, { description: 'Directories that push users and groups, oldest first.' })
  async scimDirectories(
    @Ctx() ctx: Context,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<ScimDirectoryRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.directories.list(ctx, page), page, (row) => [row.id]);
  }

  @Mutation(() => ScimDirectory, { description: 'Lets a directory in; it needs a token to push.' })
  createScimDirectory(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateScimDirectoryInput, { description: 'The directory.' }) input: CreateScimDirectoryInput,
  ): Promise<ScimDirectoryRow> {
    return this.services.directories.create(ctx, input);
  }

  @Mutation(() => ScimDirectory, { description: 'Renames a directory.' })
  updateScimDirectory(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateScimDirectoryInput, { description: 'The changes.' }) input: UpdateScimDirectoryInput,
  ): Promise<ScimDirectoryRow> {
    return this.services.directories.update(ctx, input);
  }

  @Mutation(() => ScimDirectory, {
    description: 'Parts from a directory: its tokens end; its users and groups stay and are managed here.',
  })
  deleteScimDirectory(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteScimDirectoryInput, { description: 'The directory.' }) input: DeleteScimDirectoryInput,
  ): Promise<ScimDirectoryRow> {
    return this.services.directories.delete(ctx, input);
  }

  @Mutation(() => IssuedScimTokenPayload, { description: 'Makes a token for a directory and shows it, this once.' })
  createScimToken(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateScimTokenInput, { description: 'The token.' }) input: CreateScimTokenInput,
  ): Promise<IssuedScimToken> {
    return this.services.tokens.create(ctx, input);
  }

  @Mutation(() => IssuedScimTokenPayload, {
    description: 'Makes a successor of a token; the old one ends after the overlap.',
  })
  rotateScimToken(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateScimTokenInput, { description: 'The token to replace.' }) input: RotateScimTokenInput,
  ): Promise<IssuedScimToken> {
    return this.services.tokens.rotate(ctx, input);
  }

  @Mutation(() => ScimToken, { description: 'Ends a token now.' })
  revokeScimToken(
    @Ctx() ctx: Context,
    @Arg('input', () => RevokeScimTokenInput, { description: 'The token.' }) input: RevokeScimTokenInput,
  ): Promise<ScimTokenRow> {
    return this.services.tokens.revoke(ctx, input);
  }

  @FieldResolver(() => [ScimToken], { description: 'Its tokens that may still be used, oldest first; at most ten.' })
  tokens(@Root() row: ScimDirectoryRow): Promise<readonly ScimTokenRow[]> {
    return this.services.tokens.liveOf(row.id);
  }
}
