import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import {
  CreateGrantInput,
  DeleteGrantInput,
  EndGrantInput,
  Grant,
  GrantConnection,
  GrantsArguments,
  GrantSubject,
  UpdateGrantInput,
} from './access.graphql.ts';
import type { GrantRow } from './access.tables.ts';
import type { GrantService } from './grant.service.ts';

@Resolver(() => Grant)
export class GrantResolver {
  private readonly grants: GrantService;

  constructor(grants: GrantService) {
    this.grants = grants;
  }

  @Query(() => Grant, { description: 'A grant by its id.' })
  grant(@Ctx() ctx: Context, @Arg('id', () => ID, { description: 'Id of the grant.' }) id: string): Promise<GrantRow> {
    return this.grants.get(ctx, id);
  }

  @Query(() => GrantConnection, { name: 'grants', description: 'Grants, oldest first.' })
  async list(@Ctx() ctx: Context, @Args(() => GrantsArguments) args: GrantsArguments): Promise<ConnectionOf<GrantRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.grants.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => Grant, { description: 'Makes a grant.' })
  createGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateGrantInput, { description: 'The grant.' }) input: CreateGrantInput,
  ): Promise<GrantRow> {
    return this.grants.create(ctx, input);
  }

  @Mutation(() => Grant, { description: 'Changes what a grant selects, its window, name or reason.' })
  updateGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateGrantInput, { description: 'The changes.' }) input: UpdateGrantInput,
  ): Promise<GrantRow> {
    return this.grants.update(ctx, input);
  }

  @Mutation(() => Grant, { description: 'Ends a grant now. It stays listed, with its window closed.' })
  endGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => EndGrantInput, { description: 'The grant.' }) input: EndGrantInput,
  ): Promise<GrantRow> {
    return this.grants.end(ctx, input);
  }

  @Mutation(() => Grant, { description: 'Deletes a grant; the audit trail keeps it.' })
  deleteGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteGrantInput, { description: 'The grant.' }) input: DeleteGrantInput,
  ): Promise<GrantRow> {
    return this.grants.delete(ctx, input);
  }

  @FieldResolver(() => GrantSubject, { description: 'Whom it is for.' })
  subject(@Root() row: GrantRow): GrantSubject {
    return { kind: row.subjectKind, id: row.subjectPrincipalId ?? row.subjectGroupId };
  }
}
