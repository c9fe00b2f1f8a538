import { noAsks, type UpstreamAsks } from '@sallyport/schema';
import { Arg, Ctx, FieldResolver, Mutation, Resolver, Root } from 'type-graphql';
import type { Context } from '../context.ts';
import { Server } from './catalog.graphql.ts';
import type { ServerRow } from './catalog.tables.ts';
import { ServerAsks, UpdateServerAsksInput } from './server-asks.graphql.ts';
import type { ServerAsksService } from './server-asks.service.ts';

@Resolver(() => Server)
export class ServerAsksResolver {
  private readonly serverAsks: ServerAsksService;

  constructor({ serverAsks }: { readonly serverAsks: ServerAsksService }) {
    this.serverAsks = serverAsks;
  }

  @Mutation(() => Server, { description: 'Changes what a server may ask of clients.' })
  updateServerAsks(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateServerAsksInput, { description: 'The changes.' }) input: UpdateServerAsksInput,
  ): Promise<ServerRow> {
    return this.serverAsks.update(ctx, input);
  }

  @FieldResolver(() => ServerAsks, { description: 'What it may ask of clients.' })
  asks(@Root() { asks }: ServerRow): UpstreamAsks {
    return asks ?? noAsks;
  }
}
