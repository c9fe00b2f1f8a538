import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root, Subscription } from 'type-graphql';
import { AccessChange, accessChangesDescription } from '../access/access.graphql.ts';
import type { Context } from '../context.ts';
import type { Reader } from '../database/client.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import { type DescribedChange, described, type PreviewService } from '../policy/preview.service.ts';
import {
  DefinitionConnection,
  DiscoveryProblem,
  Label,
  labelsFrom,
  Server,
  ServerConnection,
  ServerDefinitionsArguments,
  ServerHealth,
  ServersArguments,
} from './catalog.graphql.ts';
import {
  CreateServerInput,
  CreateServersInput,
  UpdateServerInput,
  UpdateServersInput,
  ServerInput,
  ServersInput,
} from './server-inputs.graphql.ts';
import type { DefinitionRow, HealthRow, ServerRow } from './catalog.tables.ts';
import type { DefinitionService } from './definition.service.ts';
import type { DiscoveryJob } from './discovery.job.ts';
import type { HealthService } from './health.service.ts';
import type { ChangeServer, ChangeServers, ServerService } from './server.service.ts';

type ServerAnswer = ServerRow & { readonly accessChanges?: readonly DescribedChange[] | null };

export interface ServerResolverDependencies {
  readonly servers: ServerService;
  readonly definitions: DefinitionService;
  readonly discovery: DiscoveryJob;
  readonly health: HealthService;
  readonly preview: PreviewService;
}

const serverArgument = { description: 'The server.' } as const;
const serversArgument = { description: 'The servers.' } as const;

@Resolver(() => Server)
export class ServerResolver {
  private readonly deps: ServerResolverDependencies;

  constructor(deps: ServerResolverDependencies) {
    this.deps = deps;
  }

  @Query(() => Server, { description: 'A server by its id.' })
  server(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the server.' }) id: string,
  ): Promise<ServerRow> {
    return this.deps.servers.get(ctx, id);
  }

  @Query(() => ServerConnection, { description: 'Servers, oldest first.' })
  async servers(
    @Ctx() ctx: Context,
    @Args(() => ServersArguments) args: ServersArguments,
  ): Promise<ConnectionOf<ServerRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.deps.servers.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => Server, { description: 'Registers a server as a draft, and begins to discover it.' })
  createServer(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateServerInput, serverArgument) input: CreateServerInput,
  ): Promise<ServerRow> {
    return this.deps.servers.create(ctx, input);
  }

  @Mutation(() => [Server], { description: 'Registers several servers as drafts: all of them or none.' })
  createServers(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateServersInput, serversArgument) input: CreateServersInput,
  ): Promise<ServerRow[]> {
    return this.deps.servers.createMany(ctx, input);
  }

  @Mutation(() => Server, { description: 'Changes what is set of a server.' })
  updateServer(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateServerInput, { description: 'The changes.' }) input: UpdateServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.update(ctx, tried));
  }

  @Mutation(() => [Server], { description: 'Changes what is set of several servers: all of them or none.' })
  updateServers(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateServersInput, serversArgument) input: UpdateServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.updateMany(ctx, tried));
  }

  @Mutation(() => Server, { description: 'Asks for the approval of a draft.' })
  submitServer(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.move(ctx, tried, 'pending'));
  }

  @Mutation(() => [Server], { description: 'Asks for the approval of several drafts: all of them or none.' })
  submitServers(
    @Ctx() ctx: Context,
    @Arg('input', () => ServersInput, serversArgument) input: ServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.moveMany(ctx, tried, 'pending'));
  }

  @Mutation(() => Server, { description: 'Takes a pending or disabled server back to be worked on.' })
  returnServerToDraft(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.move(ctx, tried, 'draft'));
  }

  @Mutation(() => [Server], { description: 'Takes several servers back to be worked on: all of them or none.' })
  returnServersToDraft(
    @Ctx() ctx: Context,
    @Arg('input', () => ServersInput, serversArgument) input: ServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.moveMany(ctx, tried, 'draft'));
  }

  @Mutation(() => Server, {
    description:
      'Puts a server into service; its last discovery must have succeeded. From draft or pending, the definitions found ' +
      'are approved with it.',
  })
  approveServer(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.approve(ctx, tried));
  }

  @Mutation(() => [Server], {
    description: 'Puts several servers into service, as approveServer does: all of them or none.',
  })
  approveServers(
    @Ctx() ctx: Context,
    @Arg('input', () => ServersInput, serversArgument) input: ServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.approveMany(ctx, tried));
  }

  @Mutation(() => Server, { description: 'Marks a server as on its way out. It stays in service.' })
  deprecateServer(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.move(ctx, tried, 'deprecated'));
  }

  @Mutation(() => [Server], { description: 'Marks several servers as on their way out: all of them or none.' })
  deprecateServers(
    @Ctx() ctx: Context,
    @Arg('input', () => ServersInput, serversArgument) input: ServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.moveMany(ctx, tried, 'deprecated'));
  }

  @Mutation(() => Server, { description: 'Takes a server out of service.' })
  disableServer(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.move(ctx, tried, 'disabled'));
  }

  @Mutation(() => [Server], { description: 'Takes several servers out of service: all of them or none.' })
  disableServers(
    @Ctx() ctx: Context,
    @Arg('input', () => ServersInput, serversArgument) input: ServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.moveMany(ctx, tried, 'disabled'));
  }

  @Mutation(() => Server, { description: 'Deletes a server and its grants; the audit trail keeps it.' })
  deleteServer(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerAnswer> {
    return this.previewed(ctx, input, (tried) => this.deps.servers.delete(ctx, tried));
  }

  @Mutation(() => [Server], { description: 'Deletes several servers and their grants: all of them or none.' })
  deleteServers(
    @Ctx() ctx: Context,
    @Arg('input', () => ServersInput, serversArgument) input: ServersInput,
  ): Promise<ServerAnswer[]> {
    return this.previewedAll(ctx, input, (tried) => this.deps.servers.deleteMany(ctx, tried));
  }

  @Mutation(() => Server, {
    description:
      'Discovers a server now, and returns when that is done. A failure is no error: it stands in discoveryProblem.',
  })
  discoverServer(
    @Ctx() ctx: Context,
    @Arg('input', () => ServerInput, serverArgument) input: ServerInput,
  ): Promise<ServerRow> {
    return this.deps.discovery.discoverNow(ctx, input);
  }

  private async previewed<Input extends ChangeServer>(
    ctx: Context,
    input: Input,
    change: (input: Input) => Promise<ServerRow>,
  ): Promise<ServerAnswer> {
    const concerns = (reader: Reader) => this.deps.preview.serverConcerns(reader, [input.id]);
    const { row, comparison } = await this.deps.preview.run(ctx, input, concerns, change, true);
    return { ...row, accessChanges: comparison && described(comparison.all()) };
  }

  /** Of servers changed together each tells the differences on itself. */
  private async previewedAll<Input extends ChangeServers>(
    ctx: Context,
    input: Input,
    change: (input: Input) => Promise<ServerRow[]>,
  ): Promise<ServerAnswer[]> {
    const ids = input.items.map(({ id }) => id);
    const concerns = (reader: Reader) => this.deps.preview.serverConcerns(reader, ids);
    const { row: rows, comparison } = await this.deps.preview.run(ctx, input, concerns, change, true);
    const accessChanges = comparison && described(comparison.all());
    return rows.map((row) => {
      const own = accessChanges?.filter(({ serverId }) => serverId === row.id);
      return { ...row, accessChanges: own ?? null };
    });
  }

  @Subscription(() => [ServerHealth], {
    topics: 'serverHealth',
    description: 'The health of a server by observer, each time an observer finds some server changed.',
  })
  async serverHealthChanged(
    @Ctx() ctx: Context,
    @Arg('serverId', () => ID, { description: 'Id of the server.' }) serverId: string,
  ): Promise<HealthRow[]> {
    const { id } = await this.deps.servers.get(ctx, serverId);
    return this.deps.health.of(ctx, id);
  }

  @FieldResolver(() => [AccessChange], { nullable: true, description: accessChangesDescription })
  accessChanges(@Root() row: ServerAnswer): readonly DescribedChange[] | null {
    return row.accessChanges ?? null;
  }

  @FieldResolver(() => [Label], { description: 'Its labels, by key.' })
  labels(@Root() row: ServerRow): Label[] {
    return labelsFrom(row.labels).sort((left, right) => (left.key < right.key ? -1 : 1));
  }

  @FieldResolver(() => DiscoveryProblem, {
    nullable: true,
    description: 'Why the last discovery failed; null when it succeeded, or none was tried.',
  })
  discoveryProblem(@Root() row: ServerRow): DiscoveryProblem | null {
    if (row.discoveryProblem === null) return null;
    return { code: row.discoveryProblem, message: row.discoveryProblemMessage ?? '' };
  }

  @FieldResolver(() => [ServerHealth], { description: 'How each observer found it last.' })
  health(@Ctx() ctx: Context, @Root() row: ServerRow): Promise<HealthRow[]> {
    return this.deps.health.of(ctx, row.id);
  }

  @FieldResolver(() => DefinitionConnection, { description: 'What it defines, in the order it was first seen.' })
  async definitions(
    @Ctx() ctx: Context,
    @Root() row: ServerRow,
    @Args(() => ServerDefinitionsArguments) args: ServerDefinitionsArguments,
  ): Promise<ConnectionOf<DefinitionRow>> {
    const page = pageOf(args);
    const { kind, state, driftClass, name, includeRemoved } = args;
    const filter = { serverId: row.id, kind, state, driftClass, name, includeRemoved };
    return connectionFrom(await this.deps.definitions.list(ctx, filter, page), page, (found) => [found.id]);
  }
}
