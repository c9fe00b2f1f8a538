import { Args, Ctx, Query, Resolver, Subscription } from 'type-graphql';
import type { Context } from '../context.ts';
import { Traffic, TrafficArguments } from './audit.graphql.ts';
import { InspectionTraffic, InspectionTrafficArguments } from './inspection-traffic.graphql.ts';
import type {
  InspectionTraffic as InspectionRow,
  Traffic as TrafficRow,
  TrafficQueryService,
} from './traffic-query.service.ts';

@Resolver(() => Traffic)
export class TrafficResolver {
  private readonly traffics: TrafficQueryService;

  constructor(services: { readonly traffic: TrafficQueryService }) {
    this.traffics = services.traffic;
  }

  @Query(() => [Traffic], {
    description: 'Calls, success rate and latency over a time range, busiest first; at most 1000 rows.',
  })
  traffic(@Ctx() ctx: Context, @Args(() => TrafficArguments) args: TrafficArguments): Promise<TrafficRow[]> {
    return this.traffics.traffic(ctx, args, args.groupBy, args);
  }

  @Query(() => [InspectionTraffic], {
    description: 'What detectors and policies did over a time range, by server; at most 1000 rows.',
  })
  inspectionTraffic(
    @Ctx() ctx: Context,
    @Args(() => InspectionTrafficArguments) args: InspectionTrafficArguments,
  ): Promise<InspectionRow[]> {
    return this.traffics.inspections(ctx, args, args);
  }

  @Subscription(() => [Traffic], {
    topics: 'traffic',
    description: 'The same, each time nodes have reported: about every ten seconds while there are calls.',
  })
  trafficChanged(@Ctx() ctx: Context, @Args(() => TrafficArguments) args: TrafficArguments): Promise<TrafficRow[]> {
    return this.traffics.traffic(ctx, args, args.groupBy, args);
  }
}
