import type { FindingSeverity, PolicyDirection, PolicyEntry, PolicyMode, Verdict } from '@sallyport/schema';
import { ArgsType, Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql';
import { AuditEventPayload } from '../capture/capture.graphql.ts';
import type { UntriedReason } from '../capture/payload-sample.service.ts';
import { FindingSeverityEnum } from '../catalog/definition-body.graphql.ts';
import { graphqlEnum, Json } from '../graphql-connection.ts';
import {
  PolicyDirectionEnum,
  PolicyMatchInput,
  PolicyModeEnum,
  PolicyRuleInput,
  TooLargeOutcomeEnum,
} from './policy.graphql.ts';

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

@InputType({
  description:
    'Captured payloads to try a policy on: of events that are named, or of the last exchanges. Needs payload:read; each ' +
    'payload that is opened is a read in the audit trail.',
})
export class CapturedSamplesInput {
  @Field(() => [ID], { nullable: true, description: 'Ids of audit events, at most 16; the match is left aside.' })
  eventIds?: string[] | null;

  @Field(() => Int, {
    nullable: true,
    description:
      'The last so many captured exchanges, 1 to 16, that the match fits as servers, risks and groups are now; looked for ' +
      'among the newest 2000.',
  })
  last?: number | null;

  @Field(() => [PolicyDirectionEnum], { nullable: true, description: 'Which messages; those captured if never given.' })
  directions?: PolicyDirection[] | null;

  @Field(() => String, { description: 'Why they are read, such as the number of a case; the audit trail keeps it.' })
  purpose!: string;
}

@InputType({ description: 'A draft of a policy, or one that exists, and samples to try it on.' })
export class TestPolicyInput {
  @Field(() => ID, {
    nullable: true,
    description: 'A policy that exists. Absent: rules are given.',
  })
  policyId?: string | null;

  @Field(() => PolicyMatchInput, {
    nullable: true,
    description:
      'What the draft is about, or in the place of the match of the policy; chooses among captured exchanges, and nothing else.',
  })
  match?: PolicyMatchInput | null;

  @Field(() => [PolicyRuleInput], {
    nullable: true,
    description: 'Rules of the draft, or in the place of those of the policy.',
  })
  rules?: PolicyRuleInput[] | null;

  @Field(() => Int, { nullable: true, description: 'Most text of one sample that is looked at.' })
  inspectedLengthMax?: number | null;

  @Field(() => TooLargeOutcomeEnum, { nullable: true, description: 'What becomes of a sample with more text.' })
  onTooLarge?: PolicyEntry['onTooLarge'] | null;

  @Field(() => [PolicySampleInput], {
    nullable: true,
    description: 'At most 32, of 131072 characters together. Absent: captured is given.',
  })
  samples?: PolicySampleInput[] | null;

  @Field(() => CapturedSamplesInput, { nullable: true, description: 'Captured payloads, in the place of samples.' })
  captured?: CapturedSamplesInput | null;
}

@ArgsType()
export class TestPolicyArguments {
  @Field(() => TestPolicyInput, { description: 'The draft and the samples.' })
  input!: TestPolicyInput;
}

export const UntriedReasonEnum = graphqlEnum<UntriedReason>(
  'UntriedReason',
  'Why a policy was not tried on a captured payload.',
  {
    notKept: 'There is none any more, or not yet: its state tells.',
    tooLarge: 'It has more than 131072 bytes, or with those before it more than 1048576.',
    unavailable: 'It does not open: the key-encryption key cannot be had, it was changed, or is gone meanwhile.',
  },
);

@ObjectType({ description: 'The captured payload that a policy was tried on, or was to be; not what it says.' })
export class TrialPayload extends AuditEventPayload {
  @Field(() => ID, { description: 'Id of the audit event.' })
  eventId!: string;
}

@ObjectType({ description: 'What a policy in force would do to a sample.' })
export class PolicyTrial {
  @Field(() => Boolean, {
    nullable: true,
    description:
      'Whether it would not go on; of a captured payload, whether one of its messages would not. Null where untried.',
  })
  isBlocked!: boolean | null;

  @Field(() => TrialPayload, { nullable: true, description: 'What it was tried on; null for a sample that was given.' })
  payload!: TrialPayload | null;

  @Field(() => UntriedReasonEnum, { nullable: true, description: 'Why it was not tried; null where it was.' })
  untried!: UntriedReason | null;

  @Field(() => [InspectionVerdict], { description: 'What the policy says of it.' })
  verdicts!: readonly Verdict[];

  @Field(() => Json, {
    nullable: true,
    description: 'The message as it would go on; null where it would not, for a text, and for what was captured.',
  })
  message!: unknown;

  @Field(() => String, {
    nullable: true,
    description: 'The text as it would go on; null where it would not, for a message, and for what was captured.',
  })
  text!: string | null;

  @Field(() => [String], { description: 'Detectors whose label it would get.' })
  labels!: readonly string[];
}
