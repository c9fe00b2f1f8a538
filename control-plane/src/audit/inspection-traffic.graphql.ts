import type { PolicyMode, Verdict } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, ObjectType } from 'type-graphql';
import { DateTime } from '../graphql-connection.ts';
import { PolicyModeEnum } from '../inspection/policy.graphql.ts';
import { VerdictDecisionEnum } from '../inspection/verdict.graphql.ts';

@ObjectType({ description: 'What a detector did on a server over a time range.' })
export class InspectionTraffic {
  @Field(() => ID, { description: 'Id of the server.' })
  serverId!: string;

  @Field(() => String, { description: 'Slug of the server.' })
  serverSlug!: string;

  @Field(() => String, { description: 'The detector, as verdicts name it.' })
  detector!: Verdict['detector'];

  @Field(() => VerdictDecisionEnum, {
    nullable: true,
    description: 'Of verdicts; null in the row of the looks of the detector themselves.',
  })
  decision!: Verdict['decision'] | null;

  @Field(() => PolicyModeEnum, { nullable: true, description: 'Whether the policies acted; null where decision is.' })
  mode!: PolicyMode | null;

  @Field(() => Float, { description: 'Findings so decided, or looks.' })
  count!: number;

  @Field(() => Float, { description: 'Mean time that the detector took, in milliseconds.' })
  durationMsMean!: number;
}

@ArgsType()
export class InspectionTrafficArguments {
  @Field(() => DateTime, { description: 'From then on, to the minute.' })
  from!: Date;

  @Field(() => DateTime, { description: 'Before; at most 31 days after from.' })
  to!: Date;

  @Field(() => ID, { nullable: true, description: 'Only this server.' })
  serverId?: string | null;
}
