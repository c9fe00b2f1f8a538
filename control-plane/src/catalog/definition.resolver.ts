import { revealHiddenText, type ToolRisk } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { AccessChange, accessChangesDescription } from '../access/access.graphql.ts';
import type { Context } from '../context.ts';
import type { Reader } from '../database/client.ts';
import { type ConnectionOf, connectionFrom, DateTime, pageOf } from '../graphql-connection.ts';
import type { AccessDifference, AccessItem } from '../policy/access-changes.ts';
import { type DescribedChange, described, type PreviewService } from '../policy/preview.service.ts';
import {
  Definition,
  DefinitionConnection,
  DefinitionsArguments,
  Server,
  ToolLabels,
  ToolRiskEnum,
} from './catalog.graphql.ts';
import type { DefinitionRow, ServerRow } from './catalog.tables.ts';
import {
  ApproveDefinitionsInput,
  AskWebhooksInput,
  LabelDefinitionsInput,
  QuarantineDefinitionsInput,
  RejectDefinitionsInput,
} from './definition-inputs.graphql.ts';
import { DefinitionBody, DefinitionDrift, DefinitionVerdict } from './definition-body.graphql.ts';
import { differenceText } from './definition-difference.ts';
import type {
  ChangeDefinitions,
  DefinitionBody as StoredDefinitionBody,
  DefinitionDrift as ComparedDefinition,
  DefinitionService,
} from './definition.service.ts';
import type { ServerService } from './server.service.ts';

type DefinitionAnswer = DefinitionRow & { readonly accessChanges?: readonly DescribedChange[] | null };

/** The differences in one definition. */
function changesOf({ kind, name }: DefinitionRow, changes: readonly AccessDifference[]): DescribedChange[] {
  const own = (items: readonly AccessItem[]) => items.filter((item) => item.kind === kind && item.name === name);
  const differences = changes
    .map((one) => ({ ...one, gained: own(one.gained), lost: own(one.lost), changed: own(one.changed) }))
    .filter(({ gained, lost, changed }) => gained.length + lost.length + changed.length > 0);
  return described(differences);
}

@Resolver(() => Definition)
export class DefinitionResolver {
  private readonly service: DefinitionService;
  private readonly servers: ServerService;
  private readonly preview: PreviewService;

  constructor(services: {
    readonly definitions: DefinitionService;
    readonly servers: ServerService;
    readonly preview: PreviewService;
  }) {
    this.service = services.definitions;
    this.servers = services.servers;
    this.preview = services.preview;
  }

  @Query(() => Definition, { description: 'A definition by its id.' })
  definition(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the definition.' }) id: string,
  ): Promise<DefinitionRow> {
    return this.service.get(ctx, id);
  }

  @Query(() => DefinitionConnection, { description: 'Definitions of all servers, in the order they were first seen.' })
  async definitions(
    @Ctx() ctx: Context,
    @Args(() => DefinitionsArguments) args: DefinitionsArguments,
  ): Promise<ConnectionOf<DefinitionRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.service.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => [Definition], {
    description: 'Lets what was looked at of these definitions be served: all or none. Ends drift, and quarantine.',
  })
  approveDefinitions(
    @Ctx() ctx: Context,
    @Arg('input', () => ApproveDefinitionsInput, { description: 'The definitions.' }) input: ApproveDefinitionsInput,
  ): Promise<DefinitionAnswer[]> {
    return this.previewed(ctx, input, (tried) => this.service.approve(ctx, tried));
  }

  @Mutation(() => [Definition], {
    description:
      'Refuses what was looked at of these definitions, all or none, and remembers that. They are out of service until ' +
      'something is approved by hand.',
  })
  rejectDefinitions(
    @Ctx() ctx: Context,
    @Arg('input', () => RejectDefinitionsInput, { description: 'The definitions.' }) input: RejectDefinitionsInput,
  ): Promise<DefinitionAnswer[]> {
    return this.previewed(ctx, input, (tried) => this.service.reject(ctx, tried));
  }

  @Mutation(() => [Definition], { description: 'Takes definitions out of service until they are approved by hand.' })
  quarantineDefinitions(
    @Ctx() ctx: Context,
    @Arg('input', () => QuarantineDefinitionsInput, { description: 'The definitions.' })
    input: QuarantineDefinitionsInput,
  ): Promise<DefinitionAnswer[]> {
    return this.previewed(ctx, input, (tried) => this.service.quarantine(ctx, tried));
  }

  @Mutation(() => [Definition], { description: 'Says of tools what limits of grants go by: their risk, what they do.' })
  labelDefinitions(
    @Ctx() ctx: Context,
    @Arg('input', () => LabelDefinitionsInput, { description: 'The tools and their labels.' })
    input: LabelDefinitionsInput,
  ): Promise<DefinitionAnswer[]> {
    return this.previewed(ctx, input, (tried) => this.service.label(ctx, tried));
  }

  @Mutation(() => [Definition], {
    description:
      'Asks webhooks again about these definitions, whatever they said before. One that is denied is out of service ' +
      'until it is approved by hand. A dry run asks nobody.',
  })
  askWebhooksAboutDefinitions(
    @Ctx() ctx: Context,
    @Arg('input', () => AskWebhooksInput, { description: 'The definitions.' }) input: AskWebhooksInput,
  ): Promise<DefinitionAnswer[]> {
    return this.previewed(ctx, input, (tried) => this.service.askWebhooks(ctx, tried));
  }

  /** Each tells the differences in itself. */
  private async previewed<Input extends ChangeDefinitions>(
    ctx: Context,
    input: Input,
    change: (input: Input) => Promise<DefinitionRow[]>,
  ): Promise<DefinitionAnswer[]> {
    const concerns = (reader: Reader) => this.preview.serverConcerns(reader, [input.id]);
    const { row: rows, comparison } = await this.preview.run(ctx, input, concerns, change);
    const differences = comparison?.all();
    return rows.map((row) => ({ ...row, accessChanges: differences ? changesOf(row, differences) : null }));
  }

  @FieldResolver(() => [AccessChange], { nullable: true, description: accessChangesDescription })
  accessChanges(@Root() row: DefinitionAnswer): readonly DescribedChange[] | null {
    return row.accessChanges ?? null;
  }

  @FieldResolver(() => ToolLabels, { description: 'What an administrator says of it; only of tools.' })
  labels(@Root() row: DefinitionRow): ToolLabels {
    return row;
  }

  @FieldResolver(() => Server, { description: 'The server that defines it.' })
  server(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<ServerRow | null> {
    return this.servers.byId(ctx, row.serverId);
  }

  @FieldResolver(() => DateTime, { description: 'When it was seen last.' })
  async lastSeenAt(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<Date> {
    // What is still defined is not written again by each discovery.
    const server = row.removedAt === null ? await this.servers.byId(ctx, row.serverId) : null;
    return server?.discoveredAt ?? row.lastSeenAt;
  }

  @FieldResolver(() => [DefinitionBody], { description: 'What the server sends.' })
  seen(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<DefinitionBody[]> {
    return this.service.bodies(ctx, row.serverId, [...row.digests, ...row.reportedDigests]);
  }

  @FieldResolver(() => [DefinitionBody], { description: 'What may be served; compare with seen when it has drifted.' })
  approved(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<DefinitionBody[]> {
    return this.service.bodies(ctx, row.serverId, row.approvedDigests);
  }

  @FieldResolver(() => [DefinitionDrift], {
    description: 'How each wording that is sent and not approved differs from the nearest that is.',
  })
  drifts(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<DefinitionDrift[]> {
    return this.service.drifts(ctx, row);
  }

  @FieldResolver(() => [DefinitionVerdict], {
    description: 'What webhooks said of the wordings that are sent or approved: of each the latest, the oldest first.',
  })
  verdicts(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<DefinitionVerdict[]> {
    return this.service.verdicts(ctx, row);
  }

  @FieldResolver(() => ToolRiskEnum, {
    nullable: true,
    description:
      'A risk to begin with, told by its name and description, for labelDefinitions; null where it is no tool.',
  })
  suggestedRisk(@Ctx() ctx: Context, @Root() row: DefinitionRow): Promise<ToolRisk | null> {
    return this.service.suggestedRisk(ctx, row);
  }
}

@Resolver(() => DefinitionBody)
export class DefinitionBodyResolver {
  @FieldResolver(() => String, {
    description: 'The object as indented JSON, in which hidden characters are spelled out, such as ⟦U+200B⟧.',
  })
  revealed(@Root() body: StoredDefinitionBody): string {
    return JSON.stringify(body.raw, null, 2).split('\n').map(revealHiddenText).join('\n');
  }
}

@Resolver(() => DefinitionDrift)
export class DefinitionDriftResolver {
  @FieldResolver(() => String, {
    description:
      'The differences as a text, what was after a minus, what is after a plus, with hidden characters spelled out.',
  })
  text(@Root() drift: ComparedDefinition): string {
    return differenceText(drift.differences);
  }
}
