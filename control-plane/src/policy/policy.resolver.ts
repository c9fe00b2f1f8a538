import { Arg, Args, Ctx, FieldResolver, Query, Resolver, Root } from 'type-graphql';
import { Grant } from '../access/grant.graphql.ts';
import type { GrantService } from '../access/grant.service.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import { Principal } from '../identity/identity.graphql.ts';
import type { PrincipalService } from '../identity/principal.service.ts';
import type {
  EffectiveAccessService,
  TargetUser as TargetUserRow,
  UsableTarget as UsableRow,
} from './effective-access.service.ts';
import type {
  AccessExplanation as Explained,
  ExplainService,
  GrantExplanation as GrantExplained,
} from './explain.service.ts';
import {
  AccessExplanation,
  ExplainAccessInput,
  GrantExplanation,
  PrincipalAccessArguments,
  TargetAccessArguments,
  TargetUser,
  TargetUserConnection,
  UsableTargetConnection,
} from './policy.graphql.ts';

interface PolicyServices {
  readonly explanations: ExplainService;
  readonly effectiveAccess: EffectiveAccessService;
  readonly grants: GrantService;
  readonly principals: PrincipalService;
}

@Resolver()
export class PolicyResolver {
  private readonly services: PolicyServices;

  constructor(services: PolicyServices) {
    this.services = services;
  }

  @Query(() => AccessExplanation, { description: 'What nodes decide about a request, by which grants, and why.' })
  explainAccess(
    @Ctx() ctx: Context,
    @Arg('input', () => ExplainAccessInput, { description: 'The request.' }) input: ExplainAccessInput,
  ): Promise<Explained> {
    const { kind, name, ...rest } = input;
    return this.services.explanations.explain(ctx, { ...rest, target: { kind, name } });
  }

  @Query(() => UsableTargetConnection, {
    description: 'What a principal may use, by server, kind and name: the tools, prompts and resources that are known.',
  })
  async effectiveAccess(
    @Ctx() ctx: Context,
    @Args(() => PrincipalAccessArguments) args: PrincipalAccessArguments,
  ): Promise<ConnectionOf<UsableRow>> {
    const page = pageOf(args, 3, false);
    const rows = await this.services.effectiveAccess.ofPrincipal(ctx, args, page);
    return connectionFrom(rows, page, ({ slug, kind, name }) => [slug, kind, name]);
  }

  @Query(() => TargetUserConnection, { description: 'Who may use a tool, prompt or resource, and by which grants.' })
  async targetAccess(
    @Ctx() ctx: Context,
    @Args(() => TargetAccessArguments) args: TargetAccessArguments,
  ): Promise<ConnectionOf<TargetUserRow>> {
    const page = pageOf(args);
    const { serverId, kind, name } = args;
    const rows = await this.services.effectiveAccess.ofTarget(ctx, serverId, { kind, name }, page);
    return connectionFrom(rows, page, ({ principalId }) => [principalId]);
  }
}

@Resolver(() => GrantExplanation)
export class GrantExplanationResolver {
  private readonly grants: GrantService;

  constructor({ grants }: PolicyServices) {
    this.grants = grants;
  }

  @FieldResolver(() => Grant, { description: 'The grant itself.' })
  grant(@Ctx() ctx: Context, @Root() { grantId }: GrantExplained): ReturnType<GrantService['byId']> {
    return this.grants.byId(ctx, grantId);
  }
}

@Resolver(() => TargetUser)
export class TargetUserResolver {
  private readonly services: PolicyServices;

  constructor(services: PolicyServices) {
    this.services = services;
  }

  @FieldResolver(() => Principal, { description: 'The principal.' })
  principal(@Root() { principalId }: TargetUserRow): ReturnType<PrincipalService['load']> {
    return this.services.principals.load(principalId);
  }

  @FieldResolver(() => [Grant], { description: 'The grants that decide: whom they are for says why.' })
  grants(
    @Ctx() ctx: Context,
    @Root() { grantIds }: TargetUserRow,
  ): Promise<Awaited<ReturnType<GrantService['byId']>>[]> {
    return Promise.all(grantIds.map((id) => this.services.grants.byId(ctx, id)));
  }
}
