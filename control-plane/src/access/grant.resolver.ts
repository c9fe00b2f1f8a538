import type { GrantSubject as Subject } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { Label, labelsFrom } from '../catalog/catalog.graphql.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import type { Reader } from '../database/client.ts';
import type { AccessComparison, Concern } from '../policy/access-changes.ts';
import { described, type DescribedChange, type Previewed, type PreviewService } from '../policy/preview.service.ts';
import { AccessChange, GrantSubject } from './access.graphql.ts';
import type { GrantRow } from './access.tables.ts';
import {
  CreateGrantInput,
  CreateGrantsInput,
  DeleteGrantInput,
  DeleteGrantsInput,
  EndGrantInput,
  Grant,
  GrantConnection,
  GrantsArguments,
  type NewGrantInput,
  UpdateGrantInput,
  UpdateGrantsInput,
} from './grant.graphql.ts';
import { subjectOf } from './grant-entry.ts';
import type { GrantService } from './grant.service.ts';

/** A grant, with what a dry run would change of whose access. */
type GrantAnswer = GrantRow & { readonly comparison?: AccessComparison | null };

function answerOf({ row, comparison }: Previewed<GrantRow>): GrantAnswer {
  return { ...row, comparison };
}

function answersOf({ row: rows, comparison }: Previewed<GrantRow[]>): GrantAnswer[] {
  return rows.map((row) => ({ ...row, comparison }));
}

function concernOf(row: Pick<GrantRow, 'serverId' | 'serverLabels'>, subject: Subject | undefined): Concern[] {
  if (subject === undefined) return [];
  if (row.serverLabels !== null) return [{ subject, servers: { labels: row.serverLabels } }];
  return row.serverId === null ? [] : [{ subject, servers: { ids: [row.serverId] } }];
}

function concernOfNew({ subject: { kind, id }, serverId, serverLabels }: NewGrantInput): Concern[] {
  const subject = kind === 'everyone' ? { kind } : { kind, id: id ?? '' };
  const labels = serverLabels?.map(({ key, value }) => [key, value] as const);
  return concernOf(
    { serverId: serverId ?? null, serverLabels: labels === undefined ? null : Object.fromEntries(labels) },
    subject,
  );
}

@Resolver(() => Grant)
export class GrantResolver {
  private readonly grants: GrantService;
  private readonly preview: PreviewService;

  constructor({ grants, preview }: { readonly grants: GrantService; readonly preview: PreviewService }) {
    this.grants = grants;
    this.preview = preview;
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
  async createGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateGrantInput, { description: 'The grant.' }) input: CreateGrantInput,
  ): Promise<GrantAnswer> {
    const concerns = async (): Promise<Concern[]> => concernOfNew(input);
    return answerOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.create(ctx, tried)));
  }

  @Mutation(() => Grant, { description: 'Changes a grant: all but subject, target and effect.' })
  async updateGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateGrantInput, { description: 'The changes.' }) input: UpdateGrantInput,
  ): Promise<GrantAnswer> {
    const concerns = (tx: Reader) => this.concernsOf(tx, [input]);
    return answerOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.update(ctx, tried)));
  }

  @Mutation(() => Grant, { description: 'Ends a grant now. It stays listed, with its window closed.' })
  async endGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => EndGrantInput, { description: 'The grant.' }) input: EndGrantInput,
  ): Promise<GrantAnswer> {
    const concerns = (tx: Reader) => this.concernsOf(tx, [input]);
    return answerOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.end(ctx, tried)));
  }

  @Mutation(() => Grant, { description: 'Deletes a grant; the audit trail keeps it.' })
  async deleteGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteGrantInput, { description: 'The grant.' }) input: DeleteGrantInput,
  ): Promise<GrantAnswer> {
    const concerns = (tx: Reader) => this.concernsOf(tx, [input]);
    return answerOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.delete(ctx, tried)));
  }

  @Mutation(() => [Grant], { description: 'Makes several grants: all of them or none.' })
  async createGrants(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateGrantsInput, { description: 'The grants.' }) input: CreateGrantsInput,
  ): Promise<GrantAnswer[]> {
    const concerns = async (): Promise<Concern[]> => input.items.flatMap(concernOfNew);
    return answersOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.createMany(ctx, tried)));
  }

  @Mutation(() => [Grant], { description: 'Changes several grants: all of them or none.' })
  async updateGrants(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateGrantsInput, { description: 'The changes.' }) input: UpdateGrantsInput,
  ): Promise<GrantAnswer[]> {
    const concerns = (tx: Reader) => this.concernsOf(tx, input.items);
    return answersOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.updateMany(ctx, tried)));
  }

  @Mutation(() => [Grant], { description: 'Deletes several grants: all of them or none.' })
  async deleteGrants(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteGrantsInput, { description: 'The grants.' }) input: DeleteGrantsInput,
  ): Promise<GrantAnswer[]> {
    const concerns = (tx: Reader) => this.concernsOf(tx, input.items);
    return answersOf(await this.preview.run(ctx, input, concerns, (tried) => this.grants.deleteMany(ctx, tried)));
  }

  @FieldResolver(() => [Label], {
    nullable: true,
    description: 'It is about every server that carries all of these labels; null where it names one server.',
  })
  serverLabels(@Root() row: GrantRow): Label[] | null {
    return row.serverLabels === null ? null : labelsFrom(row.serverLabels);
  }

  @FieldResolver(() => GrantSubject, { description: 'Whom it is for.' })
  subject(@Root() row: GrantRow): GrantSubject {
    return { kind: row.subjectKind, id: row.subjectPrincipalId ?? row.subjectGroupId };
  }

  @FieldResolver(() => [AccessChange], {
    nullable: true,
    description:
      'Difference in effective access for its subject, in the answer to a change with dryRun; null otherwise. Of grants ' +
      'changed together it is the difference by all of them.',
  })
  accessChanges(
    @Root() row: GrantAnswer,
    @Arg('alone', () => Boolean, {
      defaultValue: false,
      description: 'Of grants changed together, only the difference by this one itself.',
    })
    alone: boolean,
  ): readonly DescribedChange[] | null {
    if (row.comparison === undefined || row.comparison === null) return null;
    const subject = subjectOf(row);
    if (subject === undefined) return [];
    if (alone) return described(row.comparison.ofGrant(row.id, subject));
    const wanted = JSON.stringify(subject);
    return described(row.comparison.all().filter((change) => JSON.stringify(change.subject) === wanted));
  }

  /** Subject and target are fixed, and a grant that a dry run deletes still tells whom that concerns. */
  private async concernsOf(tx: Reader, items: readonly { readonly id: string }[]): Promise<Concern[]> {
    const ids = items.map(({ id }) => id);
    return (await this.grants.rows(tx, ids)).flatMap((row) => concernOf(row, subjectOf(row)));
  }
}
