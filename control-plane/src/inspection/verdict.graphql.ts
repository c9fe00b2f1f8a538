import type { FindingSeverity, PolicyDirection, PolicyEntry, PolicyMode, Verdict } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql';
import { FindingSeverityEnum } from '../catalog/definition-body.graphql.ts';
import { graphqlEnum, Json } from '../graphql-connection.ts';
import { PolicyDirectionEnum, PolicyModeEnum, PolicyRuleInput, TooLargeOutcomeEnum } from './policy.graphql.ts';

export const VerdictDecisionEnum = graphqlEnum<Verdict['decision']>('VerdictDecision', 'What came of a look.', {
  block: 'The message did not go on.',
  redact: 'What was found was replaced.',
  label: 'The message went on with a label.',
  allow: 'The message went on although nobody looked at it.',
  pass: 'A webhook let the message go on as it was.',
  modify: 'A webhook changed the message.',
});

@ObjectType({ description: 'Where in a message something was found.' })
export class VerdictPlace {
  @Field(() => String, {
    description: 'JSON pointer of the text, or header and its name; a member in whose name something was found is *.',
  })
  path!: string;

  @Field(() => Int, { description: 'First UTF-16 unit of the text.' })
  start!: number;

  @Field(() => Int, { description: 'UTF-16 unit after the last.' })
  end!: number;
}

@ObjectType({
  description: 'What a policy said of a message. It tells what kind of thing was found and where, never the thing.',
})
export class InspectionVerdict {
  @Field(() => ID, { nullable: true, description: 'The policy; null where what holds for every server decided.' })
  policyId!: string | null;

  @Field(() => PolicyModeEnum, { description: 'Whether the policy acted.' })
  mode!: PolicyMode;

  @Field(() => PolicyDirectionEnum, { description: 'Which way the message went.' })
  direction!: PolicyDirection;

  @Field(() => String, {
    description:
      'hiddenText, secret, personalData, injection or link; size and failure where there was no look; upstreamRequest for ' +
      'what a server asked; webhook where somebody outside was asked.',
  })
  detector!: Verdict['detector'];

  @Field(() => ID, { nullable: true, description: 'The webhook that was asked; null where none was.' })
  webhookId?: string | null;

  @Field(() => String, { description: 'Version of the detectors, or revision of the webhook.' })
  version!: string;

  @Field(() => VerdictDecisionEnum, { description: 'What came of it; in shadow, what would have come of it.' })
  decision!: Verdict['decision'];

  @Field(() => String, { description: 'Kind of what was found, such as githubToken, or why there was no look.' })
  reason!: string;

  @Field(() => FindingSeverityEnum, { nullable: true, description: 'How bad it is; null where nothing was found.' })
  severity!: FindingSeverity | null;

  @Field(() => Int, { description: 'How many were found.' })
  count!: number;

  @Field(() => [VerdictPlace], { description: 'Where, of the first 16.' })
  places!: VerdictPlace[];

  @Field(() => Float, { description: 'Milliseconds that the detector or the webhook took, for all policies together.' })
  durationMs!: number;
}

@InputType({ description: 'A message or a text to try a policy on: one of the two.' })
export class PolicySampleInput {
  @Field(() => PolicyDirectionEnum, { description: 'Which way it goes.' })
  direction!: PolicyDirection;

  @Field(() => Json, { nullable: true, description: 'A JSON-RPC message, as it would be sent.' })
  message?: unknown;

  @Field(() => String, {
    nullable: true,
    description: 'A text alone, as an argument or an item of content would hold it.',
  })
  text?: string | null;
}

@InputType({ description: 'A draft of a policy, or one that exists, and samples to try it on.' })
export class TestPolicyInput {
  @Field(() => ID, {
    nullable: true,
    description: 'A policy that exists; its match is left aside. Absent: rules are given.',
  })
  policyId?: string | null;

  @Field(() => [PolicyRuleInput], {
    nullable: true,
    description: 'Rules of the draft, or in the place of those of the policy.',
  })
  rules?: PolicyRuleInput[] | null;

  @Field(() => Int, { nullable: true, description: 'Most text of one sample that is looked at.' })
  inspectedLengthMax?: number | null;

  @Field(() => TooLargeOutcomeEnum, { nullable: true, description: 'What becomes of a sample with more text.' })
  onTooLarge?: PolicyEntry['onTooLarge'] | null;

  @Field(() => [PolicySampleInput], { description: 'At most 32, of 131072 characters together.' })
  samples!: PolicySampleInput[];
}

@ArgsType()
export class TestPolicyArguments {
  @Field(() => TestPolicyInput, { description: 'The draft and the samples.' })
  input!: TestPolicyInput;
}

@ObjectType({ description: 'What a policy in force would do to a sample.' })
export class PolicyTrial {
  @Field(() => Boolean, { description: 'Whether it would not go on.' })
  isBlocked!: boolean;

  @Field(() => [InspectionVerdict], { description: 'What the policy says of it.' })
  verdicts!: readonly Verdict[];

  @Field(() => Json, {
    nullable: true,
    description: 'The message as it would go on; null where it would not, and for a text.',
  })
  message!: unknown;

  @Field(() => String, {
    nullable: true,
    description: 'The text as it would go on; null where it would not, and for a message.',
  })
  text!: string | null;

  @Field(() => [String], { description: 'Detectors whose label it would get.' })
  labels!: readonly string[];
}
