import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root, Subscription } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, PageArguments, pageOf } from '../graphql-connection.ts';
import {
  ConfigStatus,
  CreateJoinTokenInput,
  IssuedJoinTokenPayload,
  JoinToken,
  JoinTokenConnection,
  Node,
  NodeAlarm,
  NodeConnection,
  NodeStatusEnum,
  RemoveNodeInput,
  RevocationStatus,
  RevocationStatusArguments,
  RevokeJoinTokenInput,
  RotateSealingKeyInput,
  SealingKey,
} from './fleet.graphql.ts';
import type { JoinTokenRow, NodeAlarmRow, NodeRow, SealingKeyRow } from './fleet.tables.ts';
import type { IssuedJoinToken, JoinTokenService } from './join-token.service.ts';
import type { ConfigStatus as Status, Convergence, NodeService, NodeStatus } from './node.service.ts';

interface Services {
  readonly nodes: NodeService;
  readonly joinTokens: JoinTokenService;
}

@Resolver(() => Node)
export class FleetResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => Node, { description: 'A node by its id.' })
  node(@Ctx() ctx: Context, @Arg('id', () => ID, { description: 'Id of the node.' }) id: string): Promise<NodeRow> {
    return this.services.nodes.get(ctx, id);
  }

  @Query(() => NodeConnection, { description: 'Nodes of the fleet, in the order in which they joined.' })
  async nodes(@Ctx() ctx: Context, @Args(() => PageArguments) args: PageArguments): Promise<ConnectionOf<NodeRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.nodes.list(ctx, page), page, (row) => [row.id]);
  }

  @Query(() => ConfigStatus, { description: 'What is published, and on how many nodes it is live.' })
  configStatus(@Ctx() ctx: Context): Promise<Status> {
    return this.services.nodes.configStatus(ctx);
  }

  @Query(() => RevocationStatus, {
    description: 'Which nodes enforce a revision: what to wait for after a revocation.',
  })
  revocationStatus(
    @Ctx() ctx: Context,
    @Args(() => RevocationStatusArguments) args: RevocationStatusArguments,
  ): Promise<Convergence> {
    return this.services.nodes.convergence(ctx, args.configRevision);
  }

  @Query(() => JoinTokenConnection, { description: 'Join tokens, oldest first, ended ones too.' })
  async joinTokens(
    @Ctx() ctx: Context,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<JoinTokenRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.joinTokens.list(ctx, page), page, (row) => [row.id]);
  }

  @Query(() => [SealingKey], { description: 'Sealing keys, oldest first.' })
  sealingKeys(@Ctx() ctx: Context): Promise<SealingKeyRow[]> {
    return this.services.nodes.sealingKeys(ctx);
  }

  @Mutation(() => IssuedJoinTokenPayload, { description: 'Makes a join token and shows it, this once.' })
  createJoinToken(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateJoinTokenInput, { description: 'The token.' }) input: CreateJoinTokenInput,
  ): Promise<IssuedJoinToken> {
    return this.services.joinTokens.create(ctx, input);
  }

  @Mutation(() => JoinToken, { description: 'Ends a join token now; nodes that joined by it stay.' })
  revokeJoinToken(
    @Ctx() ctx: Context,
    @Arg('input', () => RevokeJoinTokenInput, { description: 'The token.' }) input: RevokeJoinTokenInput,
  ): Promise<JoinTokenRow> {
    return this.services.joinTokens.revoke(ctx, input);
  }

  @Mutation(() => Node, {
    description:
      'Ends the identity of a node: it is disconnected and its keys are refused. It goes on serving what it has until ' +
      'that is stale, so stop its process too.',
  })
  removeNode(
    @Ctx() ctx: Context,
    @Arg('input', () => RemoveNodeInput, { description: 'The node.' }) input: RemoveNodeInput,
  ): Promise<NodeRow> {
    return this.services.nodes.remove(ctx, input);
  }

  @Mutation(() => SealingKey, {
    description: 'Makes a new sealing key. It begins to seal by itself when every node has acknowledged it.',
  })
  rotateSealingKey(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateSealingKeyInput, { description: 'The rotation.' }) input: RotateSealingKeyInput,
  ): Promise<SealingKeyRow> {
    return this.services.nodes.rotateSealingKey(ctx, input);
  }

  @Subscription(() => Node, {
    topics: 'nodes',
    description: 'A node, each time its state or that of another one changed.',
  })
  nodeChanged(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the node.' }) id: string,
  ): Promise<NodeRow> {
    return this.services.nodes.get(ctx, id);
  }

  @Subscription(() => ConfigStatus, {
    topics: 'nodes',
    description: 'What is published and how far it has come, each time a node acknowledged, refused, came or went.',
  })
  configStatusChanged(@Ctx() ctx: Context): Promise<Status> {
    return this.services.nodes.configStatus(ctx);
  }

  @FieldResolver(() => NodeStatusEnum, { description: 'How it stands to the newest configuration.' })
  status(@Ctx() ctx: Context, @Root() row: NodeRow): Promise<NodeStatus> {
    return this.services.nodes.statusOf(ctx, row);
  }

  @FieldResolver(() => [NodeAlarm], { description: 'What it reported, newest first.' })
  async alarms(@Root() row: NodeRow): Promise<readonly NodeAlarmRow[]> {
    return (await this.services.nodes.alarmsOf(row.id)) ?? [];
  }
}
